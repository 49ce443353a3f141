"""Any server that speaks OpenAI's API over HTTP: vLLM, SGLang, llama.cpp, or a provider behind a key.

Bodies pass through in both directions. :meth:`OpenAICompatibleBackend.run` probes the server: it reads the metrics page
about once a second or, where there is none, asks for the list of models every few seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from chain.histogram import Histogram
from serving.backends.backend import CONTINUATION, BackendError, Load, ModelLimits
from serving.backends.load_metrics import (
    CONTINUING,
    PARSERS,
    LoadReader,
    MetricsPage,
    compute_full_load,
    compute_load,
    detect_reader,
)
from serving.http.client import HttpClientError, HttpPool, HttpResponse, HttpTimeouts
from serving.http.messages import read_retry_after
from serving.openai.answers import Answer
from serving.openai.bodies import parse_json
from serving.openai.number_formats import complete_label, find_label, is_label
from serving.openai.requests import encode_body

log = structlog.get_logger(__name__)

METRICS_READ_INTERVAL_S = 1.0
"""Seconds between reads of the metrics page."""
RETRY_INTERVAL_S = 0.2
"""Seconds from a failed probe to the next, until the backend counts as dead."""
HEALTH_INTERVAL_S = 5.0
"""Seconds between health checks where there is no metrics page."""
DEAD_AFTER_FAILURES = 2
"""Failed probes in a row after which a backend counts as dead."""
PROBE_TIMEOUTS = HttpTimeouts(connect_s=2.0, first_byte_s=3.0, stall_s=3.0)
"""Patience of probes."""
PROBE_BOUNDS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5)
"""Bounds of the histogram of times of probes."""
MAX_NAME_CHARS = 512
"""So much of the name of a model is looked at for its number formats."""
MAX_CONTEXT_LENGTH = 2**31
"""A context length from here on is not believed."""


NOTHING_LISTED = ModelLimits()
"""What the list of a server tells of a model that is not in it."""


@dataclass(frozen=True, slots=True)
class BackendTimeouts:
    """Patience in seconds. ``answer_s`` replaces ``first_byte_s`` for an answer that comes in one piece."""

    connect_s: float = 5.0
    first_byte_s: float = 30.0
    stall_s: float = 15.0
    answer_s: float = 600.0


class OpenAICompatibleBackend:
    """A backend reached over HTTP. It counts as dead until :meth:`run` has probed it."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        models: tuple[str, ...] = (),
        load_reader: LoadReader = "auto",
        capacity: int = 32,
        timeouts: BackendTimeouts | None = None,
        limits: ModelLimits | None = None,
        aliases: Mapping[str, str] | None = None,
        quantizations: Mapping[str, str] | None = None,
        weight: float = 1.0,
        continues: bool | None = None,
    ) -> None:
        """``models`` empty: asked for at ``/v1/models``. ``capacity``: requests it runs at a time before they queue.
        ``limits`` are those of each model; a context length of 0 is asked for there as well. ``aliases`` are names of
        models here, with what the server calls each of them. ``quantizations`` are labels of number formats by model;
        of the others it is believed what the list says or their names do, and of the cache what the metrics page says
        where a label does not. ``weight``: see :attr:`weight`.
        ``continues``: whether it goes on with an answer that is begun; None: if its metrics page is of a
        server that does.

        Raises:
            ValueError: ``base_url`` or ``capacity`` is not valid.
        """
        if capacity < 1:
            raise ValueError(f"the capacity of a backend is at least 1, not {capacity}")
        patience = timeouts or BackendTimeouts()
        streamed = HttpTimeouts(patience.connect_s, patience.first_byte_s, patience.stall_s)
        self._whole = HttpTimeouts(patience.connect_s, patience.answer_s, patience.stall_s)
        self._base_url = base_url
        self._fault: str | None = None
        """What is wrong with the last list of models, if it is not alive."""
        self._pool = HttpPool(base_url, api_key=api_key, timeouts=streamed, max_connections=2 * capacity + 64)
        # Probes have connections of their own: requests that fill the pool must not make the backend look dead.
        self._probes = HttpPool(base_url, api_key=api_key, timeouts=PROBE_TIMEOUTS, max_connections=2, max_idle=1)
        self._configured = models
        self._aliases = dict(aliases or {})
        self._known_as = {name: alias for alias, name in self._aliases.items()}
        self._discovered: tuple[str, ...] = ()
        self._limits = limits or ModelLimits()
        self._features = self._limits.features - {CONTINUATION}
        self._continuing = self._features | {CONTINUATION}
        self._quantizations = dict(quantizations or {})
        self._listed: dict[str, ModelLimits] = {}
        """What the server's list tells of each model."""
        self.weight = weight
        """How many times as many requests it gets, for its capacity, as another backend of its model of weight 1."""
        self._continues = continues
        self._capacity = capacity
        self._reader: LoadReader = load_reader
        self._page: MetricsPage | None = None
        self._cache_format = ""
        """That of its key-value cache, as the last metrics page said."""
        self._page_reachable = False
        self._own_at_page = 0
        self._in_flight = 0
        self._load_source: tuple[bool, MetricsPage | None, int, int] | None = None
        """What the load was computed of last: it is asked for several times for each request."""
        self._load = compute_full_load(0, capacity)
        self._failures = 0
        self._models_read_at = float("-inf")
        self._alive = trio.Event()
        self._probe_now = trio.Event()
        self.probe_times = Histogram(PROBE_BOUNDS_S)
        """See :class:`serving.backends.backend.ProbedBackend`."""

    @property
    def models(self) -> tuple[str, ...]:
        """The configured models, else those the server listed."""
        return self._configured or self._discovered

    @property
    def in_flight(self) -> int:
        """This node's own requests that the backend is working on."""
        return self._in_flight

    def complete(self, path: str, body: bytes, *, stream: bool) -> _Completion:
        """See :meth:`serving.backends.backend.Backend.complete`. The first byte of a stream has its own timeout."""
        return _Completion(self, path, body, is_stream=stream)

    async def send(self, path: str, body: bytes, *, is_stream: bool) -> HttpResponse:
        """Ask the server; the request is in flight until its response is given to :meth:`end`.

        Raises:
            BackendError: it does not answer.
        """
        body = self._rename(body)
        self._in_flight += 1
        try:
            return await self._pool.send("POST", path, body, None if is_stream else self._whole)
        except BaseException as error:
            self._in_flight -= 1
            if not isinstance(error, HttpClientError):
                raise
            self._probe_now.set()
            raise BackendError(str(error)) from error

    async def end(self, response: HttpResponse) -> None:
        """No more of a response is needed."""
        try:
            await response.aclose()
        finally:
            self._in_flight -= 1

    def _rename(self, body: bytes) -> bytes:
        """``body`` with the server's own name of the model. Without an alias the very same bytes."""
        content = parse_json(body) if self._aliases else None
        model = content.get("model") if isinstance(content, dict) else None
        name = self._aliases.get(model) if isinstance(model, str) else None
        return body if name is None or content is None else encode_body({**content, "model": name})

    def get_load(self) -> Load:
        """See :meth:`serving.backends.backend.Backend.get_load`. Does no I/O: the page is at most a few seconds old."""
        source = (self._alive.is_set() and self._page_reachable, self._page, self._own_at_page, self._in_flight)
        if source != self._load_source:
            self._load_source, self._load = source, self._compute_load()
        return self._load

    def _compute_load(self) -> Load:
        if not self._alive.is_set() or not self._page_reachable:
            return compute_full_load(self._in_flight, self._capacity)
        return compute_load(self._page, self._own_at_page, self._in_flight, self._capacity)

    def get_limits(self, model: str) -> ModelLimits:
        """See :meth:`serving.backends.backend.Backend.get_limits`."""
        listed = self._listed.get(model, NOTHING_LISTED)
        length = self._limits.context_length or listed.context_length
        label = self._quantizations.get(model) or listed.quantization or find_label(model)
        quantization = complete_label(label, "", self._cache_format)
        continues = self._reader in CONTINUING if self._continues is None else self._continues
        return ModelLimits(length, self._continuing if continues else self._features, quantization)

    def is_alive(self) -> bool:
        """Whether one of the last two probes was answered."""
        return self._alive.is_set()

    @property
    def place(self) -> str:
        """Its URL."""
        return self._base_url

    @property
    def fault(self) -> str | None:
        """Why the last probes were not answered, if they were not."""
        return None if self._alive.is_set() else self._fault

    async def wait_alive(self) -> None:
        """Return once the backend has answered a probe."""
        await self._alive.wait()

    async def run(self) -> None:
        """Probe until cancelled, then close the connections that are kept."""
        try:
            while True:
                urgent = self._probe_now.is_set()
                self._probe_now = trio.Event()
                await self._probe(urgent)
                undecided = 0 < self._failures < DEAD_AFTER_FAILURES
                with trio.move_on_after(METRICS_READ_INTERVAL_S):
                    await trio.sleep(RETRY_INTERVAL_S)  # failing requests ask for a probe, but not for a flood of them
                    if not undecided:
                        await self._probe_now.wait()
        finally:
            await self._pool.aclose()
            await self._probes.aclose()

    # --- probes ---

    async def _probe(self, urgent: bool) -> None:
        """Read the metrics page. If it does not show a server that is alive, and now and then, ask for the models."""
        answered = await self._read_page()
        now = trio.current_time()
        due = now - self._models_read_at >= HEALTH_INTERVAL_S
        if not self.models or (not answered and (urgent or due or self._failures > 0 or not self._page_reachable)):
            answered = await self._read_models()
            self._models_read_at = now
        elif not answered:
            return
        self._failures = 0 if answered else self._failures + 1
        if answered:
            self._alive.set()
        elif self._failures == DEAD_AFTER_FAILURES:
            log.warning("backend is not usable: it does not answer, or lists no models", url=self._probes.url.authority)
            if self._alive.is_set():
                self._alive = trio.Event()

    async def _ask(self, path: str) -> tuple[int, bytes]:
        """Status and body of one of the server's pages.

        Raises:
            HttpClientError: there is no answer.
        """
        began = trio.current_time()
        try:
            async with self._probes.request("GET", path) as response:
                return response.status, await response.read()
        finally:
            self.probe_times.observe(trio.current_time() - began)

    async def _read_page(self) -> bool:
        """Read the metrics page. Returns whether the server answered with one that says something."""
        if self._reader == "none":
            self._page_reachable = True  # there is no page to miss
            return False
        before = self._in_flight
        try:
            status, page = await self._ask("/metrics")
        except HttpClientError:
            self._page_reachable = False
            return False
        if status >= 500:
            self._page_reachable = False
            return False
        if status == 404 and self._reader == "auto":
            self._reader = "none"
        # Of a server without a page, or with nothing on it yet, only this node's own requests count.
        self._page_reachable = True
        text = page.decode("utf-8", "replace") if status == 200 else ""
        if self._reader == "auto" and (reader := detect_reader(text)):
            self._reader = reader
        parse = PARSERS.get(self._reader)
        self._page = parse(text) if parse else None
        if self._page is not None:
            self._cache_format = self._page.cache_format
        self._own_at_page = max(before, self._in_flight)
        return self._page is not None

    async def _read_models(self) -> bool:
        """Ask for the list of models. Returns whether the answer shows a usable server."""
        try:
            status, body = await self._ask("/v1/models")
        except HttpClientError as error:
            self._fault = str(error) or "does not answer"
            return False
        self._fault = f"answers {status} to GET /v1/models" if status != 200 else "lists no model"
        if status == 200:
            listed = _parse_models(body)
            self._listed = {self._known_as.get(name, name): limits for name, limits in listed.items()}
            self._discovered = tuple(self._listed)
            if missing := [name for name in self._configured if self._discovered and name not in self._discovered]:
                log.warning("backend does not list a configured model", missing=missing, listed=self._discovered)
        elif status in (401, 403):
            log.warning("backend refuses the API key", url=self._probes.url.authority, status=status)
        # Servers without this path are usable if the models are configured; a refused key never is.
        return status < 500 and status not in (401, 403) and bool(self.models)


