"""What the ledger holds after a block: records under keys, committed to by one root.

1. ``records`` and ``keys``: what is held, and under which keys.
2. ``beacon``: the random value that all draws come from.
3. ``lottery``: the executors of a serving period, and the order in which they are drawn.
4. ``state``: the immutable map, and the overlay that collects the changes of a block.

It imports ``types`` and ``merkle`` and states no rule of an operation. ``genesis``, ``transition`` and everything above
import it.
"""
