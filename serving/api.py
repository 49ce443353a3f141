"""The OpenAI API of a node: ``/v1/chat/completions`` and ``/v1/models``, as routes on the hot path.

The body of an answer is passed on as the bytes that came; only a stream's usage event is withheld from a user who did
not ask for it. A failure in the middle of a stream becomes an error event of OpenAI's shape, never a silent end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import structlog
import trio

from chain.crypto import format_address
from serving.backends.backend import BackendError
from serving.dispatcher import Dispatcher, Reply
from serving.http.server import HttpRequest, Responder
from serving.openai.answers import MAX_BODY_BYTES, AnswerInspector
from serving.openai.errors import bad_gateway, method_not_allowed, model_not_found, not_found
from serving.openai.keys import ApiKey, ApiKeys
from serving.openai.requests import PATHS, Request, parse_request

log = structlog.get_logger(__name__)

LOCAL_ONLY = b"x-wwwserve-local-only"
"""A request with this header (any value but 0 and false) is never offloaded."""

MODELS = "/v1/models"


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
        self._keys.check(request.header(b"authorization"), trio.current_time())
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
            for model in await self._dispatcher.get_models()
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
        request = parse_request(path, http.body, self._dispatcher.policy.parameters.max_tokens, local_only)
        async with self._dispatcher.complete(request) as reply:
            if request.stream and reply.content_type.startswith("text/event-stream"):
                await self._relay_stream(request, reply, respond)
            else:
                await self._relay_whole(reply, respond)

    async def _relay_stream(self, request: Request, reply: Reply, respond: Responder) -> None:
        inspector = AnswerInspector(stream=True, withhold_usage=not request.wants_usage)
        headers = [
            (b"content-type", reply.content_type.encode("latin-1")),
            (b"cache-control", b"no-cache"),
            *_describe(reply),
        ]
        await respond.start(reply.status, headers)
        try:
            async for chunk in reply.body:
                await respond.send(inspector.feed(chunk))
                if inspector.error is not None:  # what may come after an error contradicts it
                    raise BackendError(inspector.error)
            await respond.send(inspector.finish())
            if not inspector.complete:
                raise BackendError(inspector.error or "the answer ended too early")
        except BackendError as error:
            # The stream has begun, so this is the only way left to say it: an event that clients raise as an error.
            log.info("stream broke off", request=reply.record.id, reason=str(error))
            if inspector.error is None:  # else the backend has said it already
                await respond.send(bad_gateway(f"The answer broke off: {error}.").event())
            reply.record.outcome = "failed"
        finally:
            reply.record.completion_tokens = inspector.completion_tokens
            if inspector.is_over and reply.record.outcome == "running":  # whoever hangs up now has it all
                reply.record.outcome = "completed"
        await respond.end()

    async def _relay_whole(self, reply: Reply, respond: Responder) -> None:
        inspector = AnswerInspector(stream=False)
        body = bytearray()
        try:
            async for chunk in reply.body:
                body += inspector.feed(chunk)
                if len(body) > MAX_BODY_BYTES:
                    raise BackendError(f"the answer is longer than {MAX_BODY_BYTES} bytes")
        except BackendError as error:
            raise bad_gateway(f"The answer broke off: {error}.") from error
        inspector.finish()
        reply.record.completion_tokens = inspector.completion_tokens
        content_type = reply.content_type.encode("latin-1")
        await respond.reply(reply.status, bytes(body), content_type, headers=_describe(reply))


def _describe(reply: Reply) -> list[tuple[bytes, bytes]]:
    record = reply.record
    executor = "local" if record.executor is None else format_address(record.executor)
    return [(b"x-request-id", record.id.encode()), (b"x-wwwserve-executor", executor.encode())]
