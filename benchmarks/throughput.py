"""Round trips, throughput with 1 to 16 processes, and memory.

Quantified: (1) the wall time of a lease and its release, named and unnamed, beside SharedMemory, SharedMemoryManager and a
bare AF_UNIX ping-pong; (2) pages leased, written and released per second by 1 to 16 processes together, beside
SharedMemory; (3) memory of the registry process and its ledger against the number of live leases. Each says in its output
what exactly it is.

    python benchmarks/throughput.py [--clients 1,2,4,8,16] [--seconds 2] [--json FILE]
"""

from __future__ import annotations

import argparse

from shmlease.verification.bench.memory import measure_memory
from shmlease.verification.bench.report import print_or_store
from shmlease.verification.bench.roundtrip import measure_roundtrip, measure_throughput


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default="1,2,4,8,16")
    parser.add_argument("--seconds", type=float, default=2.0, help="per figure")
    parser.add_argument("--json", default="", help="write the measurements here, for benchmarks/report.py")
    options = parser.parse_args()
    clients = [int(count) for count in options.clients.split(",")]
    measurements = [
        measure_roundtrip(options.seconds),
        measure_throughput(clients, options.seconds),
        measure_memory(),
    ]
    print_or_store(measurements, options.json)


if __name__ == "__main__":
    main()
