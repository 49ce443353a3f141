"""The fields of a request that the node reads: model, streaming, number of answers, token limits. Others pass
unchanged."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec.structs import replace

from serving.openai.bodies import parse_json
from serving.openai.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, ENDPOINTS, ApiEndpoint
from serving.openai.errors import bad_request
from serving.openai.prefixes import Prefix, hash_prefixes
from serving.openai.provider_rules import ANYBODY, ProviderRules

LOCAL_ONLY = "x-wwwserve-local-only"
"""A request with this header (any value but 0 and false) is never offloaded."""
CHAT_COMPLETIONS = CHAT.path
"""Path of chat completions."""

TEXT_FIELDS = {"messages": CHAT.path, "prompt": COMPLETIONS.path, "input": EMBEDDINGS.path}
"""The field with the texts of each endpoint."""
MAX_CHOICES = 16
"""Largest ``n``: answers to one request."""
MAX_TEXTS = 128
"""Most answers to one request for completions: ``n`` to each of its prompts."""
MAX_VECTORS = 2048
"""Most texts of one request for embeddings."""
DEFAULT_TEXT_TOKENS = 16
"""Most tokens of a completion whose request names no limit, as OpenAI documents it."""
ECHOED_PER_BYTE = 4
"""Completion bytes that a hold covers for each byte of a request whose answers repeat its prompt: a token may have two
bytes as JSON, and eight as text."""
MAX_REQUEST_TOKENS = 2**31
"""Most tokens that a request may ask for; the node's own cap is far lower."""
LIMITS = ("max_completion_tokens", "max_tokens", "max_new_tokens", "n_predict", "num_predict")
"""Fields by which one server or another limits the tokens of an answer; the largest counts."""
CHOICES = ("n", "n_cmpl")
"""Fields for the number of answers; the larger counts."""
FIELDS_READ = frozenset({"model", "stream", "stream_options", "tools", "functions", *LIMITS, *CHOICES})
"""Fields that a node reads. Some servers ignore the case of letters, so no other spelling of these is let through."""
ENDPOINT_FIELDS = {
    CHAT.path: FIELDS_READ,
    COMPLETIONS.path: FIELDS_READ | {"prompt", "echo", "best_of"},
    EMBEDDINGS.path: frozenset({"model", "stream", "input"}),
}
"""The same by endpoint."""
IMAGES = ("image_url", "input_image", "image")
"""Types of the parts of a message that are images."""
MAX_JSON_ITEMS = 1 << 16
"""Most strings, commas and opening brackets of a body.

The time of parsing grows with their number, and it blocks all other work, even in a thread. A message of a conversation
has seven.
"""
HELD_BYTES_PER_TOKEN = 8
"""Completion bytes that a hold covers for each token that a request allows.

With the vocabularies of Qwen (152,000 tokens) and Mistral (131,000) a token has 5.2 bytes of English, 4.4 of Python,
and at most 6.9 of eleven languages. Only long runs of one character have more.
"""

