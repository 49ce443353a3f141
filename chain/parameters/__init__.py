"""What the founders of a chain decide: the constants in its genesis, and whether they can work.

``parameters`` has all of them, with ``duels`` and ``checks`` of the model as parts. ``duel_economics`` and
``check_economics`` refuse numbers by which lying would pay, or by which a duel or a check would pay out more than it
brings in.

Imports of chain only ``types`` and ``state`` (for the test by which checks are judged), and what is below them.
``genesis`` reads the constants and has them checked; ``transition`` applies them.
"""
