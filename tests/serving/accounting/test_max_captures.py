"""What a payer still knows of its holds after a restart."""

from __future__ import annotations

from chain.store.kv import MemoryStore
from serving.accounting.max_captures import MaxCaptures

HOLD, OTHER = bytes([1]) * 32, bytes([2]) * 32


def reopen(store: MemoryStore, *pending: MaxCaptures) -> MaxCaptures:
    """What is on the disk once what is ``pending`` was written."""
    for captures in pending:
        store.write(captures.take_changes())
    return MaxCaptures(store)


def test_of_an_unknown_hold_nothing_may_be_captured() -> None:
    assert MaxCaptures(MemoryStore()).get(HOLD) == 0


def test_what_was_written_is_known_after_a_restart() -> None:
    store = MemoryStore()
    captures = MaxCaptures(store)
    captures.put(HOLD, 700, 50)
    captures.put(OTHER, 0, 60)
    assert MaxCaptures(store).get(HOLD) == 0, "not before it is written"
    again = reopen(store, captures)
    assert (again.get(HOLD), again.get(OTHER)) == (700, 0)
    assert again.find_expired(50) == [HOLD] and set(again.find_expired(60)) == {HOLD, OTHER}
    assert captures.take_changes() == {} == again.take_changes()


def test_an_amount_that_grows_is_written_ahead_of_what_was_received() -> None:
    """Between two writes more comes in, which the executor may capture."""
    store = MemoryStore()
    captures = MaxCaptures(store)
    for amount, written in ((1_000, 1_000), (1_300, 1_600), (1_400, 1_500), (1_200, 1_200), (0, 0)):
        captures.put(HOLD, amount, 50)
        assert reopen(store, captures).get(HOLD) == written
        assert captures.get(HOLD) == amount


def test_a_settled_hold_leaves_nothing_on_the_disk() -> None:
    store = MemoryStore()
    captures = MaxCaptures(store)
    captures.put(HOLD, 700, 50)
    reopen(store, captures).drop(OTHER)
    captures.drop(HOLD)
    captures.drop(HOLD)
    assert reopen(store, captures).get(HOLD) == 0 and list(store.items(b"")) == []
