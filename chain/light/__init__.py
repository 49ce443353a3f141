"""Following and checking a chain without executing it.

``client`` verifies the last header of every epoch by the committee that the header before it names. ``proofs`` checks
an account or an operation against a trusted header.

It uses the rules of finality in ``transition``. ``store``, ``audit``, ``consensus.sync`` and the command line import
it.
"""
