"""An ASGI application (version 3) behind the HTTP server of the hot path, which bounds what strangers may use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import trio

from serving.http.messages import HttpRequest
from serving.http.responder import JSON, Responder

Application = Callable[[Any, Any, Any], Awaitable[None]]

OWN_HEADERS = (b"content-length", b"content-type", b"date", b"connection", b"transfer-encoding")
"""Headers of an application's response that the server writes itself."""


class AsgiHandler:
    """Handles requests by asking ``app``. It is cancelled when the client disconnects, as every handler is.

    ``address`` is the host and port that the application is told as its own (``server`` in the scope).
    """

    def __init__(self, app: Application, address: tuple[str, int] | None = None) -> None:
        self._app = app
        self._address = address

    async def __call__(self, request: HttpRequest, respond: Responder) -> None:
        """Answer one request."""
        path, _, query = request.target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": list(request.headers),
            "client": (request.client, 0),
            "server": self._address,
        }
        exchange = _Exchange(request.body, respond)
        await self._app(scope, exchange.receive, exchange.send)


class _Exchange:
    """What an application receives and sends for one request."""

    def __init__(self, body: bytes, respond: Responder) -> None:
        self._body: bytes | None = body
        self._respond = respond
        self._status = 500
        self._headers: list[tuple[bytes, bytes]] = []
        self._content_type = JSON

    async def receive(self) -> dict[str, Any]:
        if self._body is None:
            await trio.sleep_forever()  # until the client disconnects
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            given = [(name.lower(), value) for name, value in message["headers"]]
            self._content_type = next((value for name, value in given if name == b"content-type"), JSON)
            self._headers = [(name, value) for name, value in given if name not in OWN_HEADERS]
        elif message["type"] == "http.response.body":
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        respond = self._respond
        if not respond.started and not more:
            await respond.reply(self._status, body, self._content_type, self._headers)
            return
        if not respond.started:
            await respond.start(self._status, [(b"content-type", self._content_type), *self._headers])
        await respond.send(body)
        if not more:
            await respond.end()
