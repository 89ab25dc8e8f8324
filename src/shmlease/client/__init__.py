"""The client: what user code imports."""
