"""Invitations: what is read is what was written, and whatever else is one clear refusal."""

from __future__ import annotations

import base64
import random
import zlib
from dataclasses import replace

import pytest

from chain import crypto
from serving.config.invitation import PREFIX, Invitation, InvitationError, make_invitation, parse_invitation
from tests.support.consensus_world import make_equal_genesis
from tests.support.keys import make_key

GENESIS = make_equal_genesis(4)
PEERS = [f"/ip4/192.0.2.{number}/tcp/4001/p2p/{make_key(number).address}" for number in (1, 2, 3)]
CHECKPOINT = f"12:{'ab' * 32}"
INVITATION = make_invitation(GENESIS, [*PEERS, PEERS[0]], CHECKPOINT)
TEXT = INVITATION.format()


def wrap(content: bytes) -> str:
    raw = crypto.hash_bytes("invitation", content)[:8] + content
    return PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def test_an_invitation_is_one_line_and_says_all() -> None:
    assert " " not in TEXT and "\n" not in TEXT and len(TEXT) < 1_500
    assert parse_invitation(TEXT) == INVITATION
    assert INVITATION.bootstrap == tuple(PEERS) and INVITATION.genesis.chain_id == GENESIS.chain_id
    folded = "\n ".join(TEXT[place : place + 70] for place in range(0, len(TEXT), 70))
    assert parse_invitation(f"  {folded}\n\n") == INVITATION, "a mail program may break it"


def test_a_changed_or_lost_letter_is_named() -> None:
    chance = random.Random(1)
    for place in range(len(PREFIX), len(TEXT), 7):
        letter = chance.choice([letter for letter in "ABCxyz019" if letter != TEXT[place]])
        for wrong in (TEXT[:place] + letter + TEXT[place + 1 :], TEXT[:place] + TEXT[place + 1 :], TEXT[:place]):
            try:
                assert parse_invitation(wrong) == INVITATION  # bits of the last letter that mean nothing
                assert place >= len(TEXT) - 1
            except InvitationError as error:
                assert "damaged" in str(error)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no invitation"),
        ("genesis.json", "no invitation"),
        (PREFIX, "damaged"),
        (PREFIX + "é", "damaged"),
        (wrap(b""), "damaged"),
        (wrap(b"not compressed"), "damaged"),
        (wrap(zlib.compress(b"no record")), "another version"),
        (wrap(zlib.compress(bytes(9 << 20))), "damaged"),
        (wrap(zlib.compress(INVITATION.encode())[:-5]), "damaged"),
    ],
)
def test_what_is_no_invitation_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(InvitationError, match=reason):
        parse_invitation(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"bootstrap": ("/ip4/192.0.2.1/tcp/4001",)},
        {"bootstrap": ("/ip4/0.0.0.0/tcp/4001/p2p/" + make_key(1).address,)},
        {"checkpoint": "soon"},
        {"genesis": replace(GENESIS, accounts=GENESIS.accounts[:1] * 2)},
    ],
)
def test_a_well_formed_invitation_that_makes_no_node_is_refused(changes: dict[str, object]) -> None:
    strange: Invitation = replace(INVITATION, **changes)  # type: ignore[arg-type]
    with pytest.raises(InvitationError, match="cannot be used"):
        parse_invitation(strange.format())


def test_an_invitation_names_somebody() -> None:
    with pytest.raises(InvitationError, match="no address"):
        make_invitation(GENESIS, [])
