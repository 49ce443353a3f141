"""An OpenAI-compatible server that does as it is told: what a large model can, without one.

Its answers follow from the request alone. It calls the tool that it is to call, with the numbers and the quoted words
of the prompt as arguments; it fills the schema that an answer must have; anything else is answered with one sentence.
Each answer names the digest of the request's body in ``system_fingerprint``: so two answers with equal bytes were asked
for with equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import trio

from p2p.runtime import RealRuntime
from serving.backends.token_count import COUNT_TOKENS
from serving.http.messages import HttpRequest
from serving.http.responder import Responder
from serving.http.server import HttpServer
from serving.openai.endpoints import CHAT, COMPLETIONS, EMBEDDINGS
from serving.openai.errors import bad_request, model_not_found, not_found
from serving.openapi import SCHEMAS
from tests.clients.json_schema import is_valid
from tests.support.openai_answers import DONE, make_event

SCRIPTED = "scripted-chat"
"""The name of its model."""
SENTENCE = "I do as you say. Grüße, 你好! "
PIECE_CHARS = 5
"""Characters of the text in one event."""
NUMBER = re.compile(r"-?\d+")
QUOTED = re.compile(r"'([^']+)'")
REQUESTS = {CHAT.path: "ChatRequest", COMPLETIONS.path: "CompletionRequest", EMBEDDINGS.path: "EmbeddingsRequest"}
"""What the node's document calls them: the server is as strict as that says that backends are."""


async def handle(request: HttpRequest, respond: Responder) -> None:
    """Answer one request."""
    if request.method == "GET":
        if request.path != "/v1/models":
            raise not_found(f"no {request.path} here")
        models = [{"id": SCRIPTED, "object": "model", "created": 0, "owned_by": "tests"}]
        await respond.reply(200, json.dumps({"object": "list", "data": models}).encode())
        return
    asked: dict[str, Any] = json.loads(request.body)
    if request.path == COUNT_TOKENS:
        await respond.reply(200, b'{"input_tokens":7}')
        return
    if request.path not in REQUESTS:
        raise not_found(f"no {request.path} here")
    if asked.get("model") != SCRIPTED:
        raise model_not_found(str(asked.get("model")))
    if not is_valid(asked, SCHEMAS[REQUESTS[request.path]]):
        raise bad_request("not a request of the documented form")
    fingerprint = hashlib.sha256(request.body).hexdigest()[:16]
    if request.path == EMBEDDINGS.path:
        await respond.reply(200, _embed(asked))
        return
    kind = "chat.completion" if request.path == CHAT.path else "text_completion"
    head = {"id": "scripted", "object": kind, "created": 1, "model": SCRIPTED, "system_fingerprint": fingerprint}
    choices = _answer(asked) if request.path == CHAT.path else _complete(asked)
    usage = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
    if not asked.get("stream"):
        await respond.reply(200, json.dumps({**head, "choices": choices, "usage": usage}).encode())
        return
    await respond.start(200, [(b"content-type", b"text/event-stream")])
    if request.path == CHAT.path:
        head["object"] = "chat.completion.chunk"
    for choice in choices:
        for event in _split(choice):
            await respond.send(make_event({**head, "choices": [event]}))
    if (asked.get("stream_options") or {}).get("include_usage"):
        await respond.send(make_event({**head, "choices": [], "usage": usage}))
    await respond.send(DONE)
    await respond.end()


# What it says


