"""Weekly schedules: what entries mean, and when they open and close, also where the clock is put forward or back."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.scheduling.weekly_schedule import DAYS, WeeklySchedule

BERLIN = "Europe/Berlin"
NIGHTS = ["Mon-Fri 18:00-08:00", "Sat-Sun"]
HOUR_MS = 3_600_000


def to_ms(text: str, zone: str = BERLIN) -> int:
    """The moment that a local time means: ``2026-11-25 12:00``, or with an offset."""
    moment = datetime.fromisoformat(text)
    return round(1000 * (moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))).timestamp())


def show(moment: int | None, zone: str = BERLIN) -> str | None:
    """A moment as the clock of a zone shows it."""
    return None if moment is None else datetime.fromtimestamp(moment / 1000, ZoneInfo(zone)).isoformat(" ", "minutes")


@pytest.mark.parametrize(
    ("now", "is_open", "change"),
    [
        ("2026-11-25 12:00", False, "2026-11-25 18:00+01:00"),  # a Wednesday
        ("2026-11-25 18:00", True, "2026-11-26 08:00+01:00"),
        ("2026-11-26 07:59", True, "2026-11-26 08:00+01:00"),
        ("2026-11-26 08:00", False, "2026-11-26 18:00+01:00"),
        ("2026-11-27 19:00", True, "2026-11-30 00:00+01:00"),  # from Friday over the weekend to Monday
        ("2026-11-30 00:00", False, "2026-11-30 18:00+01:00"),
    ],
)
def test_nights_and_weekends(now: str, is_open: bool, change: str) -> None:
    schedule = WeeklySchedule.parse(NIGHTS, BERLIN)
    assert schedule.is_open(to_ms(now)) == is_open
    assert show(schedule.find_change(to_ms(now))) == change


@pytest.mark.parametrize(
    ("entry", "spans"),
    [
        ("Sun", [(6 * 1440, 7 * 1440)]),
        ("sun 23:00-01:00", [(0, 60), (6 * 1440 + 1380, 7 * 1440)]),  # into the next week
        ("Sun-Mon 10:00-11:00", [(600, 660), (6 * 1440 + 600, 6 * 1440 + 660)]),
        ("Mon,Wed 00:00-24:00", [(0, 1440), (2880, 4320)]),
        ("06:00-06:00", [(0, 360), *((day * 1440 + 360, (day + 1) * 1440 + 360) for day in range(6)), (9000, 10080)]),
    ],
)
def test_what_an_entry_means(entry: str, spans: list[tuple[int, int]]) -> None:
    assert WeeklySchedule.parse([entry], "UTC").spans == tuple(spans)


@pytest.mark.parametrize(
    "entry", ["", "Mun", "Mon-", "Mon-Tue-Wed", "9:00-10:00", "25:00-26:00", "24:00-01:00", "10:60-11:00", "Mon 10:00"]
)
def test_a_bad_entry_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"must be|is no|begins before"):
        WeeklySchedule.parse([entry], "UTC")


@pytest.mark.parametrize("zone", ["", "Mars", "../etc/passwd", "/etc/passwd", "Europe"])
def test_a_bad_zone_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="is no time zone that this machine knows"):
        WeeklySchedule.parse([], zone)


def follow(schedule: WeeklySchedule, start: str, count: int) -> list[str | None]:
    """The next changes after ``start``."""
    now, changes = to_ms(start), []
    for _ in range(count):
        change = schedule.find_change(now)
        assert change is not None
        changes.append(show(change))
        now = change
    return changes


def test_a_span_in_the_hour_that_is_left_out_begins_when_the_clock_jumps() -> None:
    schedule = WeeklySchedule.parse(["02:30-03:30"], BERLIN)
    assert follow(schedule, "2026-03-29 00:00", 2) == ["2026-03-29 03:00+02:00", "2026-03-29 03:30+02:00"]


def test_a_span_in_the_hour_that_comes_twice_is_open_twice() -> None:
    schedule = WeeklySchedule.parse(["02:00-02:30"], BERLIN)
    assert follow(schedule, "2026-10-25 00:00", 4) == [
        "2026-10-25 02:00+02:00",
        "2026-10-25 02:30+02:00",
        "2026-10-25 02:00+01:00",
        "2026-10-25 02:30+01:00",
    ]


def test_a_night_with_a_change_of_the_clock_is_an_hour_shorter_or_longer() -> None:
    schedule = WeeklySchedule.parse(["22:00-06:00"], BERLIN)
    for evening, hours in (("2026-03-28 22:00", 7), ("2026-10-24 22:00", 9), ("2026-11-24 22:00", 8)):
        change = schedule.find_change(to_ms(evening))
        assert change is not None and change - to_ms(evening) == hours * HOUR_MS


def test_what_is_always_open_does_not_change() -> None:
    schedule = WeeklySchedule.parse(["Mon-Sun"], BERLIN)
    assert schedule.is_open(to_ms("2026-03-29 02:30")) and schedule.find_change(to_ms("2026-03-29 00:00")) is None


times = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
entries = st.builds("{}-{} {}-{}".format, st.sampled_from(DAYS), st.sampled_from(DAYS), times, times)


@given(
    schedule=st.lists(entries, min_size=1, max_size=3),
    zone=st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    start=st.sampled_from(["2026-03-28", "2026-10-24", "2026-11-01", "2026-04-04", "2026-07-01"]),
    minute=st.integers(0, 1440),
)
def test_the_next_change_is_that_of_the_clock_on_the_wall(
    schedule: list[str], zone: str, start: str, minute: int
) -> None:
    """Against a watch that looks each minute, for a day and a half."""
    found = WeeklySchedule.parse(schedule, zone)
    now = to_ms(f"{start} 00:00", "UTC") + minute * 60_000
    is_open = found.is_open(now)
    seen = next((now + step * 60_000 for step in range(2_160) if found.is_open(now + step * 60_000) != is_open), None)
    change = found.find_change(now)
    if seen is None:
        assert change is None or change >= now + 2_160 * 60_000
    else:
        assert change == seen
