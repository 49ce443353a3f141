"""Which messages the loop of agreement need not see."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import pytest

from chain import crypto
from chain.types.votes import NO_BLOCK, VoteKind
from consensus.driver.message_checks import MessageChecks
from consensus.simplex.core import Simplex
from consensus.verifier import SignatureVerifier
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from tests.support.agreement.committee import Committee

BLOCK = bytes([7] * 32)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class CountingRuntime(SimulatedRuntime):
    """Counts what is handed to worker threads."""

    def __init__(self) -> None:
        super().__init__(0)
        self.calls = 0

    async def run_sync(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        self.calls += 1
        return await super().run_sync(function, *args)


def make_checks(core: Simplex, runtime: SimulatedRuntime | None = None) -> MessageChecks:
    verifier = SignatureVerifier(runtime or SimulatedRuntime(0))
    return MessageChecks(
        core.chain_id, verifier, lambda epoch: core if epoch == core.epoch else None, lambda block: True
    )


def test_a_certificate_is_old_news_once_all_that_it_says_is_known_and_then_changes_nothing() -> None:
    committee = Committee(7)
    core = committee.make_core(committee.get_follower(1, 2))
    core.start()
    checks = make_checks(core)
    certificate = committee.certify(VoteKind.NOTARIZE, 1, BLOCK, signers=5)
    assert not checks.is_old_news(certificate)
    assert core.on_message(certificate)
    assert checks.is_old_news(certificate) and core.on_message(certificate) == []
    core.on_message(committee.certify(VoteKind.FINALIZE, 1, BLOCK, signers=5))
    assert checks.is_old_news(certificate) and core.on_message(certificate) == []


def test_what_shows_a_vote_that_is_not_known_is_looked_at() -> None:
    """It may contradict another: whoever sent two votes is found by such certificates alone."""
    committee = Committee(7)
    core = committee.make_core(committee.get_follower(1, 2))
    core.start()
    checks = make_checks(core)
    core.on_message(committee.certify(VoteKind.NOTARIZE, 1, BLOCK, signers=5))
    assert not checks.is_old_news(committee.certify(VoteKind.NOTARIZE, 1, BLOCK, signers=6))
    assert not checks.is_old_news(committee.certify(VoteKind.NOTARIZE, 1, bytes([8] * 32), signers=5))
    assert not checks.is_old_news(committee.certify(VoteKind.NULLIFY, 1, NO_BLOCK, signers=5))


def test_votes_and_what_is_of_another_epoch_always_go_to_the_loop() -> None:
    committee, later = Committee(7), Committee(7, epoch=1)
    core = committee.make_core(committee.get_follower(1, 2))
    core.start()
    checks = make_checks(core)
    core.on_message(committee.certify(VoteKind.NOTARIZE, 1, BLOCK, signers=5))
    assert not checks.is_old_news(committee.vote(0, VoteKind.NOTARIZE, 1, BLOCK))
    assert not checks.is_old_news(later.certify(VoteKind.NOTARIZE, 1, BLOCK, signers=5))


def test_the_signature_of_a_vote_is_left_to_the_loop_and_those_of_a_certificate_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One is checked on the event loop in any case, and the core checks it as it comes to it."""
    committee = Committee(7)
    core = committee.make_core(committee.get_follower(1, 2))
    core.start()
    checks, checked = make_checks(core), 0
    verify = crypto.verify

    def count(*arguments: bytes) -> bool:
        nonlocal checked
        checked += 1
        return verify(*arguments)  # type: ignore[arg-type]

    async def main() -> None:
        await checks.verify(committee.vote(0, VoteKind.NOTARIZE, 1, BLOCK))
        assert checked == 0
        await checks.verify(committee.certify(VoteKind.NOTARIZE, 1, BLOCK, signers=5))
        assert checked == 5

    monkeypatch.setattr(crypto, "verify", count)
    run_simulation(1, main)


def test_many_votes_are_checked_in_a_thread() -> None:
    """Those that came early wait for their epoch, hundreds of them, and all may be forged."""
    committee = Committee(7)
    core = committee.make_core(committee.get_follower(1, 2))
    core.start()
    runtime = CountingRuntime()
    checks = make_checks(core, runtime)

    async def main() -> None:
        await checks.verify(*(committee.vote(signer, VoteKind.NOTARIZE, 1, BLOCK) for signer in range(5)))
        assert runtime.calls == 1

    run_simulation(1, main)
