"""The chain that the audit's benchmark makes is a valid one, and as long as asked for."""

from __future__ import annotations

from benchmarks.blockchain.verify import OPERATIONS_PER_BLOCK, measure


def test_the_audit_of_a_short_chain_is_measured() -> None:
    figures, charts = measure(seed=1, blocks=2, rounds=1)
    audited, signed, read = figures
    assert audited.value > 0 and audited.reference is not None and read.value > 0
    assert signed.value > audited.value, "certificates carry signatures too"
    assert charts[0].categories and OPERATIONS_PER_BLOCK > 100
