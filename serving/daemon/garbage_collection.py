"""How often the interpreter searches for objects that only refer to each other (CPython's :mod:`gc`)."""

from __future__ import annotations

import gc

THRESHOLDS = 2_000, 10, 10
"""Objects made and not freed before the youngest are searched, and how often each generation is before the next.

No more than these: what an executor knows of a request ends in a cycle of some 75 objects, with its body, which may
have 4 MiB.
"""


def spare_what_was_loaded() -> None:
    """Exclude all present objects from garbage collection, and collect new ones less often than by default.

    By default the youngest are searched after every 700 new objects, and now and then all objects, modules and ledger
    included: tenths of a second in which nothing else runs. An answer that passes by in pieces makes and frees objects
    all the time, few of them in cycles.
    """
    gc.collect()  # what is garbage now would stay for good
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
