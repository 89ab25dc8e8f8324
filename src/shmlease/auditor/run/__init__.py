"""Runs any command and reports what it left in shared memory: in a /dev/shm of its own, or watched in the shared one."""
