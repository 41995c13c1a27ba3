"""Speed and memory, as ratios to a reference of the same run: `python -m benchmarks --help`."""
