"""What people and programs ask about a ledger, answered in JSON from a node's store: blocks, operations, accounts.

1. ``plain``: operations and headers as JSON.
2. ``blocks``: the last block, lists of blocks, a block, an operation, and a search for whatever a text names.
3. ``accounts``: balances, and an account's operations by the index of :mod:`chain.store.account_index`.
4. ``validators``: who votes in an epoch, and how much each took part.
5. ``flows``: who pays whom.

All lists come in pages. ``chain.cli`` prints these answers, and ``serving.admin`` serves them while the node runs.
Amounts are in micro-credits, times in ms since the Unix epoch.
"""
