"""A leader that builds on a block from before a long halt, although a later one is notarized or even final.

A body shows no more than the last nullifications, so that the audit cannot tell; the voters must.
"""

from __future__ import annotations

import pytest

from chain.types.blocks import MAX_NULLIFICATIONS, Block
from chain.types.votes import VoteKind
from consensus.simplex.core import Simplex
from consensus.simplex.messages import ExecuteBlock, PersistVote
from tests.adversarial.voters.flip_flopper import Gullible
from tests.support.agreement.committee import Committee

pytestmark = pytest.mark.double_spend

HALT = MAX_NULLIFICATIONS + 4


def attack(core: type[Simplex], *, is_final: bool) -> tuple[set[bytes], Block, Block]:
    """Three honest validators of four go through it; which blocks they notarize in the last view, a and its rival b.

    Block ``a`` of view 2 is notarized (and final, for the others); views after it are nullified. The leader then
    proposes ``b`` on the parent of ``a``. View 2 has no nullification; the body of ``b`` need not show one.
    """
    committee = Committee()
    view = 2 + HALT
    leader = committee.keys.index(committee.get_leader(view))
    a = committee.build(committee.get_leader(2), 2, nullifications=(committee.certify(VoteKind.NULLIFY, 1),))
    nullifications = [committee.certify(VoteKind.NULLIFY, skipped) for skipped in range(3, view)]
    b = committee.build(
        committee.keys[leader], view, nullifications=tuple(nullifications[-MAX_NULLIFICATIONS:]), timestamp=5
    )
    backed: set[bytes] = set()
    for number in range(4):
        if number == leader:
            continue
        honest = committee.make_core(number, core)
        honest.start()
        honest.on_message(committee.certify(VoteKind.NULLIFY, 1))
        honest.on_message(committee.propose(a))
        honest.on_executed(a.id, True)
        honest.on_message(committee.certify(VoteKind.NOTARIZE, 2, a.id))
        if is_final:
            honest.on_message(committee.certify(VoteKind.FINALIZE, 2, a.id))
        for certificate in nullifications:
            honest.on_message(certificate)
        assert honest.view == view
        effects = honest.on_message(committee.propose(b))
        effects += [
            e for check in effects if isinstance(check, ExecuteBlock) for e in honest.on_executed(check.block.id, True)
        ]
        backed |= {e.vote.block_id for e in effects if isinstance(e, PersistVote) and e.vote.view == view}
    return backed, a, b


@pytest.mark.parametrize("is_final", [False, True])
def test_no_validator_votes_for_it(is_final: bool) -> None:
    backed, _, b = attack(Simplex, is_final=is_final)
    assert b.id not in backed


def test_who_would_believe_the_body_alone_forks_the_chain() -> None:
    """While the block before is merely notarized here: it may be final elsewhere."""
    backed, a, b = attack(Gullible, is_final=False)
    assert backed == {b.id}
    assert a.header.parent_id == b.header.parent_id
