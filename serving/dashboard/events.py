"""Live data for any number of viewers, as server-sent events (HTML standard, section 9.2).

What the page shows is cut into *sections*. While a page is open, each section is computed at most once a second, and
encoded once for all. A viewer gets the sections that have changed since its last event. So there is no queue: one that
reads slowly skips what is old, and costs the node no memory. Each event carries the node's clock, so that a page
notices within seconds that the node has stopped.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
import trio
from starlette.types import Receive, Scope, Send

from serving.admin.levels import Level

log = structlog.get_logger(__name__)

TICK_S = 1.0
"""Seconds between two computations."""
MAX_VIEWERS = {Level.PUBLIC: 64, Level.READING: 16}
"""Streams that are open at a time: of the public, and of the owner."""


class Feed(NamedTuple):
    """What a page gets piece by piece: who may see it, and what gives the number of the last piece, and those after a
    number, as JSON."""

    level: Level
    get_since: Callable[[int], tuple[int, list[str]]]


class Section(NamedTuple):
    """One section: who may see it, what computes it (data for JSON), and every how many ticks."""

    level: Level
    make: Callable[[], Any]
    every: int = 1


@dataclass(slots=True)
class _Content:
    text: str = ""
    version: int = 0


class TooManyViewers(Exception):
    """As many streams are open as may be."""


class EventHub:
    """Computes sections while a page is open, and passes feeds on. ``now`` is the wall clock in ms."""

    def __init__(self, sections: dict[str, Section], feeds: dict[str, Feed], now: Callable[[], int]) -> None:
        self._sections = sections
        self._feeds = feeds
        self._now = now
        self._contents = {name: _Content() for name in sections}
        self._tick = 0
        self._ticked = trio.Event()
        self._viewers = dict.fromkeys(MAX_VIEWERS, 0)

    async def run(self) -> None:
        """Compute until cancelled."""
        while True:
            await trio.sleep(TICK_S)
            if any(self._viewers.values()):
                self.refresh()

    @property
    def viewers(self) -> int:
        """Streams that are open."""
        return sum(self._viewers.values())

    def refresh(self, *, all_sections: bool = False) -> None:
        """Compute the sections that are due, and wake the viewers."""
        self._tick += 1
        for name, section in self._sections.items():
            if all_sections or self._tick % section.every == 0:
                content = self._contents[name]
                text = json.dumps(section.make(), separators=(",", ":"))
                if text != content.text:
                    content.text, content.version = text, self._tick
        self._ticked.set()
        self._ticked = trio.Event()

    def check_room(self, level: Level) -> None:
        """Check that one viewer more may look.

        Raises:
            TooManyViewers: there are as many as may be.
        """
        kind = min(level, Level.READING)
        if self._viewers[kind] >= MAX_VIEWERS[kind]:
            raise TooManyViewers

    @contextmanager
    def viewer(self, level: Level) -> Iterator[None]:
        """Count a viewer within the context.

        Raises:
            TooManyViewers: there are as many as may be.
        """
        self.check_room(level)
        kind = min(level, Level.READING)
        if not self.viewers:
            self.refresh(all_sections=True)  # nothing was computed while no page was open
        self._viewers[kind] += 1
        try:
            yield
        finally:
            self._viewers[kind] -= 1

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
    """The response to one viewer, an ASGI application."""

    def __init__(self, hub: EventHub, get_level: Callable[[], Level]) -> None:
        self._hub = hub
        self._get_level = get_level

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_event(event: bytes) -> None:
            await send({"type": "http.response.body", "body": event, "more_body": True})

        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with self._hub.viewer(self._get_level()):
            async with cancelled_by_hang_up(receive):
                await self._hub.watch(send_event, self._get_level)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


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
