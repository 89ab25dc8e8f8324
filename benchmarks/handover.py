"""Hand-over of one array to another process and back to free, 256 B to 256 MiB, beside every peer that is installed.

Quantified: the median wall time of one cycle, in seconds and as a ratio to the stdlib idiom of the same run; see
`shmlease.verification.bench.handover.QUANTIFIES` for what a cycle is. Peers: the stdlib's SharedMemory,
SharedMemoryManager, pickle through a Pipe, and iceoryx2, SharedArray, vineyard (the extra `shmlease[bench]`) and torch
where they are installed; a memory copy of the same array, by one thread, is what the others cannot be below. Methods take
turns in blocks within one run, since machines are shared and noisy.

    python benchmarks/handover.py [--sizes 4KiB,1MiB,64MiB] [--seconds 2] [--subjects shmlease,iceoryx2] [--json FILE]
"""

from __future__ import annotations

import argparse

from shmlease.units import parse_bytes
from shmlease.verification.bench.handover import measure_handover
from shmlease.verification.bench.report import print_or_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="256B,4KiB,64KiB,1MiB,16MiB,64MiB,256MiB")
    parser.add_argument("--seconds", type=float, default=2.0, help="per method and size")
    parser.add_argument("--subjects", default="", help="only these, separated by commas")
    parser.add_argument("--json", default="", help="write the measurement here, for benchmarks/report.py")
    options = parser.parse_args()
    subjects = [subject for subject in options.subjects.split(",") if subject]
    sizes = [parse_bytes(size) for size in options.sizes.split(",")]
    print_or_store([measure_handover(sizes, options.seconds, subjects or None)], options.json)


if __name__ == "__main__":
    main()
