"""A streamed answer that survives its source: another source continues it where it was cut, as one stream.

Before the first content another try begins the answer anew (:mod:`serving.failover.local`, and the originator among
other nodes). From then on only the rest can be asked for, from a backend or an executor that continues the text so far.
A source that was cut is not asked again for this answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import structlog

from serving.backends.backend import BackendError
from serving.failover.continuation import MAX_CONTINUATIONS, count_written, make_continuation
from serving.failover.seam import BegunAgain, Seam
from serving.openai.answers import Answer, AnswerInspector
from serving.openai.requests import Request

log = structlog.get_logger(__name__)

Part = tuple[Answer, AnswerInspector]
"""The head and body of an answer, and the inspector that has seen the bytes so far."""
AskForRest = Callable[[AsyncExitStack, Request, int], Awaitable[Part | None]]
"""Asks for the rest, with the request for it, after so many completion bytes; None if nobody gives it.

Resources opened for it are closed with the stack."""


class ContinuedAnswer:
    """One answer to ``request``: begun by ``part``, whose resources are in ``stack``, and continued by others.

    ``ask`` asks them for the rest. ``blame`` is called if one begins the answer again, or repeats a part of it.
    """

    def __init__(
        self,
        request: Request,
        part: Part,
        stack: AsyncExitStack,
        ask: AskForRest,
        blame: Callable[[], None] = lambda: None,
    ) -> None:
        self.answer, self.inspector = part
        self._request = request
        self._stack = stack
        self._ask = ask
        self._blame = blame
        self.continuations = 0
        """How often another has gone on with it."""

    async def read(self) -> AsyncGenerator[bytes, None]:
        """The bytes of the body for the user, as they come.

        Raises:
            BackendError: it broke off, and nobody continues it.
        """
        body: AsyncIterator[bytes] = self.answer.body
        part = self.inspector
        seam: Seam | None = None
        while True:
            withheld = b""
            try:
                async for chunk in body:
                    if part.error_event and part.error_event in chunk:  # the last; shown if nobody goes on
                        chunk, error_event, after = chunk.rpartition(part.error_event)
                        withheld = error_event + after
                    if seam is not None:
                        chunk = self.inspector.feed(seam.feed(chunk))
                    if chunk:
                        yield chunk
                if seam is not None and seam.has_repeated:
                    self._blame()
                return
            except BackendError as error:
                if isinstance(error, BegunAgain):
                    self._blame()
                rest = await self._go_on(error)
                if isinstance(rest, bytes):
                    yield rest
                    return
                if rest is None:
                    if withheld:
                        yield withheld
                    raise
            body, part = rest[0].body, rest[1]
            self.inspector = self.inspector.go_on()
            assert self.inspector.written is not None
            written = self.inspector.written.join()
            seam = Seam(written, count_written(self.inspector), self.inspector.last_event)

    async def _go_on(self, error: BackendError) -> Part | bytes | None:
        """The rest of the answer; only its end if it has reached its limit; None if nobody continues it."""
        whole = self.inspector
        if whole.finish_reason or whole.is_over or not whole.completion_bytes:
            return None
        if self._request.max_tokens - count_written(whole) < 1:
            self.inspector = whole.go_on()
            return self.inspector.end()
        request = make_continuation(self._request, whole) if self.continuations < MAX_CONTINUATIONS else None
        if request is None:
            return None
        await self._stack.aclose()  # frees its slot, its exchange and its hold number first
        self.continuations += 1
        part = await self._ask(self._stack, request, whole.completion_bytes)
        if part is None or part[0].status != 200 or not part[0].is_stream:
            return None
        log.info("an answer is gone on with", model=request.model, written=whole.completion_bytes, after=str(error))
        return part
