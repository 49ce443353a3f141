"""A chat completion for the page: what the API answers, on the page's own origin and under the owner's session."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from serving.backends.backend import BackendError, ErrorEventSent
from serving.dashboard.events import cancelled_by_hang_up
from serving.dispatcher import Dispatcher
from serving.openai.endpoints import CHAT
from serving.openai.errors import ApiError, bad_gateway
from serving.openai.requests import Request, parse_request
from serving.request_records import describe_request


def read_chat(dispatcher: Dispatcher, body: bytes, *, local_only: bool) -> Request:
    """The request in a body.

    Raises:
        ApiError: it is not acceptable.
    """
    cap, model_caps = dispatcher.get_token_caps()
    return parse_request(CHAT.path, body, cap, local_only, model_caps=model_caps)


class ChatAnswer:
    """The response to a chat completion, an ASGI application."""

    def __init__(self, dispatcher: Dispatcher, request: Request) -> None:
        self._dispatcher = dispatcher
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with cancelled_by_hang_up(receive):
            try:
                await self._relay(send)
            except ApiError as error:  # before the answer began
                await _start(send, error.status, b"application/json", [])
                await _send(send, error.body(), more=False)

    async def _relay(self, send: Send) -> None:
        async with self._dispatcher.complete(self._request) as (answer, record):
            await _start(send, answer.status, answer.content_type.encode("latin-1"), describe_request(record))
            try:
                async for chunk in answer.body:
                    await _send(send, chunk)
            except BackendError as error:
                if not isinstance(error, ErrorEventSent):
                    await _send(send, bad_gateway(f"The answer broke off: {error}.").event())
        await _send(send, b"", more=False)


async def _start(send: Send, status: int, content_type: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    head = [(b"content-type", content_type), (b"cache-control", b"no-store"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})


async def _send(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})
