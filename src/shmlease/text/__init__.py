"""Tables of text, read: schema, sources, blocks, parsers."""
