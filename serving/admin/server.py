"""The admin listener: HTTP on loopback, by which the owner watches the running node and gives it orders.

``/healthz``, ``/livez`` and ``/metrics`` need no token. Everything else needs ``Authorization: Bearer …`` with the
token in the data directory, or a session of the dashboard (:mod:`serving.admin.levels`), but for what comes through the
Unix socket in the data directory (:mod:`serving.admin.local_sockets`). Bodies and answers are JSON, errors
``{"error": text}``. Amounts are in micro-credits. Nothing is answered to a web page of another origin, nor under
another name than a loopback one (:mod:`serving.http.access`).
"""

from __future__ import annotations

import inspect
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from chain.crypto import parse_address
from chain.exceptions import KeyFormatError
from serving.admin.confinement import Confined
from serving.admin.connectivity import PingOrder, check_network, ping_peer
from serving.admin.health.diagnosis import Verdict
from serving.admin.health.health import report_checks, report_health
from serving.admin.ledger import PUBLIC_SHARE, QUERIES, Ledger
from serving.admin.levels import Endpoint, Level, PageRoute, Pages
from serving.admin.metrics import CONTENT_TYPE, Metrics
from serving.admin.node_view import NodeView
from serving.admin.openapi import DOCUMENT, make_admin_document
from serving.admin.orders.bodies import make_answer, read_object, read_section
from serving.admin.orders.key_orders import (
    CreateOrder,
    RevokeOrder,
    create_key,
    report_key_usage,
    report_keys,
    report_keys_backup,
    revoke_key,
)
from serving.admin.orders.policy_orders import Reload, change_policy, report_policy
from serving.admin.orders.wallet_orders import (
    WALLET_ORDERS,
    Order,
    OrderRefused,
    WalletOrder,
    carry_out,
    carry_out_registration,
)
from serving.admin.reports import (
    report_duels,
    report_models,
    report_peers,
    report_requests,
    report_status,
    report_total,
    report_wallet,
)
from serving.admin.token import is_authorized, load_or_create_token
from serving.config.fields import Section
from serving.dispatcher import MAX_LISTED_REQUESTS
from serving.http.access import AccessRules
from serving.http.asgi import Application, AsgiHandler
from serving.http.limits import HttpLimits
from serving.http.server import HttpServer, ListenError, admit_all
from serving.openai.errors import ApiError

log = structlog.get_logger(__name__)

DEFAULT_LIMIT = 50
"""Requests that ``/requests`` lists unless ``limit`` says otherwise."""
METRICS = "/metrics"
"""Path of the page for Prometheus: without token on loopback, and not for the public."""
LIMITS = HttpLimits(body_bytes=2 * 1024 * 1024)
"""Bounds of the listener; each route has a lower one for its body."""
LOCAL = "wwwserve.local"
"""Key of the scope of a request that came through the socket that only the owner can open."""

MakeReport = Callable[[NodeView], dict[str, Any] | Awaitable[dict[str, Any]]]
Partition = Callable[[Sequence[bytes]], Awaitable[None]]
"""Cuts the node off from these peers; see ``p2p.host.network.Libp2pNetwork.partition``."""
MakePages = Callable[[NodeView, str], Pages]
"""Makes the pages of a node whose owner has this token."""


def _refuse_reload() -> dict[str, Any]:
    raise OrderRefused("this node has no configuration file")


REPORTS: Mapping[str, MakeReport] = {
    "/status": report_status,
    "/ledger/total": report_total,
    "/peers": report_peers,
    "/models": report_models,
    "/wallet": report_wallet,
    "/policy": report_policy,
    "/duels": report_duels,
    "/network/check": check_network,
    "/doctor": report_checks,
    "/keys": report_keys,
    "/keys/backup": report_keys_backup,
    "/keys/usage": report_key_usage,
}
"""What is answered to ``GET`` of a path."""


class PartitionOrder(Section):
    """The peers to have no connection with."""

    peers: list[str]


