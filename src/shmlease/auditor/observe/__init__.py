"""Reads /proc, /dev/shm and the lease tables, and asks the kernel who holds what: the evidence of an audit."""
