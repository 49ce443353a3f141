"""Slots that are shared: who gives way."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from p2p.limits.shared_slots import SharedSlots


def test_of_the_owners_with_most_the_longest_unused_gives_way() -> None:
    slots: SharedSlots[int] = SharedSlots(4)
    assert [slots.put(number, b"greedy") for number in range(3)] == [None] * 3
    assert slots.put(3, b"other") is None and slots.put(0, b"greedy") is None  # again: the latest of all
    assert slots.put(4, b"new") == 1 and list(slots) == [2, 3, 0, 4]
    assert slots.put(5, b"newer") == 2
    assert slots.put(6, b"newest") == 3, "of equals the one that was put longest ago"
    assert slots.put(7, b"newest") == 6, "whoever takes the most pays for it"
    slots.discard(0)
    slots.discard(0)
    assert slots.put(8, b"new") is None and len(slots) == 4


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3), st.booleans()), max_size=80))
def test_a_newcomer_always_has_a_slot_and_no_more_are_taken_than_there_are(
    size: int, steps: list[tuple[int, int, bool]]
) -> None:
    slots: SharedSlots[tuple[int, int]] = SharedSlots(size)
    held: dict[tuple[int, int], None] = {}
    for number, owner, is_put in steps:
        item = owner, number
        held.pop(item, None)
        if not is_put:
            slots.discard(item)
            continue
        loser = slots.put(item, bytes([owner]))
        held[item] = None
        counts = Counter(one for one, _ in held)
        if loser is not None:
            assert counts[loser[0]] == max(counts.values())
            del held[loser]
        assert list(slots) == list(held) and len(slots) <= size
