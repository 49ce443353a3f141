"""The interface to the model: stream one completion, report load.

A backend is any OpenAI-compatible server (``openai_compatible``), the small model inside this process (``embedded``) or
a modelled GPU (``serving.simulation``). Bodies are passed through as bytes: the node never rewrites what a model
said.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

import msgspec

from chain.histogram import Histogram
from serving.openai.answers import Answer


class BackendError(Exception):
    """The backend could not be reached, or broke off in the middle of an answer."""


class ErrorEventSent(BackendError):
    """A stream ended with an error event of the backend, which has been passed on."""


class Load(msgspec.Struct, frozen=True, gc=False):
    """How busy a backend is.

    ``running`` and ``waiting`` are requests; ``utilization`` is a fraction of capacity, 0 idle to 1 full (more when
    requests wait). ``known`` is False when only the node's own count of requests in flight stands behind the numbers.
    ``cache_tokens``: how many tokens of context all running requests can have together (0: unknown).
    """

    running: int
    waiting: int
    utilization: float
    known: bool
    cache_tokens: int = 0


CONTINUATION = "continuation"
"""The feature of continuing an answer in a chat (:mod:`serving.openai.begun_answers`)."""
FEATURES = ("tools", "vision", "logprobs", "completions", "embeddings", CONTINUATION)
"""What a request may ask of a model beyond chats of text, in the order of their bits in an announcement."""
ASSUMED_FEATURES = frozenset(FEATURES) - {CONTINUATION}
"""Features of a backend of which nothing is known. A backend that cannot continue an answer would begin it again."""


class ModelLimits(msgspec.Struct, frozen=True, gc=False):
    """What a model can take: tokens of prompt and output together (0: unknown), and which of :data:`FEATURES`.

    ``quantization`` is the label of the number formats of weights, activations and key-value cache
    (:mod:`serving.openai.number_formats`), empty if unknown.
    """

    context_length: int = 0
    features: frozenset[str] = ASSUMED_FEATURES
    quantization: str = ""


class Backend(Protocol):
    """Something that answers OpenAI-compatible requests."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models it serves (fixed by configuration or discovered at start)."""

    def complete(self, path: str, body: bytes, *, stream: bool) -> AbstractAsyncContextManager[Answer]:
        """POST ``body`` (JSON) to ``path`` (such as ``/v1/chat/completions``). Leaving the context cancels the work.

        ``stream`` is what the body says of itself, so that it need not be parsed again.

        Raises:
            BackendError: on entering, when the backend does not answer.
        """

    def get_load(self) -> Load:
        """Current load. Never raises: an unreachable backend reports itself full (utilization 1, known False)."""

    def get_limits(self, model: str) -> ModelLimits:
        """What one of its models can take."""

    def is_alive(self) -> bool:
        """Whether the backend answers at all."""

    async def wait_alive(self) -> None:
        """Return once the backend answers."""

    async def run(self) -> None:
        """Run what the backend needs apart from requests (probes, an embedded server) until cancelled."""


@runtime_checkable
class WeightedBackend(Protocol):
    """A backend to which its owner gives another part of the requests than its capacity says."""

    weight: float
    """How many times as many requests it gets, for its capacity, as another backend of its model of weight 1."""


@runtime_checkable
class LoadedBackend(Protocol):
    """A backend whose model this process loads."""

    async def wait_loaded(self) -> None:
        """Return once it is loaded."""


@runtime_checkable
class ProbedBackend(Protocol):
    """A backend that is asked now and then how it is."""

    @property
    def probe_times(self) -> Histogram:
        """Seconds that each answer took, or that went by until none came."""


@runtime_checkable
class LocatedBackend(Protocol):
    """A backend that says where it is."""

    @property
    def place(self) -> str:
        """Its URL, or ``embedded``."""

    @property
    def fault(self) -> str | None:
        """Why it does not answer, if it does not."""
