"""The market: an OpenAI API whose requests are served here or offloaded to other nodes, and paid for.

Read in this order:

1. ``openai`` and ``http``: what a request and an answer are, and how they come and go.
2. ``backends``, ``scheduling``: where answers are made, the queues in front, and the owner's policy.
3. ``accounting``: holds, captures, receipts and stake on the ledger.
4. ``offload``: the two sides of an offloaded request.
5. ``quality``: judges of answers, and duels.
6. ``api``, ``dispatcher``, ``advertiser``: what joins them, for users and for other nodes.
7. ``config``, ``admin``, ``cli``: the owner's side. ``daemon``: the node as a process.
8. ``simulation``: a modelled GPU in place of a backend.

Only ``node`` imports this package, and benchmarks and tests.
"""
