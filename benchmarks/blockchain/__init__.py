"""The ledger: operations per second (``ledger``), an audit (``verify``), commands and readers (``commands``), and what
an adversary gains from the randomness (``beacon``).
"""
