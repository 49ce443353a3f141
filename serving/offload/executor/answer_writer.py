"""Has a backend of an executor write an answer ahead of the sending of it.

The backend writes into a buffer of bounded size, in a task of its own. So its slot is free as soon as it has finished,
however slowly the originator reads. If it is cut in the middle of an answer, another backend writes the rest through
another writer (:mod:`serving.failover.continued_answer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

import trio

from p2p.network import NetworkError
from serving.backends.backend import BackendError
from serving.failover.local import BackendsFailed, Tries, ask_backends
from serving.failover.rules import CLIENT_ERRORS
from serving.offload.context import AnswerTap
from serving.offload.executor.answer_buffer import AnswerBuffer, BufferFull
from serving.offload.protocol import CHUNK_BYTES
from serving.offload.settings import ExecutorSettings
from serving.prediction.predicted_time import BYTES_PER_TOKEN
from serving.prediction.speed import AnswerTimer
from serving.scheduling.admission import NotAdmitted
from serving.scheduling.backend_pool import ScheduledBackend


class AnswerWriter:
    """One answer, or the rest of one of which others have written ``begun`` completion bytes.

    ``backend`` is the one that writes it, or the first that is asked.
    """

    def __init__(self, settings: ExecutorSettings, backend: ScheduledBackend, begun: int = 0) -> None:
        self.buffer = AnswerBuffer(settings.buffer_bytes, settings.coalescing_s, CHUNK_BYTES)
        """The bytes that are written and not sent yet."""
        self.backend = backend
        self.slot_at: float | None = None
        """When the request got its first slot."""
        self.written = begun
        """Bytes so far: as many completion bytes, at most."""
        self._begun = begun
        self._timer: AnswerTimer | None = None
        self._scope = trio.CancelScope()
        self._over = trio.Event()

    @property
    def is_queued(self) -> bool:
        """Whether the request waits: for a slot, or for others in the backend itself."""
        return self.slot_at is None or self.backend.is_backlogged

    async def write(
        self, backends: Sequence[ScheduledBackend], tries: Tries, tap: AnswerTap | None = None
    ) -> str | None:
        """Have the first of ``backends`` that delivers write into the buffer. Returns why it broke off, if it did.

        Raises:
            NetworkError: the buffer is full, and the originator away.
        """
        failure: str | None = None
        try:
            with self._scope:
                await self._write(backends, tries, tap)
        except BufferFull as error:
            raise NetworkError("the originator is away, and its answer is long") from error
        except BackendsFailed as error:
            if error.answer is None or error.answer.status not in CLIENT_ERRORS:
                failure = str(error)
            else:
                self.buffer.begin(error.answer)
                async for piece in error.answer.body:
                    await self.buffer.put(piece)
        except (NotAdmitted, BackendError) as error:
            failure = str(error)
        finally:
            self._over.set()
        return failure

    async def _write(self, backends: Sequence[ScheduledBackend], tries: Tries, tap: AnswerTap | None) -> None:
        slot_at = trio.current_time()

        def note_slot() -> None:
            nonlocal slot_at
            slot_at = trio.current_time()
            if self.slot_at is None:
                self.slot_at = slot_at

        async with AsyncExitStack() as stack:
            begun = await ask_backends(stack, backends, tries, note_slot)
            self.backend, answer = begun.backend, begun.answer
            self.buffer.begin(answer)
            self.buffer.is_gathered = answer.is_stream and answer.gather(self.buffer.interval)
            if tap is not None:
                tap.begin(answer.is_stream)
            request = tries.request
            self._timer = timer = begun.backend.meter.start_timer(
                request.model, len(request.body), slot_at, is_stream=begun.is_streamed, prefixes=request.prefixes
            )
            async for piece in begun.read():
                now = trio.current_time()
                passed = piece if tap is None else tap.feed(piece)
                self.written += len(passed)
                timer.feed(now, len(passed))
                await self.buffer.put(passed)
                timer.note_taken(trio.current_time(), trio.current_time() - now)
            if tap is not None:
                passed = tap.finish()
                self.written += len(passed)
                await self.buffer.put(passed)

    def note_end(self, completion_bytes: int) -> None:
        """The answer was sent to its end, with ``completion_bytes`` in all."""
        if self._timer is not None:
            self._timer.finish((completion_bytes - self._begun) / BYTES_PER_TOKEN)

    def cancel(self) -> None:
        """Stop the backend: no more is needed."""
        self._scope.cancel()

    async def stop(self) -> None:
        """Stop the backend, and wait until its slot is free, which takes a moment.

        The wait is shielded: a cancellation raised here could chain with an exception being handled, in a cycle of
        references.
        """
        self.cancel()
        with trio.CancelScope(shield=True):
            await self._over.wait()
