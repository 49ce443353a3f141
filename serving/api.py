"""The API of a node: OpenAI's and Anthropic's, as routes on the hot path.

:meth:`Api.admit` decides by the head of a request whether it is let in, and :meth:`Api.handle` answers it.
The body of an answer is passed on as the bytes that the dispatcher gives, or written in the API that was asked
(``serving.translation``). A failure in the middle of a stream becomes an error event of that API, never a silent end.
"""

from __future__ import annotations

import json
import math
from functools import partial
from urllib.parse import unquote

import structlog

from serving.backends.backend import BackendError, ErrorEventSent
from serving.backends.token_count import count_tokens
from serving.dispatcher import Dispatcher
from serving.failover.resent_requests import IDEMPOTENCY_KEY, ResentRequests
from serving.http.access import AccessRules, describe_preflight, describe_response, is_preflight
from serving.http.connection import Handler
from serving.http.messages import HttpRequest, RequestHead, is_json
from serving.http.responder import Responder
from serving.keys.keyring import Keyring
from serving.model_list import ModelList
from serving.openai.answers import Answer
from serving.openai.bodies import parse_json
from serving.openai.content import MAX_VECTORS_BYTES
from serving.openai.endpoints import CHAT
from serving.openai.errors import (
    ApiError,
    bad_gateway,
    key_forbids_model,
    method_not_allowed,
    model_not_found,
    not_found,
    unsupported_media_type,
)
from serving.openai.nearest_names import find_nearest
from serving.openai.provider_rules import ANYBODY, AUTO, ProviderRules, has_rules, take_rules
from serving.openai.requests import LOCAL_ONLY, Request, encode_body, is_local_only, parse_body, parse_request
from serving.openapi import make_document
from serving.quality.model_reports import ModelReports
from serving.request_records import RequestRecord, describe_request
from serving.routes import DOCUMENT, MODELS, Operation, Route, find_route
from serving.translation.chat import read_error
from serving.translation.dialect import Dialect, StreamTranslation
from serving.translation.fields import get_text
from serving.translation.messages import MESSAGES
from serving.translation.messages_errors import shape_error
from serving.translation.messages_request import read_messages_request
from serving.translation.responses import RESPONSES

log = structlog.get_logger(__name__)

TIMEOUTS = {
    b"x-wwwserve-timeout": 1.0,
    b"x-stainless-read-timeout": 1.0,  # OpenAI's clients for Python and others
    b"x-stainless-timeout": 1.0,  # for JavaScript
    b"x-envoy-expected-rq-timeout-ms": 0.001,  # of the proxy Envoy
}
"""Headers by which clients say how long they wait for an answer to begin, and their units in seconds."""


