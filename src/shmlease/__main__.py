"""`python -m shmlease`."""

from shmlease.cli import main

main()
