"""What answers at a URL: which server it is, and what it says of its models. Pure.

:meth:`Detection.ask` names the requests to send, :meth:`Detection.feed` takes the replies, and :meth:`Detection.finish`
says what was found. Each server shows itself by a path of its own: its version, its settings, or how it signs its list
of models. All of them list their models at ``/v1/models``; what else they tell differs.

============  ====================================  ==========================================================
server        known by                              tells
============  ====================================  ==========================================================
vLLM          ``/version``, ``owned_by``            repository or path, context, number format of the KV cache
SGLang        ``/get_server_info``                  the same, with revision, quantization and type of the activations
llama.cpp     ``/props``, ``owned_by``              slots, context, quantization, whether it sees images
Ollama        ``/api/version``                      digest, quantization, context, tools, vision
LM Studio     ``/api/v0/models``                    publisher, quantization, context, what is loaded
LiteLLM       ``/health/liveliness``                context, tools and vision, of what it passes requests on to
============  ====================================  ==========================================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from serving.backends.load_metrics import LoadReader, detect_reader
from serving.openai.number_formats import complete_label, find_label

MAX_DESCRIBED_MODELS = 32
"""Models of which Ollama is asked one by one."""
MAX_TEXT_CHARS = 200
"""Longest text that is believed."""
MAX_NUMBER = 2**31
"""Numbers from here on are not believed."""

LIST = "/v1/models"
VERSION = "/version"
SERVER_INFO = "/get_server_info"
PROPS = "/props"
OLLAMA_VERSION = "/api/version"
OLLAMA_TAGS = "/api/tags"
OLLAMA_SHOW = "/api/show"
LM_STUDIO = "/api/v0/models"
LITELLM_ALIVE = "/health/liveliness"
LITELLM_INFO = "/model/info"
METRICS = "/metrics"

OWN_KIND = "wwwserve"
"""The kind of a node, whose API is one like the others."""
NAMES = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "llamacpp": "llama.cpp",
    "ollama": "Ollama",
    "lmstudio": "LM Studio",
    "litellm": "LiteLLM",
    "openai": "a server of OpenAI's API",
    OWN_KIND: "a node",
}
"""How people call each kind of server."""

WEIGHT_ONLY = ("", "awq", "awq_marlin", "gptq", "gptq_marlin")
"""Methods of quantization, as SGLang calls them, that leave the activations in the type that it computes in."""

_KV_FORMAT = re.compile(r'vllm:cache_config_info\{[^}]*cache_dtype="([^"]{1,32})"')


@dataclass(frozen=True, slots=True)
class Probe:
    """A request to send; ``body`` is JSON (None: a GET)."""

    path: str
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; status 0 if nothing did."""

    status: int
    body: bytes = b""

    def read(self) -> Any:
        """The JSON of a success, else None."""
        if self.status != 200:
            return None
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class FoundModel:
    """What a server says of one model; empty or 0 where it does not say.

    ``repository`` is where the weights are from, or their file, and ``revision`` which of them: a commit, or a digest.
    ``quantization``, ``activation_format`` and ``kv_format`` are number formats. ``context_length`` is in tokens.
    ``features`` are what requests may ask for beyond text; None if it does not say.
    """

    name: str
    repository: str = ""
    revision: str = ""
    quantization: str = ""
    activation_format: str = ""
    kv_format: str = ""
    context_length: int = 0
    features: frozenset[str] | None = None
    is_loaded: bool = True
    is_generator: bool = True
    """False for models that make no text: of embeddings, for example."""

    @property
    def label(self) -> str:
        """All that is said of number formats, as one label; empty if nothing is."""
        return complete_label(self.quantization, self.activation_format, self.kv_format)


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A server: its kind (a key of :data:`NAMES`), its version if it tells, its models, and how to read its load.

    ``slots`` is how many requests it runs at a time, if it says so.
    """

    kind: str
    version: str
    models: tuple[FoundModel, ...]
    load: LoadReader = "auto"
    slots: int = 0


class DetectionFailed(Exception):
    """Nothing usable answers there. The message says why."""


@dataclass(slots=True)
class Detection:
    """One server that is being found out about."""

    replies: dict[Probe, Reply] = field(default_factory=dict)

    def ask(self) -> Sequence[Probe]:
        """The requests to send next; none when enough is known."""
        if not self.replies:
            return [
                Probe(path)
                for path in (LIST, VERSION, SERVER_INFO, PROPS, OLLAMA_VERSION, LM_STUDIO, LITELLM_ALIVE, METRICS)
            ]
        kind = self._find_kind()
        wanted: list[Probe] = []
        if kind == "litellm":
            wanted.append(Probe(LITELLM_INFO))
        if kind == "ollama":
            names = [model.name for model in self._read_list()][:MAX_DESCRIBED_MODELS]
            wanted += [Probe(OLLAMA_TAGS), *(_ask_ollama(name) for name in names)]
        return [probe for probe in wanted if probe not in self.replies]

    def feed(self, probe: Probe, reply: Reply) -> None:
        """What came back to one of them."""
        self.replies[probe] = reply

    def finish(self) -> FoundServer:
        """What was found.

        Raises:
            DetectionFailed: no usable server.
        """
        answered = self._get(LIST).status
        if answered == 0:
            raise DetectionFailed("nothing answers there")
        if answered in (401, 403):
            raise DetectionFailed("the server wants an API key: name the environment variable with it (--api-key-env)")
        models = self._read_list()
        if not models:
            raise DetectionFailed(f"the server lists no models (GET {LIST}: status {answered})")
        kind = self._find_kind()
        describe = getattr(self, f"_describe_{kind}", None)
        if describe is not None:
            models = [describe(model) for model in models]
        models = [_guess(model) for model in models]
        return FoundServer(kind, self._find_version(kind), tuple(models), self._find_load(kind), self._find_slots(kind))

    # Which server

    def _get(self, path: str) -> Reply:
        return self.replies.get(Probe(path), Reply(0))

    def _read(self, path: str) -> Any:
        return self._get(path).read()

    def _find_kind(self) -> str:
        owners = {str(entry.get("owned_by")) for entry in _get_dicts(self._read(LIST), "data")}
        reader = detect_reader(self._get_page())
        if OWN_KIND in owners:
            return OWN_KIND
        if _get_text(self._read(OLLAMA_VERSION), "version"):
            return "ollama"
        if _get_text(self._read(SERVER_INFO), "model_path") or "sglang" in owners or reader == "sglang":
            return "sglang"
        if "vllm" in owners or reader == "vllm":
            return "vllm"
        if isinstance(_get(self._read(PROPS), "total_slots"), int) or "llamacpp" in owners or reader == "llamacpp":
            return "llamacpp"
        if any(isinstance(entry.get("state"), str) for entry in _get_dicts(self._read(LM_STUDIO), "data")):
            return "lmstudio"
        if self._get(LITELLM_ALIVE).status == 200 and b"alive" in self._get(LITELLM_ALIVE).body[:64]:
            return "litellm"
        return "openai"

    def _get_page(self) -> str:
        page = self._get(METRICS)
        return page.body.decode("utf-8", "replace") if page.status == 200 else ""

    def _find_version(self, kind: str) -> str:
        path = {"ollama": OLLAMA_VERSION, "vllm": VERSION, "sglang": SERVER_INFO}.get(kind)
        if path is not None:
            return _get_text(self._read(path), "version")
        return _get_text(self._read(PROPS), "build_info") if kind == "llamacpp" else ""

    def _find_load(self, kind: str) -> LoadReader:
        reader = detect_reader(self._get_page())
        return reader or ("none" if self._get(METRICS).status in (404, 405, 501) else "auto")

    def _find_slots(self, kind: str) -> int:
        if kind == "llamacpp":
            return _get_number(self._read(PROPS), "total_slots")
        return _get_number(self._read(SERVER_INFO), "max_running_requests") if kind == "sglang" else 0

    # Which models

    def _read_list(self) -> list[FoundModel]:
        entries = _get_dicts(self._read(LIST), "data")
        return [FoundModel(name) for entry in entries if (name := _get_text(entry, "id"))]

    def _find_entry(self, path: str, key: str, name: str, inside: str = "data") -> dict[str, Any]:
        entries = _get_dicts(self._read(path), inside)
        return next((entry for entry in entries if entry.get(key) == name), {})

    def _describe_vllm(self, model: FoundModel) -> FoundModel:
        entry = self._find_entry(LIST, "id", model.name)
        kv_format = _KV_FORMAT.search(self._get_page())
        return replace(
            model,
            repository=_get_text(entry, "root"),
            kv_format=kv_format[1] if kv_format else "",
            context_length=_get_number(entry, "max_model_len"),
        )

    def _describe_sglang(self, model: FoundModel) -> FoundModel:
        entry, info = self._find_entry(LIST, "id", model.name), self._read(SERVER_INFO)
        method, computed = _get_text(info, "quantization"), _get_text(info, "dtype").removesuffix("auto")
        return replace(
            model,
            repository=_get_text(info, "model_path") or _get_text(entry, "root"),
            revision=_get_text(info, "revision"),
            quantization=method or computed,
            activation_format=computed if method in WEIGHT_ONLY else "",
            kv_format=_get_text(info, "kv_cache_dtype"),
            context_length=_get_number(entry, "max_model_len") or _get_number(info, "context_length"),
            is_generator=_get(info, "is_embedding") is not True,
        )

    def _describe_llamacpp(self, model: FoundModel) -> FoundModel:
        meta = _get(self._find_entry(LIST, "id", model.name), "meta")
        props = self._read(PROPS)
        context = _get_number(_get(props, "default_generation_settings"), "n_ctx") or _get_number(meta, "n_ctx")
        features = {"logprobs"}
        if "tools" in _get_text(props, "chat_template", limit=MAX_NUMBER):
            features.add("tools")
        if _get(_get(props, "modalities"), "vision") is True:
            features.add("vision")
        return replace(
            model,
            repository=PurePosixPath(_get_text(props, "model_path")).name,
            quantization=_get_text(meta, "ftype"),
            context_length=context,
            features=frozenset(features) if props else None,
        )

    def _describe_ollama(self, model: FoundModel) -> FoundModel:
        tag = self._find_entry(OLLAMA_TAGS, "name", model.name, "models")
        shown = self.replies.get(_ask_ollama(model.name), Reply(0)).read()
        details = _get(shown, "details") or _get(tag, "details")
        info = _get(shown, "model_info")
        context = _get_number(info, f"{_get_text(info, 'general.architecture')}.context_length")
        # Ollama cuts prompts to what it was started with, often less than the model could take, and tells no client.
        asked = re.search(r"^num_ctx\s+(\d{1,9})$", _get_text(shown, "parameters", limit=MAX_NUMBER), re.MULTILINE)
        capabilities = _get(shown, "capabilities")
        features = None
        if isinstance(capabilities, list):
            features = frozenset({"tools", "vision"} & {str(each) for each in capabilities})
        return replace(
            model,
            repository=_get_text(details, "parent_model") or model.name,
            revision=_get_text(tag, "digest"),
            quantization=_get_text(details, "quantization_level"),
            context_length=int(asked[1]) if asked else context,
            features=features,
            is_generator=not isinstance(capabilities, list) or "completion" in capabilities,
        )

    def _describe_lmstudio(self, model: FoundModel) -> FoundModel:
        entry = self._find_entry(LM_STUDIO, "id", model.name)
        publisher, kind = _get_text(entry, "publisher"), _get_text(entry, "type")
        capabilities = _get(entry, "capabilities")
        features = {"vision"} if kind == "vlm" else set()
        if isinstance(capabilities, list) and "tool_use" in capabilities:
            features.add("tools")
        return replace(
            model,
            repository=f"{publisher}/{model.name}" if publisher and "/" not in model.name else model.name,
            quantization=_get_text(entry, "quantization"),
            context_length=_get_number(entry, "loaded_context_length") or _get_number(entry, "max_context_length"),
            features=frozenset(features) if entry else None,
            is_loaded=entry.get("state") != "not-loaded",
            is_generator=kind != "embeddings",
        )

    def _describe_litellm(self, model: FoundModel) -> FoundModel:
        entry = self._find_entry(LITELLM_INFO, "model_name", model.name)
        info = _get(entry, "model_info")
        features = {
            feature
            for feature, key in (("tools", "supports_function_calling"), ("vision", "supports_vision"))
            if _get(info, key) is True
        }
        mode = _get_text(info, "mode")
        return replace(
            model,
            repository=_get_text(_get(entry, "litellm_params"), "model"),
            context_length=_get_number(info, "max_input_tokens"),
            features=frozenset(features) if info else None,
            is_generator=mode in ("", "chat", "completion", "responses"),
        )


def _ask_ollama(name: str) -> Probe:
    return Probe(OLLAMA_SHOW, json.dumps({"model": name}).encode())


def _guess(model: FoundModel) -> FoundModel:
    """``model`` with the quantization that its own name or that of its weights says, where the server says nothing."""
    if model.quantization:
        return model
    return replace(model, quantization=find_label(f"{model.repository} {model.name}"))


def _get(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None


def _get_dicts(data: Any, key: str) -> list[dict[str, Any]]:
    found = _get(data, key)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _get_text(data: Any, key: str, limit: int = MAX_TEXT_CHARS) -> str:
    found = _get(data, key)
    return found if isinstance(found, str) and len(found) <= limit else ""


def _get_number(data: Any, key: str) -> int:
    found = _get(data, key)
    return found if type(found) is int and 0 < found < MAX_NUMBER else 0
