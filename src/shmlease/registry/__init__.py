"""The registry process."""
