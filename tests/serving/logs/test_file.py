"""The log file: bounded, the owner's alone, read in order, followed over a change of files; the latest in memory."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from serving.logs.file import LOG_FILE, OLDER_LOG_FILE, LogFile, LogFollower, read_events
from serving.logs.recent import MAX_BYTES, MAX_EVENTS, RecentEvents


def write(file: LogFile, *numbers: int) -> None:
    for number in numbers:
        file.write(json.dumps({"event": "e", "n": number}))


def get_numbers(events: Any) -> list[int]:
    return [event["n"] for event in events]


def test_both_parts_stay_within_the_bound_and_hold_the_latest(tmp_path: Path) -> None:
    file = LogFile(tmp_path, 1_000)
    write(file, *range(200))
    file.close()
    sizes = [(tmp_path / name).stat().st_size for name in (LOG_FILE, OLDER_LOG_FILE)]
    assert max(sizes) <= 500 and sum(sizes) > 500
    numbers = get_numbers(read_events(tmp_path))
    assert numbers == list(range(200 - len(numbers), 200))


def test_only_the_owner_reads_it_and_another_start_goes_on_with_it(tmp_path: Path) -> None:
    for number in (1, 2):
        file = LogFile(tmp_path, 1_000)
        write(file, number)
        file.close()
    assert stat.S_IMODE((tmp_path / LOG_FILE).stat().st_mode) == 0o600
    assert get_numbers(read_events(tmp_path)) == [1, 2]


def test_a_file_that_cannot_be_opened_costs_its_line_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LogFile(tmp_path, 100)  # two lines a part
    write(file, 1)

    def fail(path: Path) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError):
        patched.setattr("serving.logs.file._open", fail)
        write(file, 2, 3)
    write(file, 4)
    file.close()
    assert get_numbers(read_events(tmp_path)) == [1, 2, 4]


def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_text('{"event": "e", "n": 1}\n[]\n{"event": 5}\n{"event": "e", "n"')
    assert get_numbers(read_events(tmp_path)) == [1]


def test_a_follower_misses_nothing_when_the_files_change_and_waits_for_whole_lines(tmp_path: Path) -> None:
    file = LogFile(tmp_path, 1_000)
    write(file, 0)
    follower = LogFollower(tmp_path)
    seen = []
    for number in range(1, 100):
        write(file, number)
        if number % 7 == 0:
            seen += get_numbers(follower.read())
    seen += get_numbers(follower.read())
    assert seen == list(range(1, 100))
    with (tmp_path / LOG_FILE).open("a") as other:
        other.write('{"event": "e", ')
        other.flush()
        assert follower.read() == []
        other.write('"n": 100}\n')
    assert get_numbers(follower.read()) == [100]
    follower.close()
    file.close()


def test_without_a_log_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_events(tmp_path))
    with pytest.raises(FileNotFoundError):
        LogFollower(tmp_path)


def test_the_latest_in_memory_are_bounded_in_number_and_size() -> None:
    recent = RecentEvents()
    for number in range(MAX_EVENTS + 10):
        recent.add(str(number))
    last, texts = recent.get_since(0)
    assert (last, len(texts), texts[-1]) == (MAX_EVENTS + 10, MAX_EVENTS, str(MAX_EVENTS + 9))
    assert recent.get_since(last - 2) == (last, texts[-2:])
    assert recent.get_since(last) == (last, [])
    recent.add("x" * (MAX_BYTES - 1))
    assert [len(text) for text in recent.get_since(0)[1]] == [MAX_BYTES - 1]
    recent.add("x" * (MAX_BYTES + 1))
    assert recent.get_since(0)[1] == []
