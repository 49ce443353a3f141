"""A server of the model that the node starts itself, watches, restarts, and ends: ``vllm serve``, ``llama-server``.

The server runs under a guard (:mod:`serving.backends.process_guard`), which holds one end of a pipe: if this process
dies, the server dies too. It counts as dead until it answers, which takes minutes for a large model, and requests go
elsewhere meanwhile. One that has ended is started again, after a pause that doubles with each failure in a row. So is
one that has been ready and does not answer any more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
import trio

from p2p.backoff import Backoff
from serving.backends import process_guard
from serving.backends.openai_compatible import OpenAICompatibleBackend

log = structlog.get_logger(__name__)

GRACE_S = 10.0
"""Seconds that a server has to end when it is told to."""
SILENCE_S = 60.0
"""Seconds without an answer after which a server that was ready is started again."""
WATCH_INTERVAL_S = 1.0
"""Seconds between looks at whether it answers."""
STEADY_S = 300.0
"""Seconds after which the failures before no longer count for the pause."""
RESTART_PAUSE = Backoff(first_s=1.0, max_s=60.0)
"""Pause before a server is started again."""
KEY_VARIABLES = ("VLLM_API_KEY", "LLAMA_API_KEY")
"""Environment variables in which servers look for the API key that they ask for. Arguments are seen by all users."""


class SupervisedBackend(OpenAICompatibleBackend):
    """A server that runs as long as :meth:`run` does."""

    def __init__(self, base_url: str, command: Sequence[str], *, api_key: str | None = None, **options: Any) -> None:
        """``command`` starts the server, which answers at ``base_url`` then. ``options``: those of the base class."""
        super().__init__(base_url, api_key=api_key, **options)
        self._command = list(command)
        self._environment = {**os.environ, **dict.fromkeys(KEY_VARIABLES, api_key)} if api_key else None
        self.starts = 0
        """How often the server was started."""

    async def run(self) -> None:
        """Run the server and probe it, until cancelled; it has ended when this returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super().run)
            await self._supervise()

    async def _supervise(self) -> None:
        failures = 0
        while True:
            started_at = trio.current_time()
            reason = await self._run_once()
            ran_s = trio.current_time() - started_at
            failures = 0 if ran_s >= STEADY_S else failures
            pause_s = RESTART_PAUSE.get_delay(failures)
            failures += 1
            log.error("the server of the model is started again", reason=reason, after_s=round(ran_s), in_s=pause_s)
            await trio.sleep(pause_s)

    async def _run_once(self) -> str:
        """Run the server until it ends or answers no more. Returns why that was."""
        self.starts += 1
        log.info("the server of the model starts", command=self._command[0], times=self.starts)
        guard = [sys.executable, "-I", str(Path(process_guard.__file__)), str(GRACE_S), *self._command]
        process = await trio.lowlevel.open_process(guard, stdin=subprocess.PIPE, env=self._environment)
        assert process.stdin is not None
        reason = ""
        try:
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    nonlocal reason
                    await self._watch(trio.current_time())
                    reason = f"it has not answered for {SILENCE_S:.0f} s"
                    nursery.cancel_scope.cancel()

                nursery.start_soon(watch)
                reason = f"it ended with status {await process.wait()}"
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await process.stdin.aclose()  # which tells the guard to end it
                await process.wait()
        return reason

    async def _watch(self, started_at: float) -> None:
        """Return when the server has been ready and does not answer any more."""
        ready, silent_since = False, None
        while True:
            await trio.sleep(WATCH_INTERVAL_S)
            now = trio.current_time()
            if self.is_alive():
                if not ready:
                    log.info("the server of the model answers", after_s=round(now - started_at))
                ready, silent_since = True, None
            elif ready:
                silent_since = now if silent_since is None else silent_since
                if now - silent_since >= SILENCE_S:
                    return
