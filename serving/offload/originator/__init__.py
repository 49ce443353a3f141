"""The side of an offload that asks and pays: whom to ask, how long to wait, whom to ask next.

Read in this order:

1. ``originator``: asks candidates in the order of ``choice`` (pure), which reads their past in ``executor_scores``
   (pure). Candidates come from the ``directory``, by the ``draws`` of the ledger. ``refusal`` says why no executor
   answered.
2. ``attempt``: the exchange with one executor, on ``attempt_terms``. ``dialer`` reaches it, ``received_answer`` (pure)
   says what is owed for what came, and ``decoding_share`` (pure) bounds the time that its answers take.
3. ``hold_time``, ``patience`` and ``silence`` (pure): how long a hold lasts, and how long to wait for an answer.
4. ``hedged_request``: a second executor while the first may still answer, within ``hedging`` (pure).

Imported by ``serving.dispatcher`` and ``node``.
"""
