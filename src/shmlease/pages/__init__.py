"""HTML pages that need neither network nor script: the frame, the style and the charts that all reports share."""
