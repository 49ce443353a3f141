"""When an executor counts as silent."""

from __future__ import annotations

import math

from serving.offload.originator.silence import MAX_EXECUTORS, PAUSE_S, SILENT_S, Silences

ONE, TWO = b"1" * 32, b"2" * 32
MODEL = "m"


def test_one_that_sends_nothing_is_silent_for_a_while_and_an_overdue_stream_makes_it_so_again() -> None:
    silences = Silences()
    assert not silences.is_silent(ONE, MODEL, 0.0)
    for now in (5.0, 100.0):
        silences.note_overdue(ONE, MODEL, now)
        assert silences.is_silent(ONE, MODEL, now + SILENT_S - 0.1)
        assert not silences.is_silent(ONE, MODEL, now + SILENT_S)
        assert not silences.is_silent(TWO, MODEL, now) and not silences.is_silent(ONE, "another", now)


def test_content_in_any_stream_shows_that_it_works() -> None:
    silences = Silences()
    assert silences.get_content_at(ONE, MODEL) == -math.inf
    silences.note_content(ONE, MODEL, 2.0)
    silences.note_overdue(ONE, MODEL, 4.0)
    assert not silences.is_silent(ONE, MODEL, 2.0 + PAUSE_S - 0.1), "it may be busy with another"
    assert silences.is_silent(ONE, MODEL, 2.0 + PAUSE_S)
    silences.note_content(ONE, MODEL, 11.0)
    assert not silences.is_silent(ONE, MODEL, 11.0) and silences.get_content_at(ONE, MODEL) == 11.0


def test_memory_is_bounded() -> None:
    silences = Silences()
    for number in range(MAX_EXECUTORS + 1):
        silences.note_overdue(number.to_bytes(32), MODEL, 0.0)
        silences.note_content(number.to_bytes(32), "another", 0.0)
    assert len(silences) == MAX_EXECUTORS
