"""The OpenAI API of a node: ``/v1/chat/completions`` and ``/v1/models``, as routes on the hot path.

The body of an answer is passed on as the bytes that the dispatcher gives. A failure in the middle of a stream becomes
an error event of OpenAI's shape, never a silent end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import structlog
import trio

from chain.crypto import format_address
from serving.backends.backend import BackendError, ErrorEventSent
from serving.dispatcher import Dispatcher, RequestRecord
from serving.http.server import HttpRequest, Responder
from serving.openai.answers import MAX_UNSTREAMED_BYTES, Answer
from serving.openai.errors import bad_gateway, method_not_allowed, model_not_found, not_found
from serving.openai.keys import ApiKey, ApiKeys
from serving.openai.requests import PATHS, parse_request

log = structlog.get_logger(__name__)

LOCAL_ONLY = b"x-wwwserve-local-only"
"""A request with this header (any value but 0 and false) is never offloaded."""

MODELS = "/v1/models"
"""Path of the list of models."""


class Api:
    """Handles every request under ``/v1``."""

    def __init__(self, dispatcher: Dispatcher, keys: Sequence[ApiKey] = ()) -> None:
        self._dispatcher = dispatcher
        self._keys = ApiKeys(keys)

    async def handle(self, request: HttpRequest, respond: Responder) -> None:
        """Route one request.

        Raises:
            ApiError: refused; the server answers with it.
        """
        path = request.path.rstrip("/") or "/"
        if not path.startswith("/v1/"):
            raise not_found(f"Unknown path {path}. The API is under /v1.")
        self._keys.admit(request.header(b"authorization"), trio.current_time())
        if path in PATHS:
            if request.method != "POST":
                raise method_not_allowed(request.method)
            await self._complete(path, request, respond)
        elif path == MODELS or path.startswith(MODELS + "/"):
            if request.method != "GET":
                raise method_not_allowed(request.method)
            await self._list_models(path.removeprefix(MODELS).lstrip("/"), respond)
        else:
            raise not_found(f"Unknown path {path}.")

    async def _list_models(self, name: str, respond: Responder) -> None:
        entries = [
            {"id": model, "object": "model", "created": 0, "owned_by": "wwwserve"}
            for model in self._dispatcher.get_models()
        ]
        if not name:
            await respond.reply(200, json.dumps({"object": "list", "data": entries}).encode())
            return
        found = next((entry for entry in entries if entry["id"] == name), None)
        if found is None:
            raise model_not_found(name)
        await respond.reply(200, json.dumps(found).encode())

    async def _complete(self, path: str, http: HttpRequest, respond: Responder) -> None:
        local_only = (http.header(LOCAL_ONLY) or b"0").lower() not in (b"0", b"false", b"")
        request = parse_request(path, http.body, self._dispatcher.max_tokens, local_only)
        async with self._dispatcher.complete(request) as (answer, record):
            if request.stream and answer.is_stream:
                await self._relay_stream(answer, record, respond)
            else:
                await self._relay_whole(answer, record, respond)

    async def _relay_stream(self, answer: Answer, record: RequestRecord, respond: Responder) -> None:
        content_type = (b"content-type", answer.content_type.encode("latin-1"))
        await respond.start(answer.status, [content_type, (b"cache-control", b"no-cache"), *_describe(record)])
        try:
            async for chunk in answer.body:
                await respond.send(chunk)
        except BackendError as error:
            # The stream has begun, so this is the only way left to say it: an event that clients raise as an error.
            log.info("stream broke off", request=record.id, reason=str(error))
            if not isinstance(error, ErrorEventSent):
                await respond.send(bad_gateway(f"The answer broke off: {error}.").event())
        await respond.end()

    async def _relay_whole(self, answer: Answer, record: RequestRecord, respond: Responder) -> None:
        body = bytearray()
        try:
            async for chunk in answer.body:
                body += chunk
                if len(body) > MAX_UNSTREAMED_BYTES:
                    raise BackendError(f"the answer is longer than {MAX_UNSTREAMED_BYTES} bytes")
        except BackendError as error:
            raise bad_gateway(f"The answer broke off: {error}.") from error
        content_type = answer.content_type.encode("latin-1")
        await respond.reply(answer.status, bytes(body), content_type, headers=_describe(record))


def _describe(record: RequestRecord) -> list[tuple[bytes, bytes]]:
    executor = "local" if record.executor is None else format_address(record.executor)
    return [(b"x-request-id", record.id.encode()), (b"x-wwwserve-executor", executor.encode())]
