"""The check of a backend that answered the request of a stranger with an error: which of the two is at fault?

A healthy server answers some requests with an error, such as one with a grammar that it cannot compile. An attacker may
send them on purpose: two in a row would open the backend's breaker, and the node would serve nobody. So an error in
answer to a stranger (another node, or a user with an API key) is only a doubt. Then the node itself asks for one token,
and the outcome of that goes into the breaker.

Silence and a lost connection count as failures at once: the check itself would have to wait for them again.
"""

from __future__ import annotations

import json

import structlog
import trio

from serving.backends.backend import Backend, BackendError
from serving.openai.requests import CHAT_COMPLETIONS
from serving.prediction.speed import SpeedMeter
from serving.scheduling.circuit_breaker import CircuitBreaker

log = structlog.get_logger(__name__)

CHECK_TIMEOUT_S = 10.0
"""Seconds for one token, unless other answers are seen to grow meanwhile."""
SAYS_NOTHING = (400, 404, 405, 413, 422, 429, 501)
"""Statuses by which a server refuses this question though it may answer others: it has no chat, or is busy."""


async def check_backend(backend: Backend, model: str, breaker: CircuitBreaker, meter: SpeedMeter) -> None:
    """Ask a backend for one token of ``model``, and note the outcome in its breaker."""
    since, fault = trio.current_time(), "no answer in time"
    with trio.move_on_after(CHECK_TIMEOUT_S):
        fault = await _ask(backend, model)
    now = trio.current_time()
    if fault and meter.content_at < since:
        log.warning("a backend fails this node's own check", model=model, reason=fault)
        breaker.note_check_failed(now)
    else:
        breaker.note_answer()


async def _ask(backend: Backend, model: str) -> str:
    """Ask for one token. Returns what is wrong with the backend; empty if nothing is."""
    question = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    try:
        async with backend.complete(CHAT_COMPLETIONS, json.dumps(question).encode(), stream=False) as answer:
            async for _ in answer.body:
                pass
            works = answer.status == 200 or answer.status in SAYS_NOTHING
            return "" if works else f"it answered {answer.status}"
    except BackendError as error:
        return str(error)
