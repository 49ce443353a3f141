"""Calls of the API without a connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from serving.api import Api
from serving.http.messages import HttpRequest
from serving.http.responder import Responder
from serving.openai.errors import ApiError

CHAT = "/v1/chat/completions"


@dataclass
class FakeResponder:
    """What a handler answers, without a connection. ``send`` may be told to block."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    pieces: list[bytes] = field(default_factory=list)
    ended: bool = False
    common_headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def reply(
        self, status: int, body: bytes, content_type: bytes = b"application/json", headers: Any = ()
    ) -> None:
        self.status, self.body, self.ended = status, body, True
        self.headers = {b"content-type": content_type, **dict(headers)}

    async def start(self, status: int, headers: Any) -> None:
        self.status, self.headers = status, dict(headers)

    async def send(self, chunk: bytes) -> None:
        if chunk:
            self.pieces.append(chunk)
            self.body += chunk

    async def end(self) -> None:
        assert not self.ended
        self.ended = True


async def call(
    api: Api, path: str = CHAT, body: bytes = b"", method: str = "POST", **headers: bytes
) -> tuple[FakeResponder, ApiError | None]:
    headers = {"content_type": b"application/json", **headers}
    pairs = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    request, responder = HttpRequest(method, path, pairs, "test", body), FakeResponder()
    try:
        api.admit(request, cast(Responder, responder))
        await api.handle(request, cast(Responder, responder))
    except ApiError as error:
        return responder, error
    return responder, None
