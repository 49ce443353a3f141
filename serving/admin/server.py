"""The admin listener: what the owner asks of the running node, and tells it to do.

``/healthz`` and ``/metrics`` are open to whoever reaches the (loopback) listener; everything else wants the token of
the data directory, ``Authorization: Bearer …``. Bodies and answers are JSON, errors ``{"error": text}``. Amounts are in
micro-credits.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from pydantic import Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chain.crypto import parse_address
from chain.exceptions import InvalidOperation, KeyFormatError
from chain.files import SECRET_MODE, write_atomically
from chain.state.beacon import make_onion
from chain.state.state import Draft
from chain.transition.operations import BlockContext, compute_fee, process_operation
from chain.types.operations import (
    MAX_MODELS,
    Bond,
    Enroll,
    NoncedOperation,
    Retire,
    Serve,
    SignedOperation,
    Transfer,
    Unbond,
    Unjail,
    Withdraw,
)
from serving.accounting.registration import register
from serving.admin.metrics import CONTENT_TYPE, Metrics
from serving.admin.node_view import NodeView
from serving.admin.reports import (
    report_health,
    report_models,
    report_peers,
    report_policy,
    report_requests,
    report_status,
    report_total,
    report_wallet,
)
from serving.config.file import describe_errors, format_path
from serving.config.schema import MAX_CREDITS, ModelName, PolicyBounds, Section
from serving.dispatcher import MAX_RECORDS
from serving.http.server import ListenError

log = structlog.get_logger(__name__)

MAX_BODY = 64 * 1024
"""Bytes of a request."""
MAX_WAIT = 300.0
"""Seconds that a request may wait for finality."""
MAX_MEMO = 64
"""Bytes of a transfer's memo."""
DEFAULT_LIMIT = 50
GRACE = 1.0
"""Seconds that requests under way have when the listener is stopped."""

Endpoint = Callable[[Request], Awaitable[Response]]
Partition = Callable[[Sequence[bytes]], Awaitable[None]]
"""Has nothing to do with these peers from now on; see ``p2p.host.network.Libp2pNetwork.partition``."""
S = TypeVar("S", bound=Section)


class _Order(Section):
    """What the owner orders of the wallet; ``wait`` seconds for it to be final."""

    wait: float = Field(default=0.0, ge=0, le=MAX_WAIT)


class _AmountOrder(_Order):
    amount: int = Field(ge=1, le=MAX_CREDITS)


class _TransferOrder(_AmountOrder):
    recipient: str
    memo: str = ""


class _PartitionOrder(Section):
    peers: list[str]


class _ServeOrder(_Order):
    models: list[ModelName] = Field(max_length=MAX_MODELS)


