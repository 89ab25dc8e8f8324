"""Text files to shared arrays to one HDF5 file."""
