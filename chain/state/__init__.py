"""What the ledger holds after a block: records under keys, committed to by one root.

Read ``records`` and ``keys``, ``beacon`` (randomness), ``lottery`` (executors), then ``state``: the immutable map, and
the overlay that collects the changes of a block.

It imports ``types`` and ``merkle`` and states no rule of an operation. ``genesis``, ``transition`` and everything above
import it.
"""
