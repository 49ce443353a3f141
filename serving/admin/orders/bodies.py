"""Bodies of the admin listener: a request's JSON object, checked against a section, and an answer in JSON."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serving.config.fields import Section
from serving.config.file import describe_errors, format_path
from serving.http.messages import is_json

MAX_ADMIN_BODY_BYTES = 64 * 1024
"""Largest body of a request."""

S = TypeVar("S", bound=Section)


async def read_section(request: Request, kind: type[S]) -> S:
    """The body of a request as a ``kind``; an empty body is an empty object.

    Raises:
        HTTPException: 400 or 413; its text says what is wrong.
    """
    return validate_section(await read_object(request), kind)


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object in the body of a request.

    Raises:
        HTTPException: 400, 413 or 415; its text says what is wrong.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_ADMIN_BODY_BYTES:
            raise HTTPException(413, f"the body is larger than {MAX_ADMIN_BODY_BYTES} bytes")
    if body and not is_json(request.scope["headers"]):
        raise HTTPException(415, "the body must be JSON: send it with Content-Type: application/json")
    try:
        content = json.loads(body or b"{}")
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return content


def validate_section(content: dict[str, Any], kind: type[S]) -> S:
    """``content`` as a ``kind``.

    Raises:
        HTTPException: 400; its text names each key that is wrong.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = [f"{format_path(path)}: {reason}" for path, reason in describe_errors(error, kind)]
        raise HTTPException(400, "; ".join(faults)) from None


def make_answer(content: dict[str, Any], status: int = 200) -> Response:
    """A response with ``content`` as JSON."""
    return Response(json.dumps(content), status, media_type="application/json")
