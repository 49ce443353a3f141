"""The same-model check: whether an answer came from the weights that its executor declares.

The executor asks its backend for log-probabilities beside each answer and keeps them as a *transcript*: the tokens, and
the five likeliest tokens at each place. A *scorer*, another node with the same declared weights, has its own backend
score the same tokens at drawn positions. Two statistics compare the two. Honest pairs differ a little, by rounding in
other kernels and batches; other weights differ more. One check proves nothing: failed checks add up in a sequential
test for each account and identity.

Read in this order:

1. ``identity``: what a node declares; only equal declarations are compared.
2. ``transcript``: the record, its canonical bytes and its commitment.
3. ``logprob_tap``: takes the log-probabilities out of an answer as it passes; the user sees none. ``answer_text``:
   whether a transcript is that of an answer.
4. ``sampling``: which requests can be checked, and at which temperature.
5. ``scoring``: the interface of a scorer, and the draw of positions. ``prompt_logprobs`` (vLLM, SGLang) and
   ``one_token`` (llama.cpp) are its two ways, and ``engines`` finds out which one a backend offers.
6. ``statistics``: how far a transcript and its scores are apart.
7. ``calibration``: thresholds from honest pairs, with a bound on how often honest checks exceed them.
8. ``checking``: one whole check of one backend by another.

When failed checks are proof, the ledger decides (:mod:`chain.state.sequential_test`).

Everything but the ways of scoring and ``checking`` is pure.
"""
