"""One program per claim: ``python -m benchmarks.NAME [--quick] [--json FILE]`` prints one table and writes JSON."""
