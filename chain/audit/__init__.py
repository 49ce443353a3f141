"""Checking a whole chain again, exporting it, and making proofs from it.

1. ``sources``: where a chain is read from.
2. ``report`` and ``draws``: what is found.
3. ``audit``: the check, by the rules in ``transition`` that every node runs.
4. ``export``: a whole chain in one file.
5. ``proof_builder``: makes the proofs that :mod:`chain.light.proofs` checks.

It trusts only the genesis file and a checkpoint. ``chain.cli``, ``consensus.sync`` (for the chain of a running node)
and ``serving.cli`` import it.
"""
