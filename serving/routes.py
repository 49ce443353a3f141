"""What a node answers over HTTP, in one table: the API goes by it, and its OpenAPI document is made from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from serving.openai.endpoints import CHAT, COMPLETIONS, EMBEDDINGS

MODELS = "/v1/models"
"""Path of the list of models."""
RESPONSES = "/v1/responses"
"""Path of OpenAI's Responses API."""
MESSAGES = "/v1/messages"
"""Path of Anthropic's Messages API."""
COUNT_TOKENS = "/v1/messages/count_tokens"
"""Path at which Anthropic's clients have tokens counted."""
DOCUMENT = "/openapi.json"
"""Path of the OpenAPI document."""


class Operation(Enum):
    """What is done for a request."""

    COMPLETE = auto()
    """Pass it on to a backend, here or elsewhere."""
    RESPOND = auto()
    """The same, as a chat completion, for OpenAI's Responses API."""
    MESSAGE = auto()
    """The same for Anthropic's Messages API."""
    COUNT_TOKENS = auto()
    LIST_MODELS = auto()
    DESCRIBE_MODEL = auto()
    DOCUMENT = auto()


@dataclass(frozen=True, slots=True)
class Route:
    """One path. ``request`` and ``answer`` name schemas of the document; ``can_stream``: the answer may be events."""

    method: str
    path: str
    operation: Operation
    summary: str
    answer: str
    request: str | None = None
    can_stream: bool = False
    is_anthropic: bool = False
    """Whether errors have the shape of Anthropic's API."""


ROUTES = (
    Route("POST", CHAT.path, Operation.COMPLETE, "Answer a conversation.", "ChatCompletion", "ChatRequest", True),
    Route("POST", COMPLETIONS.path, Operation.COMPLETE, "Go on with a text.", "Completion", "CompletionRequest", True),
    Route("POST", EMBEDDINGS.path, Operation.COMPLETE, "Embed texts.", "Embeddings", "EmbeddingsRequest"),
    Route(
        "POST", RESPONSES, Operation.RESPOND, "Answer, in OpenAI's Responses API.", "Response", "ResponsesRequest", True
    ),
    Route("POST", MESSAGES, Operation.MESSAGE, "Answer, in Anthropic's API.", "Message", "MessagesRequest", True, True),
    Route(
        "POST",
        COUNT_TOKENS,
        Operation.COUNT_TOKENS,
        "Count the tokens of a conversation, if a backend of this node can.",
        "TokenCount",
        "CountRequest",
        is_anthropic=True,
    ),
    Route("GET", MODELS, Operation.LIST_MODELS, "List the models.", "ModelList"),
    Route("GET", f"{MODELS}/{{id}}", Operation.DESCRIBE_MODEL, "Describe one model.", "Model"),
    Route("GET", DOCUMENT, Operation.DOCUMENT, "This document.", "Document"),
)
"""All of them. ``{id}`` in a path stands for one or more segments."""

_PLAIN = {route.path: route for route in ROUTES if not route.path.endswith("{id}")}
_NAMED = [route for route in ROUTES if route.path.endswith("{id}")]


def find_route(path: str) -> Route | None:
    """The route of a path, whatever the method; None if there is none."""
    path = path.rstrip("/")
    found = _PLAIN.get(path)
    if found is None:
        found = next((route for route in _NAMED if path.startswith(route.path.removesuffix("{id}"))), None)
    return found
