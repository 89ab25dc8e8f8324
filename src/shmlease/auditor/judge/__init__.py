"""Pure: from evidence to findings; no I/O, no clock."""
