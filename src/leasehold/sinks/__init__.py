"""Where arrays go: HDF5."""
