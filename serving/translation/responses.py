"""OpenAI's Responses API as a dialect. Pure."""

from __future__ import annotations

from typing import Any

from serving.openai.errors import ApiError
from serving.translation.chat import read_answer
from serving.translation.dialect import Dialect, StreamTranslation
from serving.translation.responses_answer import encode, make_output, make_response
from serving.translation.responses_request import read_responses_request
from serving.translation.responses_stream import ResponsesStream


class ResponsesTranslation:
    """One request; see :class:`serving.translation.dialect.Translation`."""

    def __init__(self, sent: dict[str, Any]) -> None:
        self._request = read_responses_request(sent)

    @property
    def chat(self) -> dict[str, Any]:
        """The request as a chat completion."""
        return self._request.chat

    def translate(self, answer: bytes, name: str) -> bytes:
        """The response."""
        piece = read_answer(answer)
        name = piece.id or name
        response = make_response(
            self._request.sent,
            name,
            piece.created,
            model=piece.model,
            output=make_output(piece, name),
            finish_reason=piece.finish_reason or "stop",
            usage=piece.usage,
        )
        return encode(response)

    def open_stream(self, name: str) -> StreamTranslation:
        """The response in events."""
        return ResponsesStream(self._request.sent, name)


def _keep(error: ApiError) -> ApiError:
    return error


RESPONSES = Dialect(ResponsesTranslation, _keep)
"""Its errors are those of OpenAI's other APIs."""
