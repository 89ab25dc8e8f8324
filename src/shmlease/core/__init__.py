"""Pure: no I/O, no clock, no threads. It decides and returns effects; the shells act."""
