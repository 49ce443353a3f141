"""What a node remembers of duels: sealed, bounded, kept across restarts, and gone when nothing can ask for it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from random import Random
from typing import Any

import pytest

from chain.parameters.duels import DRAW_DELAYS, MIN_DRAW_DELAY
from chain.store.kv import MemoryStore
from chain.types.checks import NO_TRANSCRIPT, CheckReport, make_measured_report
from chain.types.duels import DuelBallot
from serving.offload.context import DeliveredTexts
from serving.quality.duels.table import DuelTable, open_table
from serving.quality.duels.texts import Text, TextKind
from tests.support.chains.duels import SALT, make_account
from tests.support.keys import make_key

REQUEST, RESPONSE, ANSWER = TextKind.REQUEST, TextKind.RESPONSE, TextKind.ANSWER
KEY = make_key("table")
DEADLINE = 600_000
REPORT = make_measured_report(0.5, 0.01)


def make_texts(number: int, size: int = 100, is_executor: bool = True, response: bytes | None = None) -> DeliveredTexts:
    answer = b"a" * (size // 2) if response is None else response
    return DeliveredTexts(make_account(number), is_executor, DEADLINE, SALT, b"q" * (size // 2), SALT, answer)


def make_table(store: MemoryStore | None = None, **bounds: Any) -> DuelTable:
    return DuelTable(KEY, MemoryStore() if store is None else store, Random(1), **bounds)


def save(table: DuelTable) -> None:
    changes = table.get_unsaved()
    table.write(changes)
    table.note_saved(changes)


def sweep(
    table: DuelTable, height: int, duels: Collection[bytes] = (), holds: Collection[bytes] = (), time: int = 0
) -> None:
    table.sweep(lambda hold: hold in duels, lambda hold: hold in holds, height, time)


def test_everything_is_still_known_after_a_restart_and_nothing_can_be_read_on_the_disk() -> None:
    store, hold = MemoryStore(), make_account(1)
    table = make_table(store)
    transcript = (b"u" * 16, b"the secret tokens")
    table.keep(
        DeliveredTexts(hold, True, DEADLINE, SALT, b"the secret question", b"t" * 16, b"the secret answer", *transcript)
    )
    answer, ballot = Text.make(SALT, b"my secret answer"), DuelBallot(1, 2)
    assert table.put_answer(hold, answer, 1) and table.put_ballot(hold, False, ballot, SALT, 1)
    assert table.put_report(hold, REPORT, SALT, 1) and not table.put_report(hold, CheckReport(NO_TRANSCRIPT), SALT, 1)
    save(table)
    assert not table.get_unsaved()
    assert not any(b"secret" in value for _, value in store.items(b""))
    again = make_table(store)
    for one in (table, again):
        assert one.load(hold, REQUEST) == (SALT, b"the secret question")
        assert one.load(hold, RESPONSE) == (b"t" * 16, b"the secret answer")
        assert one.load(hold, TextKind.TRANSCRIPT) == transcript
        kept = one.get_report(hold)
        assert kept is not None and (kept.report, kept.salt) == (REPORT, SALT)
        assert one.load(hold, ANSWER) == (SALT, b"my secret answer")
        assert one.get_answer_digest(hold) == answer.digest
        kept = one.get_ballot(hold, False)
        assert kept is not None and (kept.ballot, kept.salt) == (ballot, SALT)
        assert one.get_ballot(hold, True) is None
    assert (again.size, len(again)) == (table.size, len(table))


def test_what_another_key_has_sealed_is_forgotten() -> None:
    store = MemoryStore()
    table = make_table(store)
    table.keep(make_texts(1))
    save(table)
    other = DuelTable(make_key("other"), store, Random(1))
    assert len(other) == 0 and other.load(make_account(1), REQUEST) is None


def test_what_is_not_written_yet_can_be_read() -> None:
    table = make_table()
    table.keep(make_texts(1))
    assert table.load(make_account(1), REQUEST) == (SALT, b"q" * 50)


def test_a_change_during_a_write_is_written_later() -> None:
    store = MemoryStore()
    table = make_table(store)
    table.keep(make_texts(1))
    changes = table.get_unsaved()
    sweep(table, 1, duels={make_account(1)})
    sweep(table, 2)  # the duel is settled meanwhile
    table.write(changes)
    table.note_saved(changes)
    assert table.load(make_account(1), REQUEST) is None
    save(table)
    assert not list(store.items(b""))


def test_an_answer_that_did_not_come_whole_is_not_handed_over() -> None:
    table = make_table()
    table.keep(make_texts(1, response=b""))
    assert table.load(make_account(1), REQUEST) is not None and table.load(make_account(1), RESPONSE) is None


def test_a_ballot_is_never_replaced() -> None:
    table, hold = make_table(), make_account(1)
    assert table.put_ballot(hold, False, DuelBallot(1), SALT, 1)
    assert not table.put_ballot(hold, False, DuelBallot(2), SALT, 1)
    assert table.put_ballot(hold, True, DuelBallot(2), SALT, 1), "another panel"
    kept = table.get_ballot(hold, False)
    assert kept is not None and kept.ballot == DuelBallot(1)


def test_texts_are_kept_until_every_draw_is_over() -> None:
    store, hold = MemoryStore(), make_account(1)
    table = make_table(store)
    table.keep(make_texts(1))
    sweep(table, 5, holds=set())
    assert len(table) == 1, "the hold is not final yet"
    sweep(table, 6, holds={hold}, time=2 * DEADLINE)
    sweep(table, 500, holds={hold}, time=2 * DEADLINE)
    assert len(table) == 1, "the capture waits for its grace time"
    sweep(table, 510)
    sweep(table, 510 + MIN_DRAW_DELAY + DRAW_DELAYS)
    assert len(table) == 1
    sweep(table, 511 + MIN_DRAW_DELAY + DRAW_DELAYS)
    save(table)
    assert len(table) == 0 and table.size == 0 and not list(store.items(b""))


def test_texts_of_a_hold_that_never_came_go_after_its_deadline() -> None:
    table = make_table()
    table.keep(make_texts(1))
    sweep(table, 1, time=DEADLINE + 1)
    sweep(table, 2 + MIN_DRAW_DELAY + DRAW_DELAYS, time=DEADLINE + 2)
    assert len(table) == 0


def test_texts_answer_and_ballot_go_when_the_duel_is_settled() -> None:
    store, hold = MemoryStore(), make_account(1)
    table = make_table(store)
    table.keep(make_texts(1))
    table.put_answer(hold, Text.make(SALT, b"answer"), 1)
    table.put_ballot(hold, False, DuelBallot(0), SALT, 1)
    sweep(table, 1, duels={hold}, time=2 * DEADLINE)
    sweep(table, 1_000, duels={hold}, time=2 * DEADLINE)
    assert len(table) == 3
    save(table)
    sweep(table, 1_001)
    save(table)
    assert len(table) == 0 and table.size == 0 and not list(store.items(b""))


def test_a_node_that_begins_with_an_earlier_state_forgets_nothing() -> None:
    table, hold = make_table(), make_account(1)
    table.put_answer(hold, Text.make(SALT, b"answer"), 100)
    table.put_ballot(hold, False, DuelBallot(0), SALT, 100)
    table.put_report(hold, REPORT, SALT, 100)
    sweep(table, 90)  # before the duel was opened
    sweep(table, 100, duels={hold})
    assert len(table) == 3
    sweep(table, 101)
    assert len(table) == 0


def test_own_requests_give_way_first_and_texts_of_duels_never() -> None:
    table = make_table(max_bytes=400)
    for number, is_executor in enumerate((True, False, True, False)):
        table.keep(make_texts(number, is_executor=is_executor))
    table.note_drawn(make_account(0))
    kept = [make_account(number) for number in range(6)]

    def get_kept() -> list[int]:
        return [number for number, hold in enumerate(kept) if table.load(hold, REQUEST)]

    table.keep(make_texts(4, is_executor=False))
    assert get_kept() == [0, 2, 3, 4]
    table.keep(make_texts(5))
    assert get_kept() == [0, 2, 4, 5]
    table.keep(make_texts(6, size=200))
    assert get_kept() == [0, 5] and table.size == 400
    table.keep(make_texts(7, is_executor=False))
    assert table.load(make_account(7), REQUEST) is None, "the texts of a request that was answered do not give way"
    table.keep(make_texts(8, size=302))
    assert table.load(make_account(8), REQUEST) is None and get_kept() == [0, 5], "none gives way in vain"


@pytest.mark.parametrize("bounds", [{"max_entries": 3}, {"max_bytes": 300}])
def test_the_table_is_bounded_in_entries_and_in_bytes(bounds: dict[str, Any]) -> None:
    table = make_table(**bounds)
    for number in range(50):
        table.keep(make_texts(number, is_executor=number % 3 > 0))
        table.put_answer(make_account(number), Text.make(SALT, bytes(90)), 1)
        table.put_ballot(make_account(number), False, DuelBallot(0), SALT, 1)
        assert len(table) <= 3 * bounds.get("max_entries", 50) and table.size <= bounds.get("max_bytes", 10_000)


def test_a_damaged_table_begins_anew(tmp_path: Path) -> None:
    table = open_table(tmp_path / "duels", KEY, Random(1))
    table.keep(make_texts(1))
    save(table)
    table.close()
    reopened = open_table(tmp_path / "duels", KEY, Random(1))
    assert reopened.load(make_account(1), REQUEST) == (SALT, b"q" * 50)
    reopened.close()
    (tmp_path / "duels" / "CURRENT").unlink()
    anew = open_table(tmp_path / "duels", KEY, Random(1))
    assert len(anew) == 0
    anew.close()
