"""The node's account: what it pays, what it is paid, and the stake that it keeps.

Read in this order:

1. ``payer``, with ``hold_numbers`` (pure) and ``max_captures``: the holds that the node makes.
2. ``payee``: the deliveries that it captures.
3. ``payments``: both, following the ledger; ``submitter`` and ``receipts`` are their helpers.
4. ``payment_history`` (pure): what each payer has paid; ``credit_line``: how much it gets before a payment is final;
   ``unpaid_offers``: how many it may leave unpaid meanwhile.
5. ``wallet``, ``stake_keeper``, ``registration``: operations that carry the account's nonce, and a newcomer's proof.

``serving.offload`` and what lies above it import this package, which imports no other of ``serving``.
"""