_JSON_ITEM = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{,]', re.DOTALL)
"""Also matches an unterminated string, so that no byte is read twice."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """One parsed request.

    ``path`` is that of its endpoint. ``body`` is what goes to the backend: the user's own bytes, or the same JSON with
    the two fields that billing needs (``stream_options.include_usage`` and a token limit) filled in. ``choices`` is how
    many answers it asks for (``n``, for each prompt); ``max_tokens`` is the most completion tokens that they can have
    together; ``wants_usage``: the user asked for the usage event of a stream; ``has_tools``: the answer may be calls;
    ``is_limited``: the user set a token limit. ``timeout_s``: how long the client waits for the answer to begin.
    ``features`` are what it asks of the model beyond text. ``prefixes`` are those of the conversation, and ``key`` is
    the name of the API key that came with it, on the node that the user asked. ``echoed_bytes``: completion bytes that
    only repeat the prompt, at most.
    """

    path: str
    body: bytes
    model: str
    stream: bool
    choices: int
    max_tokens: int
    wants_usage: bool
    has_tools: bool
    local_only: bool = False
    timeout_s: float = math.inf
    is_limited: bool = False
    features: frozenset[str] = frozenset()
    prefixes: tuple[Prefix, ...] = ()
    key: str = ""
    rules: ProviderRules = ANYBODY
    echoed_bytes: int = 0

    @property
    def endpoint(self) -> ApiEndpoint:
        """What it is a request to."""
        return ENDPOINTS[self.path]

    @property
    def max_completion_bytes(self) -> int:
        """Completion bytes that a hold for this request covers."""
        return self.max_tokens * HELD_BYTES_PER_TOKEN + self.echoed_bytes


def find_path(body: bytes) -> str:
    """The endpoint of a body, by the field with its texts. Any other body counts as a chat."""
    content = parse_json(body)
    found = [path for name, path in TEXT_FIELDS.items() if isinstance(content, dict) and name in content]
    return found[0] if len(found) == 1 else CHAT.path


def read_request(path: str, body: bytes) -> Request:
    """Read a request that is passed on unchanged. Without a limit it asks for :data:`MAX_REQUEST_TOKENS`.

    Raises:
        ApiError: 400, naming the field at fault.
    """
    content = parse_body(body)
    request = _read(path, body, content, MAX_REQUEST_TOKENS, local_only=False)
    return replace(request, prefixes=hash_prefixes(request.model, content.get("messages")))


def is_local_only(value: str) -> bool:
    """The meaning of the header :data:`LOCAL_ONLY`; ``value`` is empty if there is none."""
    return value.lower() not in ("", "0", "false")


def parse_request(
    path: str,
    body: bytes,
    token_cap: int,
    local_only: bool = False,
    *,
    model_caps: Mapping[str, int] | None = None,
    timeout_s: float = math.inf,
    key: str = "",
    rules: ProviderRules = ANYBODY,
) -> Request:
    """Read a request, and fill in what billing needs.

    ``token_cap`` is the most tokens of an answer; models in ``model_caps`` have another number.

    Raises:
        ApiError: 400, naming the field at fault.
    """
    content = parse_body(body)
    model = content.get("model")
    if model_caps and isinstance(model, str):
        token_cap = model_caps.get(model, token_cap)
    prefixes = hash_prefixes(model, content.get("messages")) if isinstance(model, str) else ()
    known = {"timeout_s": timeout_s, "key": key, "rules": rules, "prefixes": prefixes}
    request = _read(path, body, content, token_cap, local_only, DEFAULT_TEXT_TOKENS, known)
    filled = _fill_in(request, content, token_cap)
    return request if filled is request.body else replace(request, body=filled)


def _fill_in(request: Request, content: Mapping[str, Any], token_cap: int) -> bytes:
    """The body of a request with the fields that billing needs; unchanged if it has them all."""
    if request.endpoint is EMBEDDINGS:
        return request.body
    limits = {name: content.get(name) for name in LIMITS}
    changes: dict[str, Any] = {name: token_cap for name, value in limits.items() if value and value > token_cap}
    if all(value is None for value in limits.values()):
        changes["max_tokens"] = request.max_tokens // request.choices
    if request.stream and not request.wants_usage:
        changes["stream_options"] = {**(content.get("stream_options") or {}), "include_usage": True}
    return encode_body({**content, **changes}) if changes else request.body


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        ApiError: 400, it is no object, or takes too long to parse.
    """
    if len(body) > MAX_JSON_ITEMS and any(islice(_JSON_ITEM.finditer(body), MAX_JSON_ITEMS, None)):
        raise bad_request(f"The JSON of the body has more than {MAX_JSON_ITEMS} strings, commas and brackets.")
    try:
        content = _DECODER.decode(body.decode(json.detect_encoding(body), "surrogatepass"))  # as json.loads does
    except (ValueError, RecursionError) as error:
        raise bad_request(f"The body is not valid JSON: {error}.") from None
    if not isinstance(content, dict):
        raise bad_request("The body must be a JSON object.")
    return content


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """One object of a body.

    Raises:
        ValueError: it has a name twice. Servers differ in which value they read.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("an object has a name twice")
    return content


_DECODER = json.JSONDecoder(object_pairs_hook=_make_object)


def _read(
    path: str,
    body: bytes,
    content: dict[str, Any],
    token_cap: int,
    local_only: bool,
    default_text_tokens: int = MAX_REQUEST_TOKENS,
    known: Mapping[str, Any] = MappingProxyType({}),
) -> Request:
    """The request in a body. ``known`` has the fields of it that are not in the body."""
    endpoint, fields = ENDPOINTS[path], ENDPOINT_FIELDS[path]
    for name in content:
        if name not in fields and name.casefold() in fields:
            raise bad_request(f"Write '{name.casefold()}' in small letters.", param=name.casefold())
    for name, of_path in TEXT_FIELDS.items():
        if endpoint is not CHAT and of_path != path and name in content:
            raise bad_request(f"'{name}' is not for {path}.", param=name)
    model = content.get("model")
    if not isinstance(model, str) or not model:
        raise bad_request("Name a model in the field 'model'.", param="model")
    stream = _read_flag(content, "stream")
    if endpoint is EMBEDDINGS:
        return _read_embeddings(body, content, model, stream, local_only, known)
    options = content.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise bad_request("'stream_options' must be an object.", param="stream_options")
    wants_usage = _read_flag(options or {}, "include_usage", "stream_options.")
    limit = _read_largest(content, LIMITS)
    choices = _read_largest(content, CHOICES) or 1
    if choices > MAX_CHOICES:
        raise bad_request(f"'n' is at most {MAX_CHOICES}.", param="n")
    echoed_bytes = 0
    if endpoint is COMPLETIONS:
        token_cap = token_cap if limit else min(token_cap, default_text_tokens)
        choices, echoed_bytes = _read_prompts(body, content, choices)
    has_tools = _has_tools(content)
    return Request(
        path,
        body,
        model,
        stream,
        choices,
        max_tokens=min(limit or token_cap, token_cap) * choices,
        wants_usage=wants_usage,
        has_tools=has_tools,
        local_only=local_only,
        is_limited=limit is not None,
        features=_find_features(content, has_tools) | ({endpoint.feature} if endpoint.feature else set()),
        echoed_bytes=echoed_bytes,
        **known,
    )


def _read_embeddings(
    body: bytes, content: dict[str, Any], model: str, stream: bool, local_only: bool, known: Mapping[str, Any]
) -> Request:
    """A request for embeddings, whose answer has no tokens."""
    if stream:
        raise bad_request("Embeddings are not streamed.", param="stream")
    count = _count_texts(content, "input")
    if count > MAX_VECTORS:
        raise bad_request(f"'input' has at most {MAX_VECTORS} texts.", param="input")
    return Request(
        EMBEDDINGS.path,
        body,
        model,
        stream=False,
        choices=count,
        max_tokens=0,
        wants_usage=True,
        has_tools=False,
        local_only=local_only,
        features=frozenset({"embeddings"}),
        **known,
    )


def _read_prompts(body: bytes, content: dict[str, Any], choices: int) -> tuple[int, int]:
    """The number of answers to a request for completions, and the most bytes of its prompts that they repeat."""
    best_of = _read_count(content, "best_of") or choices
    if best_of != choices:
        raise bad_request("'best_of' is not supported: ask for several answers with 'n'.", param="best_of")
    total = choices * _count_texts(content, "prompt")
    if total > MAX_TEXTS:
        raise bad_request(f"'prompt' and 'n' ask for more than {MAX_TEXTS} answers.", param="prompt")
    return total, ECHOED_PER_BYTE * len(body) * choices if _read_flag(content, "echo") else 0


def _count_texts(content: dict[str, Any], name: str) -> int:
    """The number of texts in a field: one, or one for each entry of a list. A list of token numbers is one text."""
    texts = content.get(name)
    if isinstance(texts, str):
        return 1
    if not isinstance(texts, list) or not texts:
        raise bad_request(f"'{name}' must be a text or a list of texts, or of their tokens.", param=name)
    return 1 if type(texts[0]) is int else len(texts)


def _has_tools(content: dict[str, Any]) -> bool:
    """Whether the answer may be calls. Anything but a list of objects is refused: servers fail on it as if broken."""
    for name in ("tools", "functions"):
        tools = content.get(name)
        if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
            raise bad_request(f"'{name}' must be a list of objects.", param=name)
    return bool(content.get("tools") or content.get("functions"))


def _find_features(content: dict[str, Any], has_tools: bool) -> frozenset[str]:
    """Which of :data:`serving.backends.backend.FEATURES` a request asks for."""
    asked = {"tools"} if has_tools else set()
    if content.get("logprobs") or content.get("top_logprobs"):
        asked.add("logprobs")
    messages = content.get("messages")
    for message in messages if isinstance(messages, list) else ():
        parts = message.get("content") if isinstance(message, dict) else None
        if isinstance(parts, list) and any(isinstance(part, dict) and part.get("type") in IMAGES for part in parts):
            asked.add("vision")
    return frozenset(asked)


def encode_body(content: Mapping[str, Any]) -> bytes:
    """The JSON of an object."""
    try:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say only by an escape
        return json.dumps(content, separators=(",", ":")).encode()


def _read_flag(content: dict[str, Any], name: str, place: str = "") -> bool:
    value = content.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise bad_request(f"'{place}{name}' must be true or false.", param=f"{place}{name}")
    return value


def _read_largest(content: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """The largest of the counts that are there."""
    found = [_read_count(content, name) for name in names if name in content]
    return max((count for count in found if count is not None), default=None) if found else None


def _read_count(content: dict[str, Any], name: str) -> int | None:
    value = content.get(name)
    if value is None:
        return None
    if type(value) is float and value.is_integer():  # the same number of JSON, written otherwise
        value = int(value)
    if type(value) is not int or not 1 <= value <= MAX_REQUEST_TOKENS:
        raise bad_request(f"'{name}' must be a positive integer.", param=name)
    return value
