"""Benchmarks: asyncart and its peers, side by side, in one run. Start with `python -m bench --help`."""
