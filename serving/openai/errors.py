"""Errors in OpenAI's shape, as a body, as an event of a stream and as an exception.

OpenAI's clients read ``{"error": {"message", "type", "param", "code"}}`` under a status that is not 2xx, and the same
object as the ``data:`` of a server-sent event once a stream has begun. Whatever goes wrong at this node reaches the
user in one of these two forms.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import ceil

INVALID_REQUEST = "invalid_request_error"
"""Type of an error in the request."""
AUTHENTICATION = "authentication_error"
"""Type of an error about the API key."""
RATE_LIMIT = "rate_limit_error"
"""Type of an error about too many requests."""
SERVER_ERROR = "server_error"
"""Type of an error of this node or its backend."""
MAX_SHOWN_CHARS = 128
"""Most of an unknown name that its error repeats."""
UNAVAILABLE = "service_unavailable_error"
"""Type of an error when no node takes the request now."""


class ApiError(Exception):
    """An answer that is an error: status, and the four fields of OpenAI's error object.

    ``retry_after_s`` hints at when the client may try again (0: no hint). ``is_final``: trying again is useless, as a
    header tells OpenAI's clients. ``allow`` is the allowed method, for a 405.

    Raise it in an HTTP handler before the response has started and the server answers with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        type: str,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float = 0.0,
        is_final: bool = False,
        allow: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.is_final = is_final
        self.allow = allow

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of the response, beside those of any other (RFC 9110, sections 10.2.1 and 10.2.3)."""
        if self.allow:
            return [(b"allow", self.allow.encode())]
        if self.is_final:
            return [(b"x-should-retry", b"false")]
        return [(b"retry-after", b"%d" % ceil(self.retry_after_s))] if self.retry_after_s else []

    def body(self) -> bytes:
        """The error as a JSON body."""
        return error_body(self.message, self.type, self.code, self.param)

    def event(self) -> bytes:
        """The error as a server-sent event, for a stream that has begun."""
        return error_event(self.message, self.type, self.code, self.param)


def error_body(message: str, type: str, code: str | None = None, param: str | None = None) -> bytes:
    """The JSON body of an error response."""
    error = {"message": message, "type": type, "param": param, "code": code}
    return json.dumps({"error": error}, separators=(",", ":")).encode()


def error_event(message: str, type: str, code: str | None = None, param: str | None = None) -> bytes:
    """The same object as one server-sent event; OpenAI's clients raise ``APIError`` when they meet it."""
    return b"data: " + error_body(message, type, code, param) + b"\n\n"


def bad_request(message: str, code: str | None = None, param: str | None = None) -> ApiError:
    """400: the request breaks a rule of the API."""
    return ApiError(400, message, INVALID_REQUEST, code, param)


def unauthorized(message: str = "Incorrect API key provided.") -> ApiError:
    """401: no key, or a key that is not known."""
    return ApiError(401, message, AUTHENTICATION, "invalid_api_key")


def insufficient_quota(message: str) -> ApiError:
    """402: the account cannot pay for the request. Not 429, which clients would retry."""
    return ApiError(402, message, "insufficient_quota", "insufficient_quota")


def forbidden(message: str, code: str) -> ApiError:
    """403: the host or the web page that the request names is not allowed here."""
    return ApiError(403, message, INVALID_REQUEST, code)


def key_forbids_model(model: str) -> ApiError:
    """403: the API key is not good for the model."""
    message = f"This API key may not use the model '{model}'."
    return ApiError(403, message, INVALID_REQUEST, "model_not_allowed", "model")


def not_found(message: str) -> ApiError:
    """404: no such path."""
    return ApiError(404, message, INVALID_REQUEST, "unknown_url")


def model_not_found(model: str, nearest: Sequence[str] = ()) -> ApiError:
    """404: no node in reach serves the model; ``nearest`` are names that may be meant."""
    shown = model if len(model) <= MAX_SHOWN_CHARS else model[:MAX_SHOWN_CHARS] + "…"
    message = f"The model '{shown}' does not exist or is not served by any node in reach."
    if nearest:
        message += f" Did you mean: {', '.join(nearest)}?"
    return ApiError(404, message, INVALID_REQUEST, "model_not_found", "model")


def no_provider(model: str | None, served: Sequence[str] = (), param: str = "provider") -> ApiError:
    """404: nodes serve the model (None: several), but none that ``param`` allows; ``served``: in which formats."""
    what = "any model" if model is None else f"the model '{model}'"
    message = f"No node that '{param}' allows serves {what}."
    if served:
        message += f" In reach it is served with {'; or with '.join(served)}."
    return ApiError(404, message, INVALID_REQUEST, "model_not_found", param)


def method_not_allowed(method: str, allow: str) -> ApiError:
    """405: the path exists, but not with this method; ``allow`` is the allowed one."""
    message = f"Method {method} is not allowed here, {allow} is."
    return ApiError(405, message, INVALID_REQUEST, "method_not_allowed", allow=allow)


def request_timeout(message: str) -> ApiError:
    """408: the client did not finish its request in time."""
    return ApiError(408, message, INVALID_REQUEST, "request_timeout")


def too_large(limit: int) -> ApiError:
    """413: the body is over ``limit`` bytes."""
    return ApiError(413, f"The request body is larger than {limit} bytes.", INVALID_REQUEST, "request_too_large")


def unsupported_media_type(message: str) -> ApiError:
    """415: the body is said to be something else than JSON."""
    return ApiError(415, message, INVALID_REQUEST, "unsupported_media_type")


def too_many_requests(message: str, retry_after_s: float = 0.0) -> ApiError:
    """429: queues are full or a rate limit is reached; the client may retry."""
    return ApiError(429, message, RATE_LIMIT, "rate_limit_exceeded", retry_after_s=retry_after_s)


def quota_exceeded(message: str, retry_after_s: float = 0.0) -> ApiError:
    """429: the budget of the API key does not cover the request; without a hint it never will."""
    quota = "insufficient_quota"
    return ApiError(429, message, quota, quota, retry_after_s=retry_after_s, is_final=not retry_after_s)


def headers_too_large(limit: int) -> ApiError:
    """431: the headers are over ``limit`` bytes."""
    return ApiError(431, f"The request headers are larger than {limit} bytes.", INVALID_REQUEST, "headers_too_large")


def internal_error(message: str = "The node failed to handle this request.") -> ApiError:
    """500: a fault of the node itself."""
    return ApiError(500, message, SERVER_ERROR, "internal_error")


def bad_gateway(message: str) -> ApiError:
    """502: the backend or the executor broke off or answered nonsense."""
    return ApiError(502, message, SERVER_ERROR, "bad_gateway")


def unavailable(message: str, retry_after_s: float = 0.0) -> ApiError:
    """503: nothing can take the request at this moment; the client may retry."""
    return ApiError(503, message, UNAVAILABLE, "unavailable", retry_after_s=retry_after_s)
