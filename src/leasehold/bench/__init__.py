"""Measurements beside named references, in the same run: what `leasehold bench` and the scripts of benchmarks/ share."""
