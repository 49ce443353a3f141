"""Announcements: signature, bounds, order, times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.exceptions import CodecError
from p2p.peers.announcement import (
    MAX_AHEAD_MS,
    MAX_ANNOUNCEMENT_BYTES,
    MAX_BEHIND_MS,
    MAX_LIFETIME_MS,
    MAX_RATE,
    Announcement,
    ModelLoad,
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
    load=PeerLoad(
        tuple(
            ModelLoad(f"model-{number}".ljust(128, "x"), *(10**6,) * 3, MAX_RATE, MAX_RATE, 2**31, *(255,) * 4, 2**31)
            for number in range(16)
        )
    ),
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
        {"load": PeerLoad((ModelLoad("m"),) * 17)},
        {"load": PeerLoad((ModelLoad("m", running=-1),))},
        {"load": PeerLoad((ModelLoad("m", decode_rate=MAX_RATE + 1),))},
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


def test_a_load_is_that_of_the_busiest_model() -> None:
    assert PeerLoad().utilization == 0
    assert ModelLoad("m", running=5).utilization == 0, "how many can run is unknown"
    assert ModelLoad("m", running=1, waiting=1, slots=8).utilization == 1000
    load = PeerLoad((ModelLoad("a", 1, 0, 4), ModelLoad("b", 1, 0, 2), ModelLoad("b", 9, 0, 9)))
    assert load.utilization == 1000 and load.find("b") == ModelLoad("b", 1, 0, 2) and load.find("c") is None


@pytest.mark.parametrize(
    ("change", "is_far"),
    [
        ({}, False),
        ({"running": 11}, False),
        ({"running": 12}, True),
        ({"running": 8}, True),
        ({"waiting": 1}, True),
        ({"decode_rate": 7, "prefill_rate": 7}, False),
        ({"model": "other"}, True),
    ],
)
def test_a_tenth_of_the_slots_makes_a_load_far_from_another(change: dict[str, Any], is_far: bool) -> None:
    before = ModelLoad("m", running=10, slots=20)
    assert PeerLoad((replace(before, **change),)).is_far_from(PeerLoad((before,))) is is_far


def test_a_model_more_or_less_makes_a_load_far_from_another() -> None:
    assert PeerLoad((ModelLoad("m"),)).is_far_from(PeerLoad())
    assert PeerLoad().is_far_from(PeerLoad((ModelLoad("m"),)))
    assert not PeerLoad().is_far_from(PeerLoad())