class _Completion:
    """A request to a backend, which is in flight within the context. As a generator it would cost five times."""

    def __init__(self, backend: OpenAICompatibleBackend, path: str, body: bytes, *, is_stream: bool) -> None:
        self._backend = backend
        self._path = path
        self._body = body
        self._is_stream = is_stream

    async def __aenter__(self) -> Answer:
        self._response = response = await self._backend.send(self._path, self._body, is_stream=self._is_stream)
        content_type = response.header(b"content-type") or b"application/json"
        retry_after_s = read_retry_after(response.headers) if response.status != 200 else 0.0
        body_type = content_type.decode("latin-1")
        return Answer(response.status, body_type, _Body(response), retry_after_s, response.gather)

    async def __aexit__(self, *_: object) -> None:
        await self._backend.end(self._response)


class _Body:
    """The body of a response, its errors translated."""

    def __init__(self, response: HttpResponse) -> None:
        self._response = response

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._response.__anext__()
        except HttpClientError as error:
            raise BackendError(str(error)) from error


def _parse_models(body: bytes) -> dict[str, ModelLimits]:
    """Names in an answer of ``/v1/models``, with what it tells of each; empty if it is no such answer.

    vLLM and SGLang tell the context length, and where the weights are from (``root``); llama.cpp their format.
    """
    try:
        return {
            str(model["id"]): ModelLimits(_read_length(model.get("max_model_len")), quantization=_read_label(model))
            for model in json.loads(body)["data"]
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _read_label(model: Mapping[str, Any]) -> str:
    """The label of number formats that an entry of the list has, or that the names in it say."""
    meta = model.get("meta")
    told = meta.get("ftype") if isinstance(meta, dict) else None
    if isinstance(told, str) and is_label(told):
        return told
    return find_label(f"{str(model.get('root') or '')[:MAX_NAME_CHARS]} {str(model['id'])[:MAX_NAME_CHARS]}")


def _read_length(value: object) -> int:
    return value if type(value) is int and 0 < value < MAX_CONTEXT_LENGTH else 0
