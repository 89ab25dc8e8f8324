"""`python -m shmlease`."""

import os
import sys

# -m puts the current directory first: what lies there is not ours to run, as it is not with the command `shmlease`
if not sys.flags.safe_path and sys.path and os.path.samefile(sys.path[0] or os.curdir, os.curdir):
    del sys.path[0]

from shmlease.cli import main

main()