class Api:
    """Handles every request under ``/v1``.

    ``keys`` say who may use it (default: everybody), and ``access`` from which hosts and web pages (default: none but
    local). ``reports`` has what the ledger says of the executors of a model, for the list of models. ``resent`` has the
    answers to requests with an Idempotency-Key; without it the header says nothing.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        keys: Keyring | None = None,
        access: AccessRules | None = None,
        reports: ModelReports | None = None,
        resent: ResentRequests | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._resent = resent
        self._models = ModelList(dispatcher, reports)
        self._keys = keys
        self._access = access or AccessRules("localhost")
        self._handlers: dict[Operation, Handler] = {
            Operation.COMPLETE: self._complete,
            Operation.RESPOND: partial(self._translate, RESPONSES),
            Operation.MESSAGE: partial(self._translate, MESSAGES),
            Operation.COUNT_TOKENS: self._count_tokens,
            Operation.LIST_MODELS: self._list_models,
            Operation.DESCRIBE_MODEL: self._list_models,
            Operation.DOCUMENT: self._give_document,
        }

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
        try:
            self._admit(head)
        except ApiError as error:
            raise _shape_error(error, head.path) from error.__cause__

    def _admit(self, head: RequestHead) -> None:
        is_document = head.path == DOCUMENT
        if not head.path.startswith("/v1/") and not is_document:
            raise not_found(f"Unknown path {head.path}. The API is under /v1.")
        if self._keys is not None and not is_document:
            self._keys.admit(head.headers)
        _find_route(head)
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
        try:
            handle = self._handlers[_find_route(request).operation]
            if self._resent is not None and request.method == "POST" and request.header(IDEMPOTENCY_KEY) is not None:
                await self._resent.answer(self._identify(request), request, respond, handle)
            else:
                await handle(request, respond)
        except ApiError as error:
            raise _shape_error(error, request.path) from error.__cause__

    async def _list_models(self, http: HttpRequest, respond: Responder) -> None:
        name = unquote(http.path.removeprefix(MODELS).strip("/"))
        models = self._get_models(self._identify(http))
        described = self._models.describe(name, models) if name else self._models.describe_all(models)
        await respond.reply(200, json.dumps(described).encode())

    async def _give_document(self, http: HttpRequest, respond: Responder) -> None:
        await respond.reply(200, encode_body(make_document()))

    async def _complete(self, http: HttpRequest, respond: Responder) -> None:
        request = self._read_request(http, http.path.rstrip("/"), http.body)
        async with self._dispatcher.complete(request) as (answer, record):
            if request.stream and answer.is_stream:
                await self._relay_stream(answer, record, respond)
            else:
                body, content_type = await _read_whole(answer), answer.content_type.encode("latin-1")
                headers = [*describe_request(record), *_describe_retry(answer)]
                await respond.reply(answer.status, body, content_type, headers=headers)

    async def _translate(self, dialect: Dialect, http: HttpRequest, respond: Responder) -> None:
        """Answer a request of another API by a chat completion."""
        translation = dialect.read(parse_body(http.body))
        request = self._read_request(http, CHAT.path, encode_body(translation.chat))
        async with self._dispatcher.complete(request) as (answer, record):
            if answer.status == 200 and request.stream and answer.is_stream:
                await self._relay_stream(answer, record, respond, translation.open_stream(record.id))
                return
            body = await _read_whole(answer)
        if answer.status != 200:
            raise read_error(answer.status, parse_json(body), answer.retry_after_s)
        await respond.reply(200, translation.translate(body, record.id), headers=describe_request(record))

    def _read_request(self, http: HttpRequest, path: str, body: bytes) -> Request:
        """The request that goes to a backend.

        Raises:
            ApiError: 400, it is none.
        """
        local_only = is_local_only((http.header(LOCAL_ONLY.encode()) or b"").decode("latin-1"))
        cap, model_caps = self._dispatcher.get_token_caps()
        key, rules = self._identify(http), ANYBODY
        if has_rules(body):
            rules, content = take_rules(parse_body(body), partial(self._choose_model, key))
            body = encode_body(content)
        timeout_s = read_timeout(http)
        return parse_request(
            path, body, cap, local_only, model_caps=model_caps, timeout_s=timeout_s, key=key, rules=rules
        )

    def _choose_model(self, key: str, rules: ProviderRules) -> str:
        """The model of a request that leaves it open.

        Raises:
            ApiError: 404, there is none.
        """
        models = self._get_models(key)
        if not models:
            raise model_not_found(AUTO)
        return self._dispatcher.providers.choose_model(models, rules)

    def _get_models(self, key: str) -> list[str]:
        """The models that an API key may use."""
        models = self._dispatcher.providers.get_models()
        return models if self._keys is None else [model for model in models if self._keys.may_use(key, model)]

    async def _count_tokens(self, http: HttpRequest, respond: Responder) -> None:
        sent = parse_body(http.body)
        chat = read_messages_request(sent, needs_limit=False)
        model, key = get_text(chat, "model"), self._identify(http)
        if self._keys is not None and not self._keys.may_use(key, model):
            raise key_forbids_model(model)
        backends = self._dispatcher.backend_pool.order(model)
        if not backends:
            raise model_not_found(model, find_nearest(model, self._dispatcher.backend_pool.get_models()))
        count = await count_tokens(backends[0].backend, http.body, encode_body(chat))
        await respond.reply(200, encode_body({"input_tokens": count}))

    def _identify(self, head: RequestHead) -> str:
        """The name of the API key that a request carries; empty where none is needed.

        Raises:
            ApiError: 401, it has been revoked since the request was admitted.
        """
        return "" if self._keys is None else self._keys.identify(head.headers)

    async def _relay_stream(
        self, answer: Answer, record: RequestRecord, respond: Responder, written: StreamTranslation | None = None
    ) -> None:
        """Pass a stream on, as it is or ``written`` in another API."""
        content_type = (b"content-type", answer.content_type.encode("latin-1"))
        await respond.start(answer.status, [content_type, (b"cache-control", b"no-cache"), *describe_request(record)])
        try:
            async for chunk in answer.body:
                await respond.send(chunk if written is None else written.feed(chunk))
            if written is not None:
                await respond.send(written.finish())
        except BackendError as error:
            # The stream has begun, so this is the only way left to say it: an event that clients raise as an error.
            log.info("stream broke off", request=record.id, reason=str(error))
            broken = bad_gateway(f"The answer broke off: {error}.")
            if written is not None:
                await respond.send(written.fail(broken))
            elif not isinstance(error, ErrorEventSent):
                await respond.send(broken.event())
        await respond.end()


def _shape_error(error: ApiError, path: str) -> ApiError:
    """An error in the shape of the API that a path belongs to."""
    route = find_route(path)
    return shape_error(error) if route is not None and route.is_anthropic else error


def _find_route(head: RequestHead) -> Route:
    """What answers a request.

    Raises:
        ApiError: 404 or 405.
    """
    route = find_route(head.path)
    if route is None:
        raise not_found(f"Unknown path {head.path}.")
    if head.method != route.method:
        raise method_not_allowed(head.method, route.method)
    return route


async def _read_whole(answer: Answer) -> bytes:
    """An answer that is not streamed.

    Raises:
        ApiError: 502, it broke off.
    """
    body = bytearray()
    try:
        async for chunk in answer.body:
            body += chunk
            if len(body) > MAX_VECTORS_BYTES:  # its inspector allows less, if it is none of embeddings
                raise BackendError(f"the answer is longer than {MAX_VECTORS_BYTES} bytes")
    except BackendError as error:
        raise bad_gateway(f"The answer broke off: {error}.") from error
    return bytes(body)


def read_timeout(head: RequestHead) -> float:
    """Seconds that a client waits for the answer to begin: the least of what its headers say, infinite without any."""
    said = (_read_seconds(value) * TIMEOUTS[name] for name, value in head.headers if name in TIMEOUTS)
    return min(said, default=math.inf)


def _read_seconds(value: bytes) -> float:
    try:
        seconds = float(value)
    except ValueError:  # also what is not ASCII; clients send such as "None", too
        return math.inf
    return seconds if seconds > 0 else math.inf


def _describe_retry(answer: Answer) -> list[tuple[bytes, bytes]]:
    """When to ask again, as the backend or the executor says."""
    return [(b"retry-after", b"%d" % math.ceil(answer.retry_after_s))] if answer.retry_after_s else []
