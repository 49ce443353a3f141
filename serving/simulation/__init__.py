"""A backend without a GPU, for simulations and tests: measured curves under trio's clock.

Read in this order:

1. ``gpu_curves``: how long a step of a serving engine takes, fitted to measurements.
2. ``continuous_batch``: which request has how many tokens at what time (pure).
3. ``modelled_backend``: both behind the interface of a backend.

Only benchmarks and tests import this package.
"""
