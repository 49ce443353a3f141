"""Announcements: signature, bounds, order, times."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.exceptions import CodecError
from p2p.peers.announcement import (
    MAX_AHEAD_MS,
    MAX_ANNOUNCEMENT_BYTES,
    MAX_BEHIND_MS,
    MAX_LIFETIME_MS,
    Announcement,
    PeerLoad,
    decode_announcement,
    sign_announcement,
)
from tests.support.keys import make_key

KEY = make_key("node")
CHAIN = b"c" * 32
NOW = 1_700_000_000_000
FULL = Announcement(
    peer=KEY.public_key,
    incarnation=NOW - 1000,
    sequence=NOW,
    leaving=False,
    addresses=tuple(f"/ip4/192.0.2.{number}/tcp/4001".ljust(256, "x") for number in range(8)),
    relays=tuple(f"/dns/relay{number}.example/tcp/1/p2p-circuit".ljust(256, "x") for number in range(4)),
    models=tuple(f"model-{number}".ljust(128, "x") for number in range(16)),
    load=PeerLoad(1, 2, 1000),
    expires_after=35_000,
    signature=bytes(64),
)


def test_a_signed_announcement_survives_the_wire_however_full() -> None:
    signed = sign_announcement(KEY, CHAIN, FULL)
    raw = signed.encode()
    assert len(raw) <= MAX_ANNOUNCEMENT_BYTES
    assert decode_announcement(raw, CHAIN) == signed
    assert sign_announcement(KEY, CHAIN, signed) == signed


@pytest.mark.parametrize(
    "change",
    [
        {"peer": make_key("other").public_key},
        {"incarnation": 7},
        {"sequence": NOW + 1},
        {"leaving": True},
        {"addresses": ()},
        {"relays": ()},
        {"models": ("other",)},
        {"load": PeerLoad()},
        {"expires_after": 36_000},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_is_signed(change: dict[str, object]) -> None:
    forged = replace(sign_announcement(KEY, CHAIN, FULL), **change)  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="not signed"):
        decode_announcement(forged.encode(), CHAIN)


def test_an_announcement_belongs_to_one_chain() -> None:
    with pytest.raises(CodecError, match="not signed"):
        decode_announcement(sign_announcement(KEY, CHAIN, FULL).encode(), b"d" * 32)


@pytest.mark.parametrize(
    "change",
    [
        {"addresses": ("a",) * 9},
        {"addresses": ("a" * 257,)},
        {"addresses": ("",)},
        {"relays": ("a",) * 5},
        {"models": ("m",) * 17},
        {"models": ("m" * 129,)},
        {"load": PeerLoad(utilization=1001)},
        {"load": PeerLoad(running=-1)},
        {"leaving": 1},
        {"expires_after": 0},
        {"expires_after": MAX_LIFETIME_MS + 1},
    ],
)
def test_bounds(change: dict[str, object]) -> None:
    with pytest.raises(CodecError):
        sign_announcement(KEY, CHAIN, replace(FULL, **change))  # type: ignore[arg-type]


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(CodecError):
        decode_announcement(garbage, CHAIN)


def test_order_is_incarnation_then_goodbye_then_sequence() -> None:
    in_order = [
        replace(FULL, incarnation=1, sequence=5),
        replace(FULL, incarnation=1, sequence=6),
        replace(FULL, incarnation=1, sequence=4, leaving=True),
        replace(FULL, incarnation=2, sequence=3),
    ]
    assert sorted(in_order, key=lambda announcement: announcement.order) == in_order


@pytest.mark.parametrize(
    ("incarnation", "sequence", "timely"),
    [
        (NOW, NOW, True),
        (0, NOW + MAX_AHEAD_MS, True),
        (0, NOW + MAX_AHEAD_MS + 1, False),
        (0, NOW - MAX_BEHIND_MS, True),
        (0, NOW - MAX_BEHIND_MS - 1, False),
        (NOW + 1, NOW, False),
        (2**62, 2**62, False),
    ],
)
def test_times_that_make_no_sense_are_untimely(incarnation: int, sequence: int, timely: bool) -> None:
    assert replace(FULL, incarnation=incarnation, sequence=sequence).is_timely(NOW) is timely
