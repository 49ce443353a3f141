"""What a visitor of the admin listener may do, and what has to be known of pages that are served beside its routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from enum import IntEnum
from typing import NamedTuple, Protocol

from starlette.requests import Request
from starlette.responses import Response

Endpoint = Callable[[Request], Awaitable[Response]]


class Level(IntEnum):
    """Levels of access; each includes those before it."""

    PUBLIC = 0
    """What ledger and gossip tell everybody: chain, network, models, health."""
    READING = 1
    """The owner, looking: requests, payments, queues, addresses."""
    ACTING = 2
    """The owner, changing: policy and wallet."""


class PageRoute(NamedTuple):
    """One route: method, path, the least level that it takes, and what answers."""

    method: str
    path: str
    level: Level
    endpoint: Endpoint


class Pages(Protocol):
    """Pages served by the admin listener, which know visitors by something else than the token."""

    def get_level(self, request: Request) -> Level:
        """What the visitor who sends ``request`` may do."""

    def get_routes(self) -> Iterable[PageRoute]:
        """The routes of the pages."""

    async def run(self) -> None:
        """Run what the pages need apart from requests until cancelled."""
