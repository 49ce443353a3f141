"""Reading what a user sent in another API, and refusing by name what cannot be done. Pure."""

from __future__ import annotations

from typing import Any

from serving.openai.errors import ApiError, bad_request


def refuse(param: str, reason: str) -> ApiError:
    """The error about a field that is there and cannot be served."""
    return bad_request(f"'{param}': {reason}", code="unsupported_parameter", param=param)


def wrong(param: str, expected: str) -> ApiError:
    """The error about a field of another type than it has to be."""
    return bad_request(f"'{param}' must be {expected}.", code="invalid_type", param=param)


def get_text(content: dict[str, Any], name: str, place: str = "") -> str:
    """A field that must be a text; ``place`` is where the object stands, such as ``input[0].``.

    Raises:
        ApiError: 400.
    """
    value = content.get(name)
    if not isinstance(value, str):
        raise wrong(place + name, "a text")
    return value


def get_list(content: dict[str, Any], name: str, place: str = "") -> list[Any]:
    """A field that is a list of objects, empty if it is missing or null.

    Raises:
        ApiError: 400.
    """
    value = content.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise wrong(place + name, "a list of objects")
    return value


def get_object(content: dict[str, Any], name: str, place: str = "") -> dict[str, Any]:
    """A field that is an object, empty if it is missing or null.

    Raises:
        ApiError: 400.
    """
    value = content.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(place + name, "an object")
    return value


def pick(content: dict[str, Any], *names: str) -> dict[str, Any]:
    """Those of the fields that are there and not null."""
    return {name: content[name] for name in names if content.get(name) is not None}


def join_parts(parts: list[dict[str, Any]]) -> Any:
    """The content of a chat message: its text if it is one text, else its parts."""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return parts
