"""The OpenAI API of a node: chat completions, completions, embeddings and models, as routes on the hot path.

:meth:`Api.admit` decides by the head of a request whether it is let in, and :meth:`Api.handle` answers it.
The body of an answer is passed on as the bytes that the dispatcher gives. A failure in the middle of a stream becomes
an error event of OpenAI's shape, never a silent end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import unquote

import structlog

from chain.crypto import format_address
from serving.backends.backend import BackendError, ErrorEventSent
from serving.dispatcher import Dispatcher, RequestRecord
from serving.failover.resent_requests import IDEMPOTENCY_KEY, ResentRequests
from serving.http.access import AccessRules, describe_preflight, describe_response, is_preflight
from serving.http.messages import HttpRequest, RequestHead, is_json
from serving.http.responder import Responder
from serving.http.server import Handler
from serving.keys.keyring import Keyring
from serving.model_list import ModelList
from serving.openai.answers import Answer
from serving.openai.content import MAX_VECTORS_BYTES
from serving.openai.endpoints import ENDPOINTS
from serving.openai.errors import (
    bad_gateway,
    method_not_allowed,
    not_found,
    unsupported_media_type,
)
from serving.openai.requests import parse_request
from serving.quality.model_reports import ModelReports

log = structlog.get_logger(__name__)

LOCAL_ONLY = b"x-wwwserve-local-only"
"""A request with this header (any value but 0 and false) is never offloaded."""

TIMEOUTS = {
    b"x-wwwserve-timeout": 1.0,
    b"x-stainless-read-timeout": 1.0,  # OpenAI's clients for Python and others
    b"x-stainless-timeout": 1.0,  # for JavaScript
    b"x-envoy-expected-rq-timeout-ms": 0.001,  # of the proxy Envoy
}
"""Headers by which clients say how long they wait for an answer to begin, and their units in seconds."""

MODELS = "/v1/models"
"""Path of the list of models."""


class Api:
    """Handles every request under ``/v1``.

    ``keys`` say who may use it (default: everybody), and ``access`` from which hosts and web pages (default: none but
    local). ``reports`` has what the ledger says of the executors of a model, and ``quantizations`` the number formats
    of own models, for the list of models. ``resent`` has the answers to requests with an Idempotency-Key; without it
    the header says nothing.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        keys: Keyring | None = None,
        access: AccessRules | None = None,
        reports: ModelReports | None = None,
        resent: ResentRequests | None = None,
        quantizations: Mapping[str, str] | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._resent = resent
        self._models = ModelList(dispatcher, reports, quantizations)
        self._keys = keys
        self._access = access or AccessRules("localhost")

    def admit(self, head: RequestHead, respond: Responder) -> None:
        """Admit a request by its head: host, origin, path, key, method and type of the body.

        Raises:
            ApiError: refused; the server answers with it, and reads no body.
        """
        origin = self._access.admit(head.headers)
        if origin is not None:
            respond.common_headers += describe_response(origin)
            if is_preflight(head):  # browsers send no key with it
                return
        if not head.path.startswith("/v1/"):
            raise not_found(f"Unknown path {head.path}. The API is under /v1.")
        if self._keys is not None:
            self._keys.admit(head.headers)
        self._find_route(head)
        if head.method == "POST" and not is_json(head.headers):
            raise unsupported_media_type(
                "The request body must be JSON: send it with 'Content-Type: application/json' (curl: --json)."
            )

    async def handle(self, request: HttpRequest, respond: Responder) -> None:
        """Answer one request that was admitted.

        Raises:
            ApiError: refused; the server answers with it.
        """
        if is_preflight(request):
            await respond.start(204, describe_preflight(request))
            await respond.end()
            return
        handle = self._find_route(request)
        if self._resent is not None and request.method == "POST" and request.header(IDEMPOTENCY_KEY) is not None:
            await self._resent.answer(self._identify(request), request, respond, handle)
        else:
            await handle(request, respond)

    def _find_route(self, head: RequestHead) -> Handler:
        """What answers a request.

        Raises:
            ApiError: 404 or 405.
        """
        path = head.path.rstrip("/")
        if path in ENDPOINTS:
            method, handler = "POST", self._complete
        elif path == MODELS or path.startswith(MODELS + "/"):
            method, handler = "GET", self._list_models
        else:
            raise not_found(f"Unknown path {path}.")
        if head.method != method:
            raise method_not_allowed(head.method)
        return handler

    async def _list_models(self, http: HttpRequest, respond: Responder) -> None:
        name = unquote(http.path.removeprefix(MODELS).strip("/"))
        key = self._identify(http)
        models = [
            model for model in self._dispatcher.get_models() if self._keys is None or self._keys.may_use(key, model)
        ]
        described = self._models.describe(name, models) if name else self._models.describe_all(models)
        await respond.reply(200, json.dumps(described).encode())

    async def _complete(self, http: HttpRequest, respond: Responder) -> None:
        local_only = (http.header(LOCAL_ONLY) or b"0").lower() not in (b"0", b"false", b"")
        cap, model_caps = self._dispatcher.get_token_caps()
        request = parse_request(
            http.path.rstrip("/"), http.body, cap, local_only, model_caps=model_caps, timeout_s=read_timeout(http)
        )
        request = replace(request, key=self._identify(http))
        async with self._dispatcher.complete(request) as (answer, record):
            if request.stream and answer.is_stream:
                await self._relay_stream(answer, record, respond)
            else:
                await self._relay_whole(answer, record, respond)

    def _identify(self, head: RequestHead) -> str:
        """The name of the API key that a request carries; empty where none is needed.

        Raises:
            ApiError: 401, it has been revoked since the request was admitted.
        """
        return "" if self._keys is None else self._keys.identify(head.headers)

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
                if len(body) > MAX_VECTORS_BYTES:  # its inspector allows less, if it is none of embeddings
                    raise BackendError(f"the answer is longer than {MAX_VECTORS_BYTES} bytes")
        except BackendError as error:
            raise bad_gateway(f"The answer broke off: {error}.") from error
        content_type = answer.content_type.encode("latin-1")
        await respond.reply(
            answer.status, bytes(body), content_type, headers=[*_describe(record), *_describe_retry(answer)]
        )


def read_timeout(head: RequestHead) -> float:
    """Seconds that a client waits for the answer to begin: the least of what its headers say, infinite without any."""
    return min((_read_seconds(head.header(name)) * unit for name, unit in TIMEOUTS.items()), default=math.inf)


def _read_seconds(value: bytes | None) -> float:
    try:
        seconds = float(value or b"inf")
    except ValueError:  # also what is not ASCII; clients send such as "None", too
        return math.inf
    return seconds if seconds > 0 else math.inf


def _describe(record: RequestRecord) -> list[tuple[bytes, bytes]]:
    executor = "local" if record.executor is None else format_address(record.executor)
    return [(b"x-request-id", record.id.encode()), (b"x-wwwserve-executor", executor.encode())]


def _describe_retry(answer: Answer) -> list[tuple[bytes, bytes]]:
    """When to ask again, as whoever answered says."""
    return [(b"retry-after", b"%d" % math.ceil(answer.retry_after_s))] if answer.retry_after_s else []
