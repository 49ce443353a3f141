"""Messages on the wire: each comes back as it was, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.exceptions import CodecError
from chain.types.blocks import sign_proposal
from chain.types.votes import VoteKind
from consensus.simplex.messages import Message, Propose, Repropose, decode_message, encode_message
from tests.support.agreement.committee import Committee


def make_messages() -> list[Message]:
    committee = Committee(4, last_height=1)
    block = committee.build(committee.get_leader(1), 1)
    notarization = committee.certify(VoteKind.NOTARIZE, 1, block.id)
    leader = committee.get_leader(3)
    again = Repropose(
        sign_proposal(leader, committee.chain_id, 0, 3, block.id),
        notarization,
        (committee.certify(VoteKind.NULLIFY, 2),),
    )
    proposal = sign_proposal(committee.get_leader(1), committee.chain_id, 0, 1, block.id)
    return [Propose(proposal, block), again, committee.vote(0, VoteKind.NULLIFY, 4), notarization]


@pytest.mark.parametrize("message", make_messages(), ids=lambda message: type(message).__name__)
def test_round_trip(message: Message) -> None:
    raw = encode_message(message)
    assert decode_message(raw) == message
    assert message.epoch == 0
    for wrong in (raw[:-1], raw + b"\0", bytes([raw[0] % 4 + 1]) + raw[1:], b"\x09" + raw[1:]):
        with pytest.raises(CodecError):
            decode_message(wrong)


@given(st.binary(max_size=200))
def test_garbage_is_refused(raw: bytes) -> None:
    with pytest.raises(CodecError):
        decode_message(raw)