class Admin:
    """The listener of one node. ``extra`` routes are added as they are, without the token's protection.

    ``partition`` is a testing aid: it opens ``PUT /testing/partition``, which cuts the node off from named peers.
    """

    def __init__(
        self,
        node: NodeView,
        token: str,
        listener: trio.SocketListener,
        extra: Sequence[BaseRoute] = (),
        partition: Partition | None = None,
    ) -> None:
        self._node = node
        self._partition = partition
        self._token = token.encode()
        self._listener = listener
        host, port, *_ = listener.socket.getsockname()
        self.address: tuple[str, int] = (host, port)
        """Host and port that are listened on."""
        metrics = Metrics(node)

        async def get_health(request: Request) -> Response:
            return _answer(report_health(node))

        async def get_metrics(request: Request) -> Response:
            return Response(metrics.render(), media_type=CONTENT_TYPE)

        self.app = Starlette(
            routes=[
                Route("/healthz", get_health),
                Route("/metrics", get_metrics),
                *[
                    Route(path, self._guard(endpoint), methods=[method])
                    for path, method, endpoint in self._get_routes()
                ],
                *extra,
            ],
            exception_handlers={HTTPException: _answer_http_exception},
        )

    @classmethod
    async def open(
        cls,
        node: NodeView,
        host: str,
        port: int,
        token_path: Path,
        extra: Sequence[BaseRoute] = (),
        partition: Partition | None = None,
    ) -> Admin:
        """Bind ``host`` and ``port`` (0: any free one) and read the token, or make it; :meth:`run` then serves.

        Raises:
            ListenError: the address is in use or cannot be bound.
            OSError: the token's file cannot be read or written.
        """
        token = load_or_create_token(token_path)
        try:
            first, *others = await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            raise ListenError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        for listener in others:  # a name with several addresses; one will do
            await listener.aclose()
        return cls(node, token, first, extra, partition)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        config = Config()
        config.bind = [f"fd://{self._listener.socket.detach()}"]  # hypercorn owns the socket from here on
        config.errorlog = logging.getLogger("hypercorn.error")
        config.include_server_header = False
        config.graceful_timeout = GRACE
        app: Any = self.app  # ASGI, for which the two libraries have types of their own
        await serve(app, config, mode="asgi", task_status=task_status)

    def _get_routes(self) -> list[tuple[str, str, Endpoint]]:
        """The routes that want the token: path, method, endpoint."""
        node = self._node

        async def get_status(request: Request) -> Response:
            return _answer(await report_status(node))

        async def get_total(request: Request) -> Response:
            return _answer(await report_total(node))

        async def get_peers(request: Request) -> Response:
            return _answer(report_peers(node))

        async def get_models(request: Request) -> Response:
            return _answer(await report_models(node))

        async def get_requests(request: Request) -> Response:
            return _answer(report_requests(node, _parse_limit(request)))

        async def get_wallet(request: Request) -> Response:
            return _answer(report_wallet(node))

        async def get_policy(request: Request) -> Response:
            return _answer(report_policy(node))

        return [
            ("/status", "GET", get_status),
            ("/ledger/total", "GET", get_total),
            ("/peers", "GET", get_peers),
            ("/models", "GET", get_models),
            ("/requests", "GET", get_requests),
            ("/wallet", "GET", get_wallet),
            ("/wallet/transfer", "POST", self._transfer),
            ("/wallet/bond", "POST", self._bond),
            ("/wallet/unbond", "POST", self._unbond),
            ("/wallet/withdraw", "POST", self._withdraw),
            ("/wallet/serve", "POST", self._serve_models),
            ("/wallet/enroll", "POST", self._enroll),
            ("/wallet/retire", "POST", self._retire),
            ("/wallet/unjail", "POST", self._unjail),
            ("/wallet/register", "POST", self._register),
            ("/policy", "GET", get_policy),
            ("/policy", "PUT", self._change_policy),
            *([("/testing/partition", "PUT", self._set_partition)] if self._partition is not None else []),
        ]

    def _guard(self, endpoint: Endpoint) -> Endpoint:
        """Let only the owner in, and make a clean answer of whatever goes wrong."""

        async def guarded(request: Request) -> Response:
            scheme, _, presented = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(presented.strip().encode(), self._token):
                reason = "this needs the token in the node's data directory: Authorization: Bearer …"
                raise HTTPException(401, reason, {"www-authenticate": "Bearer"})
            try:
                return await endpoint(request)
            except (HTTPException, ClientDisconnect):
                raise
            except Exception:
                log.exception("admin request failed", path=request.url.path)
                raise HTTPException(500, "internal error; the node's log has more") from None

        return guarded

    # Wallet

    async def _transfer(self, request: Request) -> Response:
        order = await _read(request, _TransferOrder)
        try:
            recipient = parse_address(order.recipient)
        except KeyFormatError as error:
            raise HTTPException(400, f"recipient: {error}") from None
        memo = order.memo.encode()
        if len(memo) > MAX_MEMO:
            raise HTTPException(400, f"memo: has {len(memo)} bytes, more than {MAX_MEMO}")
        return await self._submit(lambda nonce: Transfer(nonce, recipient, order.amount, memo), order.wait)

    async def _bond(self, request: Request) -> Response:
        order = await _read(request, _AmountOrder)
        return await self._submit(lambda nonce: Bond(nonce, order.amount), order.wait)

    async def _unbond(self, request: Request) -> Response:
        order = await _read(request, _AmountOrder)
        return await self._submit(lambda nonce: Unbond(nonce, order.amount), order.wait)

    async def _withdraw(self, request: Request) -> Response:
        order = await _read(request, _Order)
        return await self._submit(Withdraw, order.wait)

    async def _serve_models(self, request: Request) -> Response:
        order = await _read(request, _ServeOrder)
        models = tuple(sorted(set(order.models)))
        return await self._submit(lambda nonce: Serve(nonce, models), order.wait)

    async def _enroll(self, request: Request) -> Response:
        order = await _read(request, _Order)
        genesis, key = self._node.engine.genesis, self._node.key

        def make(nonce: int) -> Enroll:
            number = nonce + 1  # 0 is that of genesis
            return Enroll(nonce, make_onion(key, genesis.beacon, number, genesis.parameters.epoch_heights).tip, number)

        return await self._submit(make, order.wait)

    async def _retire(self, request: Request) -> Response:
        order = await _read(request, _Order)
        return await self._submit(Retire, order.wait)

    async def _unjail(self, request: Request) -> Response:
        order = await _read(request, _Order)
        return await self._submit(Unjail, order.wait)

    async def _register(self, request: Request) -> Response:
        order = await _read(request, _Order)
        models = (await self._node.services.get_models())[:MAX_MODELS]
        try:
            signed = await register(self._node.engine, self._node.key, tuple(models), self._node.runtime)
        except InvalidOperation as error:
            raise HTTPException(409, str(error)) from None
        return await self._report(signed, order.wait)

    async def _submit(self, make: Callable[[int], NoncedOperation], wait: float) -> Response:
        """Sign and submit an operation, unless it would fail; wait for it to be final for ``wait`` seconds."""
        obstacle = self._find_obstacle(make)
        if obstacle is not None:
            raise HTTPException(409, obstacle)
        try:
            signed = await self._node.wallet.submit(make)
        except InvalidOperation as error:
            raise HTTPException(409, str(error)) from None
        return await self._report(signed, wait)

    async def _report(self, signed: SignedOperation, wait: float) -> Response:
        """What became of an operation after ``wait`` seconds at most."""
        engine = self._node.engine
        height, failure = None, None
        if wait:
            with suppress(trio.TooSlowError):
                height, failure = await engine.wait_final(signed.id, wait)
        fee = compute_fee(engine.genesis, signed)
        content = {"operation": signed.id.hex(), "fee": fee, "height": height, "failure": failure}
        return _answer(content, 202 if height is None else 200)

    def _find_obstacle(self, make: Callable[[int], NoncedOperation]) -> str | None:
        """Why the operation would fail if it came next; on the ledger it would still cost its fee."""
        engine, signer = self._node.engine, self._node.key.public_key
        state, context = engine.state, BlockContext.after(engine.genesis, engine.header)
        unsigned = SignedOperation(make(state.account(signer).nonce), signer, bytes(64))
        try:
            return process_operation(Draft(state), context, unsigned)
        except InvalidOperation as error:
            return str(error)

    # Testing

    async def _set_partition(self, request: Request) -> Response:
        """Cut the node off from the peers named; from none ends it."""
        order = await _read(request, _PartitionOrder)
        assert self._partition is not None
        try:
            await self._partition([parse_address(address) for address in order.peers])
        except KeyFormatError as error:
            raise HTTPException(400, f"peers: {error}") from None
        return _answer({"peers": order.peers})

    # Policy

    async def _change_policy(self, request: Request) -> Response:
        """Change the numbers that are given, until the node stops; the others stay."""
        node = self._node
        changes = await _read_object(request)
        bounds = _validate({**report_policy(node), **changes}, PolicyBounds)
        node.policy.parameters = bounds.get_parameters()
        for admission in node.services.admissions:
            admission.max_queue = bounds.max_queue
            admission.prioritize_own = bounds.prioritize_own
        log.info("policy changed", **changes)
        return _answer(report_policy(node))