class Admin:
    """The listener of one node.

    ``reload`` has the policy follow the configuration file again, and returns it. ``partition`` is a testing aid: it
    opens ``PUT /testing/partition``, which cuts the node off from named peers. ``make_pages`` makes the pages for
    browsers from the node and the owner's token.
    """

    def __init__(
        self,
        node: NodeView,
        token: str,
        listener: trio.SocketListener,
        reload: Reload = _refuse_reload,
        partition: Partition | None = None,
        make_pages: MakePages | None = None,
        local: socket.socket | None = None,
    ) -> None:
        self._node = node
        self._reload = reload
        self._local = local
        self._partition = partition
        self._token = token
        self._listener = listener
        self._metrics = Metrics(node)
        host, port, *_ = listener.socket.getsockname()
        self.address: tuple[str, int] = (host, port)
        """Host and port that are listened on."""
        self._pages = None if make_pages is None else make_pages(node, token)
        doorkeeper = Middleware(_Doorkeeper, access=AccessRules(host, serves_pages=True))
        routes = self._get_routes(Ledger(node.engine.chain))
        self.app = self._make_app(list(routes), self._get_level, [doorkeeper])

    def make_public_app(self) -> Starlette:
        """The application for the public, on a listener that others reach. Tokens and sessions have no effect there.

        That listener decides who gets in. Its requests for the ledger do not delay those of the owner.
        """
        ledger = Ledger(self._node.engine.chain, PUBLIC_SHARE)
        routes = [each for each in self._get_routes(ledger) if each.level is Level.PUBLIC and each.method == "GET"]
        return self._make_app([each for each in routes if each.path != METRICS], lambda request: Level.PUBLIC, [])

    def _make_app(
        self, routes: Sequence[PageRoute], get_level: Callable[[Request], Level], middleware: Sequence[Middleware]
    ) -> Starlette:
        return Starlette(
            middleware=[Middleware(Confined), *middleware],
            routes=[Route(each.path, self._guard(each, get_level), methods=[each.method]) for each in routes],
            exception_handlers={HTTPException: _answer_http_exception},
        )

    @classmethod
    async def open(
        cls,
        node: NodeView,
        host: str,
        port: int,
        token_path: Path,
        reload: Reload = _refuse_reload,
        partition: Partition | None = None,
        make_pages: MakePages | None = None,
        local: socket.socket | None = None,
    ) -> Admin:
        """Bind ``host`` and ``port`` (0: any free one) and read the token, or make it; :meth:`run` then serves.

        ``local`` is a socket that listens for the owner's own processes, which need no token.

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
        return cls(node, token, first, reload, partition, make_pages, local)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._pages is not None:
                nursery.start_soon(self._pages.run)
            if self._local is not None:
                local = trio.SocketListener(trio.socket.from_stdlib_socket(self._local))
                nursery.start_soon(self._make_server(_Local(self.app), local).run)
            nursery.start_soon(self._make_server(self.app, self._listener).run)
            task_status.started()

    def _make_server(self, app: Application, listener: trio.SocketListener) -> HttpServer:
        return HttpServer(AsgiHandler(app, self.address), [listener], self._node.runtime, LIMITS, admit_all)

    def _get_routes(self, ledger: Ledger) -> Iterator[PageRoute]:
        """Every route: those of the listener itself, where ``ledger`` answers for the chain, and those of the pages."""
        public, reading, acting = Level
        yield PageRoute("GET", "/healthz", public, self._get_health)
        yield PageRoute("GET", "/livez", public, self._get_life)
        yield PageRoute("GET", METRICS, public, self._get_metrics)
        yield PageRoute("GET", DOCUMENT, public, self._get_document)
        for path, report in REPORTS.items():
            yield PageRoute("GET", path, reading, partial(self._get_report, report))
        for path, query in QUERIES.items():
            yield PageRoute("GET", path, public, partial(ledger.answer, query))
        yield PageRoute("GET", "/requests", reading, self._get_requests)
        for name, kind in WALLET_ORDERS.items():
            yield PageRoute("POST", f"/wallet/{name}", acting, partial(self._carry_out, kind))
        yield PageRoute("POST", "/wallet/register", acting, self._register)
        yield PageRoute("POST", "/network/ping", acting, self._ping)
        yield PageRoute("POST", "/keys", acting, self._create_key)
        yield PageRoute("POST", "/keys/revoke", acting, self._revoke_key)
        yield PageRoute("PUT", "/policy", acting, self._change_policy)
        yield PageRoute("POST", "/policy/reload", acting, self._reload_policy)
        if self._partition is not None:
            yield PageRoute("PUT", "/testing/partition", acting, partial(self._set_partition, self._partition))
        if self._pages is not None:
            yield from self._pages.get_routes()

    def _get_level(self, request: Request) -> Level:
        """The level of a request's sender: the highest with the token, otherwise that of the session."""
        if request.scope.get(LOCAL) or is_authorized(request.headers.get("authorization", ""), self._token):
            return Level.ACTING
        return Level.PUBLIC if self._pages is None else self._pages.get_level(request)

    def _guard(self, route: PageRoute, get_level: Callable[[Request], Level]) -> Endpoint:
        """Let only those in who may use the route, and answer every failure in JSON."""

        async def guarded(request: Request) -> Response:
            level = get_level(request)
            if level < route.level:
                raise _refuse(level)
            if route.level is Level.ACTING and self._node.availability.ending is not None:
                raise HTTPException(503, "the node is ending, and takes no orders")
            request.state.level_of = partial(get_level, request)
            try:
                return await route.endpoint(request)
            except OrderRefused as error:
                raise HTTPException(409, str(error)) from None
            except (HTTPException, ClientDisconnect):
                raise
            except Exception:
                log.exception("admin request failed", path=request.url.path)
                raise HTTPException(500, "internal error; the node's log has more") from None

        return guarded

    async def _get_health(self, request: Request) -> Response:
        """503 when nothing is paid or accepted any more. A node with some of its backends down is still healthy
        enough."""
        health = report_health(self._node)
        return make_answer(health, 503 if health["status"] in (Verdict.STALLED, Verdict.ENDING) else 200)

    async def _get_life(self, request: Request) -> Response:
        return make_answer({"status": "alive"})

    async def _get_metrics(self, request: Request) -> Response:
        return Response(self._metrics.render(), media_type=CONTENT_TYPE)

    async def _get_document(self, request: Request) -> Response:
        return make_answer(make_admin_document())

    async def _get_report(self, report: MakeReport, request: Request) -> Response:
        content = report(self._node)
        return make_answer(await content if inspect.isawaitable(content) else content)

    async def _get_requests(self, request: Request) -> Response:
        return make_answer(report_requests(self._node, _parse_limit(request)))

    async def _carry_out(self, kind: WalletOrder, request: Request) -> Response:
        return _answer_order(await carry_out(self._node, kind, await read_section(request, kind.body)))

    async def _register(self, request: Request) -> Response:
        return _answer_order(await carry_out_registration(self._node, await read_section(request, Order)))

    async def _ping(self, request: Request) -> Response:
        return make_answer(await ping_peer(self._node, await read_section(request, PingOrder)))

    async def _create_key(self, request: Request) -> Response:
        return make_answer(await create_key(self._node.keys, await read_section(request, CreateOrder)))

    async def _revoke_key(self, request: Request) -> Response:
        return make_answer(await revoke_key(self._node.keys, await read_section(request, RevokeOrder)))

    async def _change_policy(self, request: Request) -> Response:
        """Change what is given, until the node stops; the rest stays."""
        return make_answer(change_policy(self._node, await read_object(request)))

    async def _reload_policy(self, request: Request) -> Response:
        """Follow the configuration file again."""
        return make_answer(self._reload())

    async def _set_partition(self, partition: Partition, request: Request) -> Response:
        """Cut the node off from the peers in the body; an empty list ends that."""
        order = await read_section(request, PartitionOrder)
        try:
            await partition([parse_address(address) for address in order.peers])
        except KeyFormatError as error:
            raise HTTPException(400, f"peers: {error}") from None
        return make_answer({"peers": order.peers})


