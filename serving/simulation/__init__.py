"""A backend without a GPU, for simulations and tests: measured curves under trio's clock.

Read in this order:

1. ``gpu_curves``: how long a step of a serving engine takes, fitted to measurements (``gpu_parameters.toml``).
2. ``block_cache``: the key-value cache in blocks, and what requests share of it (pure).
3. ``continuous_batch``: which request has how many tokens at what time (pure).
4. ``modelled_requests``: the size of a request, and the bytes of an answer (pure).
5. ``modelled_backend``: all of it behind the interface of a backend.

Only benchmarks and tests import this package.
"""
