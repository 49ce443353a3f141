"""What clients may make the HTTP server hold: sizes, times, connections, and a budget for bodies under way. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Generic, TypeVar

from chain.collections import BoundedDict, SparseCounter
from p2p.addresses import get_quota_prefix, parse_host
from p2p.limits.rate_limit import Bucket

MAX_REFUSALS = 64
"""Connections over the limit that are answered with 503 at a time; further ones are closed at once."""
MAX_REFUSALS_PER_ADDRESS = 4
"""The same for the connections of one address."""
MAX_ADDRESSES = 4096
"""Addresses whose useless connections are remembered, the latest ones."""
EXEMPT = ("127.0.0.1", "::1")
"""Addresses of the owner's programs and of a reverse proxy: they have as many connections as they need."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds on what a client may make the server hold. Sizes in bytes, times in seconds."""

    header_bytes: int = 32 * 1024
    body_bytes: int = 4 * 1024 * 1024
    unfinished_bytes: int = 64 * 1024 * 1024  # of bodies that have not arrived whole, over all connections
    small_pieces: int = 256  # of a body, beside one for every least_piece_bytes that arrived
    least_piece_bytes: int = 16
    connections: int = 1024
    connections_per_address: int = 64  # one IPv4 address, or one IPv6 subnet (/64); EXEMPT are exempt
    useless_per_s: float = 4.0  # connections of one address that end without a request let in
    useless_burst_s: float = 8.0  # seconds of useless_per_s that an address may use up at once
    headers_timeout_s: float = 10.0  # from the first byte of a request to the end of its headers
    body_timeout_s: float = 60.0  # from the end of the headers to the end of the body
    idle_timeout_s: float = 75.0  # between two requests of one connection
    write_timeout_s: float = 60.0  # for a client that does not read


class Verdict(Enum):
    """What to do with a new connection: serve it, answer that it is one too many, or close it at once."""

    SERVE = "serve"
    REFUSE = "refuse"
    CLOSE = "close"


class ConnectionCounter:
    """Counts the connections of a server, in all and by the address that they come from. Times are in seconds.

    A connection costs the server as much when none of its requests is admitted. So each connection is charged to its
    address when it begins, and so are small pieces of a body. A request that is admitted returns its charges. An
    address that has reached its limit of charges gets no further connections for a while: they are closed before
    anything is read.
    """

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._by_address: SparseCounter[bytes] = SparseCounter()
        self._useless: BoundedDict[bytes, Bucket] = BoundedDict(MAX_ADDRESSES)
        self.total = 0

    def add(self, client: str, now: float, can_replace: bool = False) -> Verdict:
        """Count and charge one more connection of ``client``, an IP address, unless it is to be closed at once.

        ``can_replace``: another connection gives way to it if there are too many.
        """
        key = _get_key(client)
        of_address = self._by_address[key] if key else 0
        limits = self._limits
        if (
            (self.total >= limits.connections + MAX_REFUSALS and not can_replace)
            or of_address >= limits.connections_per_address + MAX_REFUSALS_PER_ADDRESS
            or not self.charge(client, now)
        ):
            return Verdict.CLOSE
        self.total += 1
        if key:
            self._by_address[key] += 1
        has_room = self.total <= limits.connections or can_replace
        is_within = has_room and of_address < limits.connections_per_address
        return Verdict.SERVE if is_within else Verdict.REFUSE

    def charge(self, client: str, now: float) -> bool:
        """Charge ``client`` as for one connection, unless it has reached its limit."""
        key = _get_key(client)
        if not key:
            return True
        burst = self._limits.useless_burst_s
        useless = self._useless[key] = self._useless.get(key) or Bucket(burst, now, burst)
        if useless.fill(now) <= 0:
            return False
        useless.level -= 1 / self._limits.useless_per_s
        return True

    def give_back(self, client: str, charges: int) -> None:
        """A request that ``client`` was charged for is let in."""
        useless = self._useless.get(_get_key(client))
        if useless is not None:
            useless.level += charges / self._limits.useless_per_s

    def remove(self, client: str) -> None:
        """A connection that was counted has ended."""
        self.total -= 1
        key = _get_key(client)
        if key:
            self._by_address[key] -= 1


@lru_cache(MAX_ADDRESSES)  # it is asked for with every request
def _get_key(client: str) -> bytes:
    """The key of the quota that a connection counts against, beside the total; empty if it is exempt."""
    try:
        host = parse_host(client)
    except ValueError:  # the address of a connection that has gone already
        return b""
    return b"" if str(host) in EXEMPT else get_quota_prefix(host)


Owner = TypeVar("Owner", bound=Hashable)


class BodyBudget(Generic[Owner]):
    """Bytes of bodies that are not complete, by the connection on which they arrive.

    When there are too many, the body that began first is given up. An honest body arrives within moments, so a client
    that withholds the ends of its bodies loses them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[Owner, int] = {}  # in the order in which they began
        self.size = 0
        """Bytes of all of them."""

    def hold(self, owner: Owner, size: int) -> list[Owner]:
        """Note ``size`` more bytes of ``owner``'s body. Returns the owners whose bodies are given up."""
        self._held[owner] = self._held.get(owner, 0) + size
        self.size += size
        given_up = []
        while self.size > self._limit:
            first = next(iter(self._held))
            self.release(first)
            given_up.append(first)
        return given_up

    def release(self, owner: Owner) -> None:
        """The body of ``owner`` is whole, or is not waited for any more."""
        self.size -= self._held.pop(owner, 0)
