"""The bounded dict and the counter without zeros."""

from __future__ import annotations

from chain.collections import BoundedDict, SparseCounter


def test_a_bounded_dict_drops_what_was_set_longest_ago() -> None:
    kept: BoundedDict[str, int] = BoundedDict(2)
    kept["a"], kept["b"] = 1, 2
    assert kept["a"] == 1  # reading does not count
    kept["c"] = 3
    assert dict(kept) == {"b": 2, "c": 3}
    kept["b"] = 4  # setting again does
    kept["d"] = 5
    assert dict(kept) == {"b": 4, "d": 5}


def test_setdefault_and_update_keep_the_bound() -> None:
    kept: BoundedDict[str, int] = BoundedDict(2)
    kept.update(a=1, b=2, c=3)
    assert kept.setdefault("c", 9) == 3 and kept.setdefault("d", 4) == 4
    assert dict(kept) == {"c": 3, "d": 4}


def test_a_sparse_counter_forgets_zero() -> None:
    counts: SparseCounter[str] = SparseCounter()
    counts["a"] += 2
    counts["a"] -= 1
    assert counts["a"] == 1 and "a" in counts
    counts["a"] -= 1
    counts["b"] -= 0
    assert not counts and counts["a"] == 0
