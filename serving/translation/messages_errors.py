"""Errors in the shape of Anthropic's API: ``{"type": "error", "error": {"type", "message"}}``. Pure."""

from __future__ import annotations

import json

from serving.openai.errors import ApiError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Types of errors by their status; of another client error it is invalid_request_error, of another api_error."""


class MessagesError(ApiError):
    """An error whose body and event are those of Anthropic's API."""

    def body(self) -> bytes:
        """The error as a JSON body."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
        error = {"type": kind, "message": self.message}
        return json.dumps({"type": "error", "error": error}, separators=(",", ":")).encode()

    def event(self) -> bytes:
        """The same as one server-sent event."""
        return b"event: error\ndata: " + self.body() + b"\n\n"


def shape_error(error: ApiError) -> ApiError:
    """The same error, as Anthropic's clients read it."""
    if isinstance(error, MessagesError):
        return error
    return MessagesError(
        error.status,
        error.message,
        error.type,
        error.code,
        error.param,
        error.retry_after_s,
        is_final=error.is_final,
        allow=error.allow,
    )
