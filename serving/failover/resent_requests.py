"""Resent requests: one with the ``Idempotency-Key`` of another joins it, or gets the same answer.

A client whose connection broke does not know whether it was answered. It sends the request again with the same key
(IETF draft ``idempotency-key-header``), and the work is done and paid for once: the first request is carried out by a
task of its own, each client follows the record of its answer, and a client that leaves does not end it. When all have
left it goes on for :data:`ABANDONED_S`, and is cancelled then.

Failures are not kept: an error, or an answer that breaks off, goes to the clients that follow it, and the next request
with the key is a new one. A key belongs to the API key that it came with, so no user sees the answer of another.

Everything is bounded: answers under way and answers kept, each also for one API key, their bytes, and their time.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import structlog
import trio

from p2p.owned_tasks import OwnedTasks
from serving.http.messages import Headers, HttpRequest
from serving.http.responder import JSON, Responder
from serving.openai.errors import (
    INVALID_REQUEST,
    ApiError,
    bad_request,
    internal_error,
    too_many_requests,
    unavailable,
)

log = structlog.get_logger(__name__)

IDEMPOTENCY_KEY = b"idempotency-key"
"""The header with the key."""
REPLAYED = (b"idempotent-replayed", b"true")
"""The header of an answer that was begun for an earlier request."""
MAX_KEY_CHARS = 255
"""Longest key."""
MAX_UNDER_WAY = 64
"""Answers to requests with a key that are under way at a time; a quarter of them for one API key."""
MAX_ANSWER_BYTES = 16 << 20
"""Longest answer to a request with a key."""
MAX_KEPT = 1024
"""Whole answers that are kept; a quarter of them for one API key. The oldest goes first."""
MAX_KEPT_BYTES = 64 << 20
"""Their bytes; a quarter of them for one API key."""
KEPT_S = 600.0
"""Seconds for which a whole answer is kept."""
ABANDONED_S = 60.0
"""Seconds for which the work goes on without a client."""
SHARE = 4
"""Divisor of each bound for one API key."""

_KEY = re.compile(rb"[\x21-\x7e]{1,%d}" % MAX_KEY_CHARS)
_ERROR_EVENT = re.compile(rb'(?:\A|\n)data: ?\{"error"')
"""The event with which a stream says that it broke off."""

Handler = Callable[[HttpRequest, Responder], Awaitable[None]]
_Place = tuple[str, bytes]
"""An API key, and an Idempotency-Key that came with it."""


@dataclass(eq=False)
class _Record:
    """What is known of one answer. It has the methods of a responder, with which it is written."""

    owner: str
    digest: bytes
    common_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    status: int = 0
    """0: not begun."""
    headers: Headers = ()
    content_type: bytes | None = None
    """The content type of an answer in one piece; None: it comes in pieces."""
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0
    error: ApiError | None = None
    is_broken: bool = False
    is_over: bool = False
    over_at: float = 0.0
    followers: int = 0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    changed: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    @property
    def started(self) -> bool:
        return self.status != 0

    @property
    def ended(self) -> bool:
        return self.is_over

    @property
    def is_good(self) -> bool:
        """Whether it is a whole answer, which may be given again."""
        return self.is_over and self.error is None and self.status == 200 and not self.is_broken

    async def reply(self, status: int, body: bytes, content_type: bytes = JSON, headers: Headers = ()) -> None:
        self.content_type = content_type
        await self.start(status, headers)
        await self.send(body)

    async def start(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, list(headers)
        self.changed.unpark_all()

    async def send(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > MAX_ANSWER_BYTES:
            raise unavailable(f"An answer to a request with an Idempotency-Key has at most {MAX_ANSWER_BYTES} bytes.")
        self.is_broken = self.is_broken or _ERROR_EVENT.search(chunk) is not None
        self.pieces.append(chunk)
        self.changed.unpark_all()
        await trio.lowlevel.checkpoint()

    async def end(self) -> None:
        """The end is noted when the handler returns."""

    async def follow(self, respond: Responder, *, is_replayed: bool) -> None:
        """Pass the answer to a client as it comes.

        Raises:
            ApiError: the answer did not begin.
        """
        while not self.is_over and (not self.started or self.content_type is not None):
            await self.changed.park()
        if not self.started:
            raise self.error or internal_error()
        headers = [*self.headers, *([REPLAYED] if is_replayed else [])]
        if self.content_type is not None:
            await respond.reply(self.status, b"".join(self.pieces), self.content_type, headers)
            return
        await respond.start(self.status, headers)
        sent = 0
        while sent < len(self.pieces) or not self.is_over:
            if sent == len(self.pieces):
                await self.changed.park()
                continue
            sent += 1
            await respond.send(self.pieces[sent - 1])
        if self.error is not None:
            await respond.send(self.error.event())
        await respond.end()


class ResentRequests:
    """The answers to requests with an Idempotency-Key, under way and kept."""

    def __init__(self) -> None:
        self._records: dict[_Place, _Record] = {}
        self._kept: dict[_Place, _Record] = {}
        """The whole answers, the oldest first."""
        self._kept_bytes = Counter[str]()
        """Bytes of those, by owner."""
        self._kept_counts = Counter[str]()
        self._under_way = Counter[str]()
        """Numbers of the others, by owner."""
        self._tasks = OwnedTasks()

    def __len__(self) -> int:
        return len(self._records)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out requests with a key, until cancelled."""
        await self._tasks.run(task_status=task_status)

    async def answer(self, owner: str, request: HttpRequest, respond: Responder, handle: Handler) -> None:
        """Answer a request of the API key ``owner`` with ``handle``, which is called once for all requests with its
        Idempotency-Key.

        Raises:
            ApiError: as ``handle`` does; 400 for a bad key; 422 for a key of a different request; 429 for too
                many of them at a time.
        """
        key = request.header(IDEMPOTENCY_KEY) or b""
        if not _KEY.fullmatch(key):
            raise bad_request(f"An Idempotency-Key has 1 to {MAX_KEY_CHARS} visible ASCII characters.")
        self._forget(trio.current_time())
        digest = hashlib.sha256(request.path.encode() + b"\0" + request.body).digest()
        found = self._records.get((owner, key))
        if found is not None and found.digest != digest:
            message = "This Idempotency-Key has come with another request."
            raise ApiError(422, message, INVALID_REQUEST, "idempotency_key_reused")
        record = found or self._begin(owner, key, digest, request, handle)
        record.followers += 1
        record.scope.deadline = math.inf
        try:
            await record.follow(respond, is_replayed=found is not None)
        finally:
            record.followers -= 1
            if not record.followers and not record.is_over:
                record.scope.deadline = trio.current_time() + ABANDONED_S

    def _begin(self, owner: str, key: bytes, digest: bytes, request: HttpRequest, handle: Handler) -> _Record:
        """Begin to carry out a request.

        Raises:
            ApiError: 429.
        """
        if self._under_way.total() >= MAX_UNDER_WAY or self._under_way[owner] >= MAX_UNDER_WAY // SHARE:
            raise too_many_requests("Too many requests with an Idempotency-Key are under way.", 1.0)
        if not self._tasks.are_running:
            raise unavailable("This node is not running.")
        record = self._records[owner, key] = _Record(owner, digest)
        self._under_way[owner] += 1
        self._tasks.start_soon(self._work, (owner, key), record, request, handle)
        return record

    async def _work(self, place: _Place, record: _Record, request: HttpRequest, handle: Handler) -> None:
        """Carry out one request, and keep its answer if it is whole."""
        try:
            with record.scope:
                await handle(request, cast(Responder, record))
        except ApiError as error:
            record.error = error
        except Exception:
            log.exception("a request with an Idempotency-Key failed")
            record.error = internal_error()
        finally:
            if record.scope.cancelled_caught:
                record.error = unavailable("Nobody waited for the answer any more.")
            record.is_over, record.over_at = True, trio.current_time()
            record.changed.unpark_all()
            self._under_way[record.owner] -= 1
            if not self._under_way[record.owner]:
                del self._under_way[record.owner]
            if record.is_good:
                self._keep(place, record)
            else:
                del self._records[place]

    def _keep(self, place: _Place, record: _Record) -> None:
        """Keep a whole answer, and forget the oldest beyond the bounds: those of its owner first."""
        kept, owner = self._kept, record.owner
        kept[place] = record
        self._kept_counts[owner] += 1
        self._kept_bytes[owner] += record.size
        while self._kept_counts[owner] > MAX_KEPT // SHARE or self._kept_bytes[owner] > MAX_KEPT_BYTES // SHARE:
            self._drop(next(each for each in kept if each[0] == owner))
        while len(kept) > MAX_KEPT or self._kept_bytes.total() > MAX_KEPT_BYTES:
            self._drop(next(iter(kept)))

    def _forget(self, now: float) -> None:
        """Forget the answers that are too old."""
        while self._kept:
            place, record = next(iter(self._kept.items()))
            if now - record.over_at <= KEPT_S:
                return
            self._drop(place)

    def _drop(self, place: _Place) -> None:
        record = self._kept.pop(place)
        del self._records[place]
        self._kept_counts[record.owner] -= 1
        self._kept_bytes[record.owner] -= record.size
        if not self._kept_counts[record.owner]:
            del self._kept_counts[record.owner], self._kept_bytes[record.owner]
