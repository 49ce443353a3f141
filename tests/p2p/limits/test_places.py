"""Who gives way in something of bounded size, whatever comes and goes, against the plainest way to say it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.limits.places import NEWCOMERS_DIVISOR, OWNERS_CHOICE, Places, draw_lot, get_weight_class
from tests.support.keys import make_peer

SIZE = 8


def test_a_class_is_a_power_of_two() -> None:
    assert [get_weight_class(weight) for weight in (-1, 0, 1, 2, 3, 4, 1023, 1024)] == [0, 0, 1, 2, 2, 3, 10, 11]
    assert get_weight_class(OWNERS_CHOICE) > get_weight_class(2**63 - 1)
    assert draw_lot(b"a", make_peer(1)) != draw_lot(b"b", make_peer(1)) != draw_lot(b"b", make_peer(2))


@given(st.lists(st.tuples(st.integers(1, 30), st.sampled_from([0, 0, 1, 2, 3, 1000]), st.integers(0, 2)), max_size=80))
def test_who_gives_way(events: list[tuple[int, int, int]]) -> None:
    """Each event sets the weight and the rank of a peer, and gives it a place."""
    weights: dict[bytes, int] = {}
    ranks: dict[bytes, int] = {}
    places = Places(SIZE, lambda peer: weights[peer], lambda peer: ranks[peer])
    present: set[bytes] = set()
    for number, weight, rank in events:
        peer = make_peer(number)
        weights[peer], ranks[peer] = weight, rank
        places.put(peer, draw_lot(b"", peer))
        present.add(peer)
        surplus = places.find_surplus()
        if len(present) > SIZE:
            weighty = [one for one in present if weights[one]]
            is_share_exceeded = len(weighty) > SIZE - SIZE // NEWCOMERS_DIVISOR
            group = weighty if is_share_exceeded else [one for one in present if not weights[one]]
            expected = min(group, key=lambda one: (get_weight_class(weights[one]) or ranks[one], -draw_lot(b"", one)))
            assert surplus == expected
            places.discard(expected)
            present.discard(expected)
        assert places.find_surplus() is None and len(places) == len(present)


def test_what_has_shrunk_is_found_at_the_next_refresh() -> None:
    weights = {make_peer(number): 1 << number for number in range(1, SIZE + 1)}
    places = Places(SIZE, lambda peer: weights.get(peer, 0), lambda peer: 0)
    for peer in weights:
        places.put(peer, 0)
    weights[make_peer(SIZE)] = 1
    places.refresh_all()
    weights[make_peer(SIZE + 1)] = 1 << 20
    places.put(make_peer(SIZE + 1), 0)
    assert places.find_surplus() == make_peer(SIZE)
