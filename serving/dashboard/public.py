"""The public's level of the dashboard on a listener of its own: the explorer of a network, for anybody.

It knows neither token nor session, and takes nothing but ``GET``. The server in front bounds connections, as it does
for users of the API; the rate of requests is bounded here, because reading the ledger takes the time of the node.
"""

from __future__ import annotations

import trio

from p2p.addresses import get_quota_prefix, parse_host
from p2p.limits.rate_limit import Limiter, Rate
from p2p.runtime import Runtime
from serving.config.schema import DashboardConfig
from serving.http.access import AccessRules
from serving.http.asgi import Application, AsgiHandler
from serving.http.limits import EXEMPT, HttpLimits
from serving.http.messages import RequestHead
from serving.http.responder import Responder
from serving.http.server import HttpServer
from serving.openai.errors import method_not_allowed, too_many_requests

RATE = Rate(items=10, size=1e9, burst=10)
"""Requests a second from one address; a page takes some twenty at once when it is opened. Requests through a reverse
proxy on this machine cannot be told apart by address: the proxy must limit them."""
TOTAL_RATE = Rate(items=50, size=1e9, burst=4)
"""Requests a second of all together."""
CONNECTIONS = 256
"""Connections at a time."""
CONNECTIONS_PER_ADDRESS = 16
"""The same from one address: a browser opens six for each page."""


class PublicDoor:
    """Admits requests of the public by their heads."""

    def __init__(self, access: AccessRules) -> None:
        self._access = access
        self._limiter = Limiter(RATE, TOTAL_RATE)
        self._proxied = Limiter(TOTAL_RATE)

    def admit(self, head: RequestHead, respond: Responder) -> None:
        """Admit a request.

        Raises:
            ApiError: 403, 405 or 429.
        """
        self._access.admit(head.headers)
        if head.method not in ("GET", "HEAD"):
            raise method_not_allowed(head.method, "GET")
        try:
            client = get_quota_prefix(parse_host(head.client))
        except ValueError:  # the connection has gone already
            client = b""
        limiter = self._proxied if head.client in EXEMPT else self._limiter
        if not limiter.admit(client, 0, trio.current_time()):
            raise too_many_requests("Too many requests; wait a second.", 1.0)


async def open_public(app: Application, config: DashboardConfig, runtime: Runtime) -> HttpServer:
    """Bind the listener; its :meth:`~serving.http.server.HttpServer.run` then serves ``app``.

    Raises:
        ListenError: the address is in use or cannot be bound.
    """
    door = PublicDoor(AccessRules(config.host, config.allowed_hosts))
    limits = HttpLimits(connections=CONNECTIONS, connections_per_address=CONNECTIONS_PER_ADDRESS)
    return await HttpServer.open(AsgiHandler(app), config.host, config.port, runtime, limits, door.admit)
