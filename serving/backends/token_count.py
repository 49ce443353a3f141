"""How many tokens a conversation has, as a backend counts them: by its template, tools included."""

from __future__ import annotations

from typing import Any

from serving.backends.backend import Backend, BackendError
from serving.openai.bodies import parse_json
from serving.openai.content import MAX_UNSTREAMED_BYTES
from serving.openai.errors import bad_gateway, bad_request

COUNT_TOKENS = "/v1/messages/count_tokens"
"""Where llama.cpp and newer vLLM count, as Anthropic does."""
TOKENIZE = "/tokenize"
"""Where vLLM of any age does; it takes a chat completion."""


async def count_tokens(backend: Backend, messages: bytes, chat: bytes) -> int:
    """Have a backend count the tokens of a conversation, given as Anthropic's body and as a chat completion.

    Raises:
        ApiError: it cannot, or does not answer.
    """
    for path, body, field in ((COUNT_TOKENS, messages, "input_tokens"), (TOKENIZE, chat, "count")):
        try:
            status, answer = await _ask(backend, path, body)
        except BackendError as error:
            raise bad_gateway(f"The backend failed: {error}.") from error
        count = answer.get(field) if status == 200 and isinstance(answer, dict) else None
        if type(count) is int and count >= 0:
            return count
    raise bad_request("The backend of this model does not count tokens.", code="unsupported_endpoint")


async def _ask(backend: Backend, path: str, body: bytes) -> tuple[int, Any]:
    content = bytearray()
    async with backend.complete(path, body, stream=False) as answer:
        async for piece in answer.body:
            content += piece
            if len(content) > MAX_UNSTREAMED_BYTES:
                raise BackendError(f"the answer is longer than {MAX_UNSTREAMED_BYTES} bytes")
    return answer.status, parse_json(bytes(content))
