"""Hand-over of a pandas DataFrame by `put` and `get`, beside pickle through a Pipe and fastshare where it is installed; and
copy-on-write attachment beside a copy.

    python benchmarks/objects.py [--sizes 1MiB,64MiB] [--seconds 2] [--json FILE]
"""

from __future__ import annotations

import argparse

from shmlease.units import parse_bytes
from shmlease.verification.bench.objects import measure_attaching, measure_objects
from shmlease.verification.bench.report import print_or_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="64KiB,1MiB,64MiB")
    parser.add_argument("--seconds", type=float, default=2.0, help="per method and size")
    parser.add_argument("--json", default="", help="write the measurements here, for benchmarks/report.py")
    options = parser.parse_args()
    sizes = [parse_bytes(size) for size in options.sizes.split(",")]
    print_or_store([measure_objects(sizes, options.seconds), measure_attaching(sizes[-1], options.seconds)], options.json)


if __name__ == "__main__":
    main()