def _refuse(level: Level) -> HTTPException:
    """Why a visitor of ``level`` may not use a route that takes more."""
    if level is Level.READING:
        return HTTPException(403, "this session only reads; unlock it first")
    reason = "this needs the token in the node's data directory: Authorization: Bearer …; a browser: wwwserve dashboard"
    return HTTPException(401, reason, {"www-authenticate": "Bearer"})


class _Local:
    """Marks requests that came through the owner's own socket."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, LOCAL: True}, receive, send)


class _Doorkeeper:
    """Refuses a request by its head, before anything else sees it."""

    def __init__(self, app: ASGIApp, access: AccessRules) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._access.admit(scope["headers"])
            except ApiError as error:
                answer = make_answer({"error": error.message}, error.status)
                answer.headers["connection"] = "close"  # what follows may be no request
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _parse_limit(request: Request) -> int:
    text = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= MAX_LISTED_REQUESTS:
        raise HTTPException(400, f"limit: must be a number from 1 to {MAX_LISTED_REQUESTS}, got {text[:32]!r}")
    return int(text)


def _answer_order(outcome: dict[str, Any]) -> Response:
    """202 for an operation that is not final yet."""
    is_pending = outcome["operation"] is not None and outcome["height"] is None
    return make_answer(outcome, 202 if is_pending else 200)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = make_answer({"error": error.detail}, error.status_code)
    answer.headers.update(error.headers or {})
    return answer
