"""What the tests and the benchmarks share: worlds, clusters of processes, fakes, keys, and waiting.

No module here is a test, and nothing here imports one.
"""
