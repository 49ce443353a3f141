"""Which messages the loop of agreement need not see."""

from __future__ import annotations

from chain.types.votes import NO_BLOCK, VoteKind
from consensus.driver.message_checks import MessageChecks
from consensus.simplex.core import Simplex
from consensus.verifier import SignatureVerifier
from p2p.simulation.runtime import SimulatedRuntime
from tests.support.agreement.committee import Committee

BLOCK = bytes([7] * 32)


def make_checks(core: Simplex) -> MessageChecks:
    verifier = SignatureVerifier(SimulatedRuntime(0))
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
