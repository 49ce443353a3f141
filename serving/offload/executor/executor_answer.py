"""The answer to an offer, from the executor's own backends: one begins it, and others may continue it.

When a stream is cut, another backend of the node gives the rest, as for a user of the node
(:mod:`serving.failover.continued_answer`). The originator sees one stream, under one hold, and pays for what it
received. An answer that others may check ends with the backend that was cut: in its transcript, the tokens of two
backends could not be told apart.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

import structlog
import trio

from serving.backends.backend import BackendError
from serving.failover.continued_answer import ContinuedAnswer, Part
from serving.failover.local import Tries, find_continuing
from serving.offload.context import AnswerTap
from serving.offload.executor.answer_writer import AnswerWriter
from serving.offload.executor.job import Job
from serving.offload.settings import ExecutorSettings
from serving.openai.answers import Answer, AnswerInspector
from serving.openai.requests import Request
from serving.scheduling.backend_pool import ScheduledBackend

log = structlog.get_logger(__name__)


class ExecutorAnswer:
    """The answer to the offer of ``job``. ``note_written`` is told how many bytes it has when a backend ends it."""

    def __init__(self, settings: ExecutorSettings, job: Job, note_written: Callable[[int], None]) -> None:
        self._settings = settings
        self._job = job
        self._note_written = note_written
        self._first = self._writer = AnswerWriter(settings, job.backend)
        """The writer that begins the answer, and the present one."""
        self._cut: list[ScheduledBackend] = []
        """Backends that were cut in the middle of it."""
        self._seen = AnswerInspector(stream=False)
        """Inspector of the bytes read so far while no writer is being read: empty before the first, final after the
        last."""
        self._whole: ContinuedAnswer | None = None
        """While it is read."""
        self._tapped = 0
        """Bytes from the tap that the inspector was given."""

    @property
    def inspector(self) -> AnswerInspector:
        """Has seen as much of the answer as was read."""
        return self._seen if self._whole is None else self._whole.inspector

    @property
    def began_at(self) -> float | None:
        """When the request got a slot of a backend."""
        return self._first.slot_at

    @property
    def is_queued(self) -> bool:
        """Whether the request waits at present: for a slot, or for others in the backend itself."""
        return self._writer.is_queued

    def note_read(self, *, is_read: bool) -> None:
        """Whether what is written is read, sooner or later."""
        self._writer.buffer.is_read = is_read

    async def begin(self, nursery: trio.Nursery, may_start: trio.Event | None) -> Answer:
        """Ask the backends, by tasks in ``nursery``, once they ``may_start`` (None: now). Returns the head.

        Raises:
            BackendError: none of them answers.
        """
        self._nursery, job = nursery, self._job
        tries = Tries(job.request, job.body if job.tap is None else job.tap.asked, job.demand, job.patience_s)
        nursery.start_soon(self._write, self._first, (job.backend, *job.others), tries, job.tap, may_start)
        return await self._first.buffer.get_head()

    async def read(self, head: Answer) -> AsyncGenerator[bytes, None]:
        """Whole events of a stream; any bytes of another answer. Once this is closed, no backend works for it any more.

        Raises:
            BackendError: it broke off, and nobody continues it. An error event in the answer is not passed on.
        """
        async with AsyncExitStack() as stack:
            begun = await self._open(stack, self._first, head)
            self._whole = ContinuedAnswer(self._job.request, begun, stack, self._ask_for_rest)
            try:
                async with aclosing(self._whole.read()) as body:
                    async for chunk in body:
                        yield chunk
            finally:  # it refers to this answer, to ask for the rest: the cycle would keep the body of the request
                self._seen, self._whole = self._whole.inspector, None

    def note_end(self) -> None:
        """The whole answer was sent."""
        self._writer.note_end(self.inspector.completion_bytes)

    def make_transcript(self) -> bytes | None:
        """The transcript of the part that was read, if there is one; may run in a thread."""
        return None if self._job.tap is None else self._job.tap.make_transcript(self._tapped)

    async def _write(
        self,
        writer: AnswerWriter,
        backends: tuple[ScheduledBackend, ...],
        tries: Tries,
        tap: AnswerTap | None,
        may_start: trio.Event | None,
    ) -> None:
        if may_start is not None:
            await may_start.wait()
        failure = await writer.write(backends, tries, tap)
        if failure is None:
            self._note_written(writer.written)
        writer.buffer.close(failure)

    async def _open(self, stack: AsyncExitStack, writer: AnswerWriter, head: Answer) -> Part:
        """The output of ``writer``, with an inspector for it; it ends with ``stack``."""
        request = self._job.request
        inspector = AnswerInspector(
            head.is_stream,
            form=request.endpoint.form,
            choices=request.choices,
            has_tools=request.has_tools,
            cut_long=True,
        )
        stack.push_async_callback(writer.stop)
        body = await stack.enter_async_context(aclosing(self._read(writer, head, inspector)))
        return replace(head, body=body), inspector

    async def _read(
        self, writer: AnswerWriter, head: Answer, inspector: AnswerInspector
    ) -> AsyncGenerator[bytes, None]:
        """The output of ``writer``, up to an error event.

        Raises:
            BackendError: it broke off, or ended too early.
        """
        while not inspector.is_too_long and (piece := await writer.buffer.get()):
            self._tapped += len(piece) if writer is self._first else 0
            passed = inspector.feed(piece)
            if inspector.error is not None:
                passed = passed.rpartition(inspector.error_event)[0]
            if passed:
                yield passed
            if inspector.error is not None:
                raise BackendError(inspector.error)
        if rest := inspector.finish():
            yield rest
        if head.status == 200 and head.is_stream and not inspector.is_complete:
            raise BackendError(inspector.error or "the backend broke off")

    async def _ask_for_rest(self, stack: AsyncExitStack, request: Request, written: int) -> Part | None:
        """Have another backend write the rest, after the ``written`` completion bytes so far. None: none does."""
        job = self._job
        self._cut.append(self._writer.backend)
        backends = tuple(find_continuing(job.find_backends(), request, self._cut))
        if job.tap is not None or not backends:
            return None
        self._writer = writer = AnswerWriter(self._settings, backends[0], written)
        tries = Tries(request, request.body, job.demand, job.patience_s)
        self._nursery.start_soon(self._write, writer, backends, tries, None, None)
        try:
            head = await writer.buffer.get_head()
        except BackendError as error:
            log.info("no backend goes on with an answer", model=request.model, reason=str(error))
            return None
        return await self._open(stack, writer, head)
