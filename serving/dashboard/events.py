"""Live data for any number of viewers, as server-sent events (HTML standard, section 9.2).

What the page shows is cut into *sections*. While a page is open that may show it, each section is computed at most once
a second, and encoded once for all: viewers that come and go cost no more than one that stays. A viewer gets the
sections that have changed since its last event. So there is no queue: one that reads slowly skips what is old, and
costs the node no memory. Each event carries the node's clock, so that a page notices within seconds that the node has
stopped.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog
import trio
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from p2p.addresses import get_quota_prefix, parse_host
from serving.admin.levels import Level

log = structlog.get_logger(__name__)

TICK_S = 1.0
"""Seconds between two computations."""
MAX_VIEWERS = {Level.PUBLIC: 64, Level.READING: 16}
"""Streams that are open at a time: of the public, and of the owner. The networks that visitors
come from share them, so that one network cannot take all."""


class Feed(NamedTuple):
    """Data that a page gets piece by piece: who may see it, and functions for the number of the last piece and for the
    pieces after a number, as JSON."""

    level: Level
    get_since: Callable[[int], tuple[int, list[str]]]


class Section(NamedTuple):
    """One section: who may see it, the function that computes it (data for JSON), and the least number of ticks
    between."""

    level: Level
    make: Callable[[], Any]
    every: int = 1


@dataclass(slots=True)
class _Content:
    text: str = ""
    version: int = 0
    due_at: float = -math.inf
    """When it may be computed again."""


@dataclass(eq=False, slots=True)
class _Viewer:
    """One stream: what kind of visitor it is of, from which network, and what ends it."""

    kind: Level
    origin: bytes
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class TooManyViewers(HTTPException):
    """The most streams are open, and no other network has more of them than that of the newcomer."""

    def __init__(self) -> None:
        super().__init__(503, "too many pages are open; close one", {"retry-after": "10"})


class EventHub:
    """Computes sections while a page is open, and passes feeds on. ``now`` is the wall clock in ms."""

    def __init__(self, sections: dict[str, Section], feeds: dict[str, Feed], now: Callable[[], int]) -> None:
        self._sections = sections
        self._feeds = feeds
        self._now = now
        self._contents = {name: _Content() for name in sections}
        self._tick = 0
        self._ticked = trio.Event()
        self._viewers: dict[_Viewer, None] = {}
        """Those that are open, the oldest first."""

    async def run(self) -> None:
        """Compute until cancelled."""
        while True:
            await trio.sleep(TICK_S)
            if self._viewers:
                self.refresh()

    @property
    def viewers(self) -> int:
        """Streams that are open."""
        return len(self._viewers)

    def refresh(self) -> None:
        """Compute the sections that are due, and wake the viewers."""
        self.compute()
        self._ticked.set()
        self._ticked = trio.Event()

    def compute(self) -> None:
        """Compute the sections that are due, of those that somebody who looks may see."""
        self._tick += 1
        now, level = trio.current_time(), max(viewer.kind for viewer in self._viewers)
        for name, section in self._sections.items():
            content = self._contents[name]
            if section.level <= level and now >= content.due_at:
                content.due_at = now + (section.every - 0.5) * TICK_S  # ticks come a little late
                text = json.dumps(section.make(), separators=(",", ":"))
                if text != content.text:
                    content.text, content.version = text, self._tick

    @contextmanager
    def viewer(self, level: Level, origin: bytes = b"") -> Iterator[None]:
        """Count a viewer from the network ``origin`` within the context, which may be left for another's sake.

        Raises:
            TooManyViewers: there are as many as may be.
        """
        viewer = _Viewer(min(level, Level.READING), origin)
        self._make_room(viewer)
        self._viewers[viewer] = None
        try:
            self.compute()  # what nobody could see was not computed
            with viewer.scope:
                yield
        finally:
            self._viewers.pop(viewer, None)

    def _make_room(self, newcomer: _Viewer) -> None:
        """If the most streams are open, end the oldest one of the network that has most.

        Raises:
            TooManyViewers: that is the network of the newcomer, or none has two more than that.
        """
        present = [viewer for viewer in self._viewers if viewer.kind is newcomer.kind]
        if len(present) < MAX_VIEWERS[newcomer.kind]:
            return
        counts = Counter(viewer.origin for viewer in present)
        largest, count = counts.most_common(1)[0]
        if count < counts[newcomer.origin] + 2:
            raise TooManyViewers
        oldest = next(viewer for viewer in present if viewer.origin == largest)
        del self._viewers[oldest]
        oldest.scope.cancel()

    async def watch(self, send: Callable[[bytes], Any], get_level: Callable[[], Level]) -> None:
        """Send events to one viewer until its level changes: a page that comes again gets what it may see then."""
        level, seen, numbers = get_level(), 0, dict.fromkeys(self._feeds, 0)
        while get_level() == level:
            ticked = self._ticked
            parts = [f'"now":{self._now()}']
            for name, feed in self._feeds.items():
                if feed.level <= level:
                    numbers[name], pieces = feed.get_since(numbers[name])
                    if pieces:
                        parts.append(f'"{name}":[{",".join(pieces)}]')
            for name, section in self._sections.items():
                content = self._contents[name]
                if section.level <= level and content.version > seen:
                    parts.append(f'"{name}":{content.text}')
            seen = self._tick
            await send(f"data: {{{','.join(parts)}}}\n\n".encode())
            await ticked.wait()


class EventStream:
    """The response to one viewer, an ASGI application.

    Raises:
        TooManyViewers: nothing was sent.
    """

    def __init__(self, hub: EventHub, get_level: Callable[[], Level]) -> None:
        self._hub = hub
        self._get_level = get_level

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_event(event: bytes) -> None:
            await send({"type": "http.response.body", "body": event, "more_body": True})

        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        with self._hub.viewer(self._get_level(), _find_origin(scope)):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with cancelled_by_hang_up(receive):
                await self._hub.watch(send_event, self._get_level)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _find_origin(scope: Scope) -> bytes:
    """The network of a client, which counts as one; empty if it is not known."""
    try:
        return get_quota_prefix(parse_host(scope["client"][0]))
    except (ValueError, KeyError, TypeError):
        return b""


@asynccontextmanager
async def cancelled_by_hang_up(receive: Receive) -> AsyncIterator[None]:
    """Cancel what is inside when the client hangs up."""
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait)
        yield
        nursery.cancel_scope.cancel()
