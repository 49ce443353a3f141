"""A weekly schedule: spans of the week in the local time of a zone. Pure: moments are in ms since the Unix epoch.

Spans are those of local clocks. When clocks are put forward, a span is shorter by the hour left out. When they are put
back, the hour that they show twice counts twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
"""Names of the days."""
DAY_MINUTES = 24 * 60
"""Minutes of a day."""
WEEK_MINUTES = 7 * DAY_MINUTES
"""Minutes of a week."""
MAX_SPANS = 64
"""Most entries of a schedule."""
LOOKAHEAD_DAYS = 8
"""Days in which the next change is sought: one more than a week, for changes of the clock."""

_ENTRY = re.compile(r"(?:(?P<days>[A-Za-z,-]+)(?: +|$))?(?:(?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d))?")


@dataclass(frozen=True, slots=True)
class WeeklySchedule:
    """When something is open: ``spans`` of minutes since Monday 00:00, each [start, end) and within the week."""

    spans: tuple[tuple[int, int], ...]
    zone: tzinfo

    @classmethod
    def parse(cls, entries: Sequence[str], zone: str) -> WeeklySchedule:
        """The schedule of entries such as ``Mon-Fri 18:00-08:00`` and ``Sat,Sun``, in a zone of the IANA database.

        A span that ends at or before its start ends on the next day. Without days it applies to every day, without
        times to the whole day.

        Raises:
            ValueError: an entry or the zone cannot be understood.
        """
        spans = [span for entry in entries for span in parse_entry(entry)]
        return cls(tuple(sorted(spans)), find_zone(zone))

    def is_open(self, now_ms: int) -> bool:
        """Whether ``now_ms`` is within a span."""
        local = datetime.fromtimestamp(now_ms // 1000, self.zone)
        minute = local.weekday() * DAY_MINUTES + local.hour * 60 + local.minute
        return any(start <= minute < end for start, end in self.spans)

    def find_change(self, now_ms: int) -> int | None:
        """The first moment after ``now_ms`` at which it opens or closes; None if there is none in the next days."""
        is_open = self.is_open(now_ms)
        moments = sorted({*self._get_boundaries(now_ms), *self._find_clock_changes(now_ms)})
        return next((at for at in moments if at > now_ms and self.is_open(at) != is_open), None)

    def _get_boundaries(self, now_ms: int) -> Iterator[int]:
        """When local clocks show the start or end of a span, from the day before ``now_ms`` on."""
        local = datetime.fromtimestamp(now_ms // 1000, self.zone)
        minutes = {minute % WEEK_MINUTES for span in self.spans for minute in span}
        for ahead in range(-1, LOOKAHEAD_DAYS + 1):
            day = local.date() + timedelta(days=ahead)
            for minute in minutes:
                if minute // DAY_MINUTES == day.weekday():
                    hour, rest = divmod(minute % DAY_MINUTES, 60)
                    for fold in (0, 1):  # an hour that the clock shows twice has two of them
                        shown = datetime(day.year, day.month, day.day, hour, rest, tzinfo=self.zone, fold=fold)
                        yield _to_ms(shown)

    def _find_clock_changes(self, now_ms: int) -> Iterator[int]:
        """When the clock is put forward or back, to the second."""
        for ahead in range(LOOKAHEAD_DAYS):
            first = now_ms // 1000 + ahead * 86_400
            last = first + 86_400
            offset = self._get_offset(first)
            if self._get_offset(last) == offset:
                continue
            while last - first > 1:
                middle = (first + last) // 2
                if self._get_offset(middle) == offset:
                    first = middle
                else:
                    last = middle
            yield 1000 * last

    def _get_offset(self, now_s: int) -> timedelta | None:
        return datetime.fromtimestamp(now_s, self.zone).utcoffset()


def find_zone(name: str) -> tzinfo:
    """The time zone called ``name``.

    Raises:
        ValueError: this machine knows no zone of that name.
    """
    if name == "UTC":  # needs no database
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone that this machine knows, such as Europe/Berlin") from None


def parse_entry(entry: str) -> list[tuple[int, int]]:
    """The spans of one entry, in minutes since Monday 00:00, cut at the end of the week.

    Raises:
        ValueError: it is no valid entry.
    """
    found = _ENTRY.fullmatch(entry.strip())
    if found is None or not any(found.groups()):
        raise ValueError(f"must be such as 'Mon-Fri 18:00-08:00' or 'Sat-Sun', got {entry!r}")
    days = _parse_days(found["days"]) if found["days"] else range(7)
    start, end = 0, DAY_MINUTES
    if found["start"]:
        start, end = _parse_time(found["start"]), _parse_time(found["end"])
        if start == DAY_MINUTES:
            raise ValueError(f"a span begins before 24:00, got {entry!r}")
        if end <= start:
            end += DAY_MINUTES
    spans = []
    for day in days:
        first, last = day * DAY_MINUTES + start, day * DAY_MINUTES + end
        spans.append((first, min(last, WEEK_MINUTES)))
        if last > WEEK_MINUTES:
            spans.append((0, last - WEEK_MINUTES))
    return spans


def _parse_days(text: str) -> list[int]:
    days = []
    for part in text.split(","):
        names = part.split("-")
        numbers = [_parse_day(name) for name in names]
        if len(numbers) > 2:
            raise ValueError(f"days must be such as Mon, Mon-Fri or Mon,Wed, got {text!r}")
        length = (numbers[-1] - numbers[0]) % 7
        days += [(numbers[0] + step) % 7 for step in range(length + 1)]
    return days


def _parse_day(name: str) -> int:
    title = name.title()
    if title not in DAYS:
        raise ValueError(f"{name!r} is no day: {', '.join(DAYS)}")
    return DAYS.index(title)


def _parse_time(text: str) -> int:
    hour, minute = map(int, text.split(":"))
    if minute > 59 or hour * 60 + minute > DAY_MINUTES:
        raise ValueError(f"{text!r} is no time of the day")
    return hour * 60 + minute


def _to_ms(moment: datetime) -> int:
    return round(1000 * moment.timestamp())
