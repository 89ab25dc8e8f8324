"""The whole protocol in one process, on a simulated kernel that crashes, delays and stops it, reproducibly from a seed."""
