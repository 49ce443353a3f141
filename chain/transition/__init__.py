"""The rules: how a block changes the state, and what makes it valid.

Read ``block`` (the whole of it), ``epochs`` (what is fixed for an epoch), ``operations`` (form and dispatch) with
``fees``, ``payments``, ``staking``, ``registration`` and ``validators``, then ``participation``, ``slashing``,
``epoch_processing``, and last ``restart`` (going on without a quorum).

Pure functions over ``state`` and ``types``. ``light``, ``store``, ``audit`` and ``consensus`` call them, so that a
node, a light client and an auditor apply the same rules.
"""
