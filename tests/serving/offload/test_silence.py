"""When an executor counts as silent."""

from __future__ import annotations

from serving.offload.silence import MAX_SILENCES, SILENT_AFTER, SILENT_S, Silences

ONE, TWO = b"1" * 32, b"2" * 32
MODEL = "m"


def make_silent(silences: Silences, now: float = 0.0) -> None:
    for _ in range(SILENT_AFTER):
        assert not silences.is_silent(ONE, MODEL, now)
        silences.note_overdue(ONE, MODEL, now)


def test_overdue_streams_in_a_row_make_one_silent_for_a_while_and_one_more_does_again() -> None:
    silences = Silences()
    make_silent(silences)
    assert silences.is_silent(ONE, MODEL, SILENT_S - 0.1)
    assert not silences.is_silent(TWO, MODEL, 0.0) and not silences.is_silent(ONE, "another", 0.0)
    assert not silences.is_silent(ONE, MODEL, SILENT_S)
    silences.note_overdue(ONE, MODEL, 2 * SILENT_S)
    assert silences.is_silent(ONE, MODEL, 2 * SILENT_S)


def test_content_in_any_stream_ends_it() -> None:
    silences = Silences()
    make_silent(silences)
    silences.note_content(ONE, MODEL, 0.0)
    make_silent(silences)
    silences.note_content(ONE, MODEL, 0.0)
    silences.note_overdue(ONE, MODEL, 0.0)
    silences.note_content(ONE, MODEL, 0.0)
    make_silent(silences)


def test_memory_is_bounded() -> None:
    silences = Silences()
    for number in range(MAX_SILENCES + 1):
        silences.note_overdue(number.to_bytes(32), MODEL, 0.0)
    assert len(silences) == MAX_SILENCES
