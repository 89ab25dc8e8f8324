"""Measurements beside named references, in the same run: what `shmlease bench` and the scripts of benchmarks/ share."""
