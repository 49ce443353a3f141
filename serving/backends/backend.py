"""The interface to the model: stream one completion, report load.

A backend is any OpenAI-compatible server (``openai_compatible``), the small model inside this process (``embedded``) or
a modelled GPU (``modelled``, for simulation). Bodies are passed through as bytes: the node never rewrites what a model
said.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


class BackendError(Exception):
    """The backend could not be reached, or broke off in the middle of an answer."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a backend is.

    ``running`` and ``waiting`` are requests; ``utilization`` is a fraction of capacity, 0 idle to 1 full (more when
    requests wait). ``known`` is False when only the node's own count of requests in flight stands behind the numbers.
    """

    running: int
    waiting: int
    utilization: float
    known: bool


@dataclass(frozen=True, slots=True)
class BackendResponse:
    """Head of a backend's answer, and its body after transfer decoding.

    ``body`` may be iterated once; it raises :class:`BackendError` if the backend breaks off.
    """

    status: int
    content_type: str
    body: AsyncIterator[bytes]


class Backend(Protocol):
    """Something that answers OpenAI-compatible requests."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models it serves (fixed by configuration or discovered at start)."""

    def complete(self, path: str, body: bytes) -> AbstractAsyncContextManager[BackendResponse]:
        """POST ``body`` (JSON) to ``path`` (such as ``/v1/chat/completions``). Leaving the context cancels the work.

        Raises:
            BackendError: on entering, when the backend does not answer.
        """

    async def load(self) -> Load:
        """Current load. Never raises: an unreachable backend reports itself full (utilization 1, known False)."""

    async def is_alive(self) -> bool:
        """Whether the backend answers at all."""

    async def run(self) -> None:
        """Run what the backend needs beside requests (probes, an embedded server) until cancelled."""
