"""The side of an offload that asks and pays: whom to ask, how long to wait, whom to ask next.

Read in this order:

1. ``originator``: draws candidates, and asks them in the order of ``choice`` (pure), which reads ``executor_scores``
   (pure): what each has done before. ``refusal`` says why no executor answered.
2. ``attempt``: the exchange with one executor, on ``attempt_terms``. ``dialer`` reaches it, and ``decoding_share``
   (pure) bounds the time that its answers take.
3. ``patience`` and ``silence`` (pure): how long it is waited for.
4. ``hedged_request``: a second executor while the first may still answer, within ``hedging`` (pure).

Imported by ``serving.dispatcher`` and ``node``.
"""