def _answer(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of a chat completion."""
    message, reason = _write(asked, asked["messages"])
    return [
        {"index": index, "message": message, "logprobs": None, "finish_reason": reason}
        for index in range(int(asked.get("n") or 1))
    ]


def _write(asked: dict[str, Any], messages: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """The message, and why it ends."""
    prompt, tool = _read_text(messages[-1]), _choose_tool(asked, messages)
    if tool is not None:
        arguments = json.dumps(_fill(tool.get("parameters") or {}, prompt), ensure_ascii=False)
        call = {"id": "call_1", "type": "function", "function": {"name": tool.get("name"), "arguments": arguments}}
        return {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
    wanted = asked.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        text = json.dumps(_fill((wanted.get("json_schema") or {}).get("schema") or {}, prompt), ensure_ascii=False)
    elif wanted.get("type") == "json_object":
        text = json.dumps(dict.fromkeys(QUOTED.findall(prompt), "cat"))
    else:
        text = SENTENCE
    return {"role": "assistant", "content": _stop(asked, text)}, "stop"


def _choose_tool(asked: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The function to be called now: the one that is asked for, or the first, unless one was called before."""
    functions = [each.get("function") or {} for each in asked.get("tools") or () if isinstance(each, dict)]
    choice = asked.get("tool_choice")
    if choice == "none" or not functions or (messages[-1].get("role") != "user" and choice in (None, "auto")):
        return None
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        return next((function for function in functions if function.get("name") == name), functions[0])
    return functions[0]


def _fill(schema: dict[str, Any], prompt: str) -> Any:
    """A value of a schema, with what the prompt has for it."""
    numbers, quoted = iter(map(int, NUMBER.findall(prompt))), iter(QUOTED.findall(prompt))
    definitions = {**schema.get("$defs", {}), **schema.get("definitions", {})}

    def make(part: dict[str, Any]) -> Any:
        if "$ref" in part:
            return make(definitions[part["$ref"].rpartition("/")[2]])
        for name in ("anyOf", "oneOf", "allOf"):
            if part.get(name):
                return make(part[name][0])
        if "const" in part or part.get("enum"):
            return part.get("const", (part.get("enum") or [None])[0])
        kind = part.get("type", "object" if "properties" in part else "string")
        match kind[0] if isinstance(kind, list) else kind:
            case "object":
                return {name: make(value) for name, value in (part.get("properties") or {}).items()}
            case "array":
                return [make(part.get("items") or {})] * max(1, part.get("minItems", 0))
            case "integer" | "number":
                return next(numbers, max(0, part.get("minimum", 0)))
            case "boolean":
                return True
            case "null":
                return None
        return next(quoted, "cat")[: part.get("maxLength")]

    return make(schema)


def _complete(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of a completion."""
    prompt = asked.get("prompt")
    count = len(prompt) if isinstance(prompt, list) and prompt and type(prompt[0]) is not int else 1
    return [
        {"index": index, "text": _stop(asked, SENTENCE), "logprobs": None, "finish_reason": "stop"}
        for index in range(count * int(asked.get("n") or 1))
    ]


def _embed(asked: dict[str, Any]) -> bytes:
    texts = asked.get("input")
    count = len(texts) if isinstance(texts, list) and texts and type(texts[0]) is not int else 1
    vector: Any = "AAAAPwAAgL4=" if asked.get("encoding_format") == "base64" else [0.5, -0.25]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(count)]
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    return json.dumps({"object": "list", "model": SCRIPTED, "data": data, "usage": usage}).encode()


def _stop(asked: dict[str, Any], text: str) -> str:
    """A text up to the first of its stop sequences."""
    stops = asked.get("stop") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.partition(stop)[0] if isinstance(stop, str) and stop else text
    return text


def _read_text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _split(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of one choice."""
    fixed = {"index": choice["index"], "logprobs": None}
    end = {**fixed, "finish_reason": choice["finish_reason"]}
    if "text" in choice:
        for start in range(0, len(choice["text"]), PIECE_CHARS):
            yield {**fixed, "text": choice["text"][start : start + PIECE_CHARS], "finish_reason": None}
        yield {**end, "text": ""}
        return
    message = choice["message"]
    open_ = {**fixed, "finish_reason": None}
    yield {**open_, "delta": {"role": "assistant", "content": None if message["content"] is None else ""}}
    for start in range(0, len(message["content"] or ""), PIECE_CHARS):
        yield {**open_, "delta": {"content": message["content"][start : start + PIECE_CHARS]}}
    for index, call in enumerate(message.get("tool_calls", ())):
        arguments = call["function"]["arguments"]
        named = {**call, "index": index, "function": {"name": call["function"]["name"], "arguments": ""}}
        yield {**open_, "delta": {"tool_calls": [named]}}
        for start in range(0, len(arguments), PIECE_CHARS):
            piece = {"index": index, "function": {"arguments": arguments[start : start + PIECE_CHARS]}}
            yield {**open_, "delta": {"tool_calls": [piece]}}
    yield {**end, "delta": {}}


def serve_scripted(started: Connection) -> None:
    """Serve until killed; the URL is sent to ``started``."""

    async def serve() -> None:
        server = await HttpServer.open(handle, "127.0.0.1", 0, RealRuntime())
        started.send(f"http://127.0.0.1:{server.address[1]}")
        await server.run()

    trio.run(serve)
