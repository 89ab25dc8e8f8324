"""The ingest: text files to worker processes to leased shared memory to one HDF5 file."""
