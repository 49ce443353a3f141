"""The OpenAPI document of the API (version 3.1.0), made from the table of routes. Pure.

Schemas name what the node itself reads and checks, and what any backend would refuse; every object may have more, which
passes through. A field that need not be there may be null, as OpenAI's may.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from serving.openai.requests import MAX_CHOICES, MAX_REQUEST_TOKENS, MAX_VECTORS
from serving.routes import ROUTES, Route

Schema = dict[str, Any]

ERROR_STATUSES = {
    "400": "The request breaks a rule of the API; the error names the field.",
    "401": "No API key, or one that is not known.",
    "402": "The node's account cannot pay for an offloaded request.",
    "404": "No such path, or no node in reach serves the model.",
    "405": "The path is right and the method is not; the header Allow names the one that is.",
    "413": "The body is too large.",
    "429": "Queues are full, or a rate limit is reached.",
    "502": "The backend or the executor failed.",
    "503": "Nothing can take the request at this moment.",
}
"""Errors, by status."""

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_REQUEST_TOKENS}
FLAG: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}
OBJECT: Schema = {"type": "object"}
OBJECTS: Schema = {"type": "array", "items": OBJECT}
TOKENS: Schema = {"type": "array", "items": {"type": "integer"}, "minItems": 1}


def _one_of(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    fields = {name: schema if name in required else _one_of(schema, NULL) for name, schema in properties.items()}
    return {"type": "object", "properties": fields, "required": list(required)}


def _list(items: Schema, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": least}


def _kind(kind: str, required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    """An object whose ``type`` says which it is."""
    return _object(("type", *required), type={"const": kind}, **properties)


MODEL: Schema = {"type": "string", "minLength": 1, "description": "The name of a model, as /v1/models lists it."}
TEXTS: Schema = _one_of(TEXT, {"type": "array", "items": _one_of(TEXT, TOKENS), "minItems": 1}, TOKENS)
STREAM_OPTIONS: Schema = _object(include_usage=FLAG)
SAMPLED: dict[str, Schema] = {
    "model": MODEL,
    "stream": FLAG,
    "stream_options": STREAM_OPTIONS,
    "n": {"type": "integer", "minimum": 1, "maximum": MAX_CHOICES},
    "max_tokens": COUNT,
    "temperature": {"type": "number"},
    "top_p": {"type": "number"},
    "seed": {"type": "integer"},
    "stop": _one_of(TEXT, {"type": "array", "items": TEXT}),
}
MESSAGE: Schema = _object(("role",), role=TEXT, content=_one_of(TEXT, OBJECTS), tool_calls=OBJECTS)
TOOL: Schema = _kind("function", ("function",), function=_object(("name",), name=TEXT, parameters=OBJECT))
NAMED: Schema = _kind("function", ("function",), function=_object(("name",), name=TEXT))
MODES: Schema = {"enum": ["auto", "none", "required"]}

# Of the Responses API
FUNCTION: Schema = _kind("function", ("name",), name=TEXT, parameters=OBJECT)
PART: Schema = _one_of(
    _kind("input_text", ("text",), text=TEXT),
    _kind("output_text", ("text",), text=TEXT),
    _kind("input_image", ("image_url",), image_url=TEXT),
)
CONTENT: Schema = _one_of(TEXT, _list(PART))
ROLE: Schema = {"enum": ["user", "assistant", "system", "developer"]}
ITEM: Schema = _one_of(
    _object(("role", "content"), type={"const": "message"}, role=ROLE, content=CONTENT),
    _kind("function_call", ("call_id", "name", "arguments"), call_id=TEXT, name=TEXT, arguments=TEXT),
    _kind("function_call_output", ("call_id", "output"), call_id=TEXT, output=CONTENT),
)
WHICH_TOOL: Schema = _one_of(MODES, _kind("function", ("name",), name=TEXT))
FORM: Schema = _one_of(
    _object(type={"const": "text"}), _kind("json_object"), _kind("json_schema", ("name",), name=TEXT, schema=OBJECT)
)

# Of the Messages API
TEXT_BLOCK: Schema = _kind("text", ("text",), text=TEXT)
IMAGE: Schema = _kind("image", ("source",), source=_kind("url", ("url",), url=TEXT))
USE: Schema = _kind("tool_use", ("id", "name", "input"), id=TEXT, name=TEXT, input=OBJECT)
RESULT: Schema = _kind("tool_result", ("tool_use_id",), tool_use_id=TEXT, content=_one_of(TEXT, _list(TEXT_BLOCK)))
SYSTEM: Schema = _one_of(TEXT, _list(TEXT_BLOCK))
TURN: Schema = _one_of(
    _object(
        ("role", "content"),
        role={"const": "user"},
        content=_one_of(TEXT, _list(_one_of(TEXT_BLOCK, IMAGE, RESULT))),
    ),
    _object(("role", "content"), role={"const": "assistant"}, content=_one_of(TEXT, _list(_one_of(TEXT_BLOCK, USE)))),
)
TURNS: Schema = _list(TURN, 1)
CUSTOM: Schema = _object(("name", "input_schema"), name=TEXT, description=TEXT, input_schema=OBJECT)
ANY_TOOL: Schema = _object(("type",), type={"enum": ["auto", "any", "none"]})
CHOICE: Schema = _one_of(ANY_TOOL, _kind("tool", ("name",), name=TEXT))

SCHEMAS: dict[str, Schema] = {
    "ChatRequest": _object(
        ("model", "messages"),
        **SAMPLED,
        messages={"type": "array", "items": MESSAGE, "minItems": 1},
        max_completion_tokens=COUNT,
        tools=_list(TOOL),
        tool_choice=_one_of(MODES, NAMED),
        response_format=_object(("type",), type=TEXT),
        reasoning_effort=TEXT,
        logprobs=FLAG,
        top_logprobs={"type": "integer"},
    ),
    "ChatCompletion": _object(("choices",), id=TEXT, model=TEXT, choices=OBJECTS, usage=OBJECT),
    "CompletionRequest": _object(("model", "prompt"), **SAMPLED, prompt=TEXTS, echo=FLAG),
    "Completion": _object(("choices",), id=TEXT, model=TEXT, choices=OBJECTS, usage=OBJECT),
    "EmbeddingsRequest": _object(
        ("model", "input"),
        model=MODEL,
        input={**TEXTS, "maxItems": MAX_VECTORS},
        encoding_format={"enum": ["float", "base64"]},
        dimensions=COUNT,
    ),
    "Embeddings": _object(("data",), data=OBJECTS, model=TEXT, usage=OBJECT),
    "ResponsesRequest": _object(
        ("model", "input"),
        model=MODEL,
        input=_one_of(TEXT, _list(ITEM, 1)),
        instructions=TEXT,
        stream=FLAG,
        max_output_tokens=COUNT,
        tools=_list(FUNCTION),
        tool_choice=WHICH_TOOL,
        text=_object(format=FORM),
        reasoning=_object(effort=TEXT),
        store={"const": False},
    ),
    "Response": _object(
        ("id", "object", "status", "output"),
        id=TEXT,
        object={"const": "response"},
        status={"enum": ["completed", "incomplete", "failed", "in_progress"]},
        output=OBJECTS,
        usage=_one_of(OBJECT, {"type": "null"}),
    ),
    "MessagesRequest": _object(
        ("model", "messages", "max_tokens"),
        model=MODEL,
        messages=TURNS,
        max_tokens=COUNT,
        system=SYSTEM,
        stream=FLAG,
        stop_sequences=_list(TEXT),
        tools=_list(CUSTOM),
        tool_choice=CHOICE,
    ),
    "Message": _object(
        ("id", "type", "role", "content", "stop_reason", "usage"),
        id=TEXT,
        type={"const": "message"},
        role={"const": "assistant"},
        content=OBJECTS,
        stop_reason=_one_of(TEXT, {"type": "null"}),
        usage=OBJECT,
    ),
    "CountRequest": _object(("model", "messages"), model=MODEL, messages=TURNS, system=SYSTEM),
    "TokenCount": _object(("input_tokens",), input_tokens={"type": "integer", "minimum": 0}),
    "Model": _object(
        ("id", "object"),
        id=TEXT,
        object={"const": "model"},
        context_length=_one_of({"type": "integer"}, {"type": "null"}),
        pricing=OBJECT,
        supported_parameters={"type": "array", "items": TEXT},
        nodes={"type": "integer", "minimum": 0},
    ),
    "ModelList": _object(
        ("object", "data"),
        object={"const": "list"},
        data={"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
    ),
    "Document": OBJECT,
    "Error": _object(("error",), error=_object(("message", "type", "param", "code"), message=TEXT, type=TEXT)),
    "AnthropicError": _object(
        ("type", "error"), type={"const": "error"}, error=_object(("type", "message"), type=TEXT, message=TEXT)
    ),
}
"""By name."""


@cache
def make_document() -> dict[str, Any]:
    """The document."""
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _describe(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "wwwserve",
            "version": _get_version(),
            "description": "OpenAI's API and Anthropic's, answered by this node or by another that it pays.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    }


def _describe(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _refer(route.answer)}}
    if route.can_stream:
        content["text/event-stream"] = {}  # this version has no word for what the data of an event is
    error = {"application/json": {"schema": _refer("AnthropicError" if route.is_anthropic else "Error")}}
    errors = {status: {"description": text, "content": error} for status, text in ERROR_STATUSES.items()}
    described: dict[str, Any] = {
        "operationId": _name(route),
        "summary": route.summary,
        "responses": {
            "200": {"description": "The answer.", "content": content},
            **errors,
            "default": {"description": "Any other error.", "content": error},
        },
    }
    if route.request is not None:
        body = {"application/json": {"schema": _refer(route.request)}}
        described["requestBody"] = {"required": True, "content": body}
    if "{id}" in route.path:
        described["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {**TEXT, "minLength": 1}}]
    return described


def _name(route: Route) -> str:
    words = re.findall(r"[a-z]+", route.path.removeprefix("/v1"))
    return "_".join([route.method.lower(), *words])


def _refer(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _get_version() -> str:
    try:
        return version("wwwserve")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0"
