"""Checking a whole chain again, exporting it, and making proofs from it.

Read ``sources`` (where a chain is read from), ``report`` and ``draws`` (what is found), then ``audit``. ``export``
writes a chain to one file, ``proof_builder`` makes the proofs that :mod:`chain.light.proofs` checks.

It trusts only the genesis file and a checkpoint. The command line, ``serving.cli`` and ``node`` import it.
"""
