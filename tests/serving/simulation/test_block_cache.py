"""The cache in blocks: none is lost or used twice, whatever requests come and go."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.simulation.block_cache import BlockCache


def test_a_shared_block_is_in_use_until_the_last_lets_go() -> None:
    cache = BlockCache(4)
    cache.take(1)
    assert cache.name(7)
    cache.take_named([7])
    assert not cache.name(7)
    cache.release([7], 0)
    assert (cache.available, cache.count_hits([7, 8])) == (3, (1, 0))
    cache.release([7], 0)
    assert (cache.available, cache.count_hits([7, 8])) == (4, (1, 1))
    cache.take(4)
    assert (cache.available, cache.usage, cache.count_hits([7])) == (0, 1.0, (0, 0))


def test_the_block_used_longest_ago_is_given_up_first() -> None:
    cache = BlockCache(3)
    for name in (1, 2, 3):
        cache.take(1)
        cache.name(name)
        cache.release([name], 0)
    cache.take_named([1])
    cache.release([1], 0)
    cache.take(1)
    assert [cache.count_hits([name])[0] for name in (1, 2, 3)] == [1, 0, 1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 6), st.integers(0, 3)), max_size=40))
def test_blocks_are_conserved(steps: list[tuple[bool, int, int]]) -> None:
    cache, held = BlockCache(12), list[tuple[list[int], int]]()
    for is_taken, count, family in steps:
        if is_taken:
            names = [10 * family + place for place in range(count)]
            hits, unused = cache.count_hits(names)
            if count - hits > cache.available - unused:
                continue
            shared = names[:hits]
            cache.take_named(shared)
            cache.take(count - hits)
            nameless = count - hits
            for name in names[hits:-1]:  # the last is not full
                if cache.name(name):
                    shared.append(name)
                    nameless -= 1
            held.append((shared, nameless))
        elif held:
            cache.release(*held.pop(count % len(held)))
        used = {name for names, _ in held for name in names}
        assert cache.available == 12 - len(used) - sum(nameless for _, nameless in held)
    for part in held:
        cache.release(*part)
    assert (cache.available, cache.usage) == (12, 0.0)