def load_or_create_token(path: Path) -> str:
    """The token in the file ``path``, or a new random one written there, readable by the owner only.

    Raises:
        OSError: the file cannot be read or written.
    """
    with suppress(FileNotFoundError):
        token = path.read_text(encoding="utf-8").strip()
        if token:
            path.chmod(0o600)
            return token
    token = secrets.token_urlsafe(32)
    write_atomically(path, f"{token}\n".encode(), mode=SECRET_MODE)
    return token


async def _read(request: Request, kind: type[S]) -> S:
    """The body as a ``kind``; an empty one is an empty object."""
    return _validate(await _read_object(request), kind)


async def _read_object(request: Request) -> dict[str, Any]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes")
    try:
        content = json.loads(body or b"{}")
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return content


def _validate(content: dict[str, Any], kind: type[S]) -> S:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = [f"{format_path(path)}: {reason}" for path, reason in describe_errors(error, kind)]
        raise HTTPException(400, "; ".join(faults)) from None


def _parse_limit(request: Request) -> int:
    text = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= MAX_RECORDS:
        raise HTTPException(400, f"limit: must be a number from 1 to {MAX_RECORDS}, got {text[:32]!r}")
    return int(text)


def _answer(content: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(content), status, media_type="application/json")


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = _answer({"error": error.detail}, error.status_code)
    answer.headers.update(error.headers or {})
    return answer
