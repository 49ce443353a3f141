"""The listeners of a node that its users and its owner have: the API, the owner's own, and the public page.

Each is bound when it is opened, before anything else of the node starts, so that a taken port is an error at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from p2p.network import NetworkError
from serving.admin.local_sockets import ADMIN_SOCKET_FILE, listen_locally
from serving.admin.orders.policy_orders import Reload
from serving.admin.server import Admin, Partition
from serving.api import Api
from serving.config.build import build_certificate, check_api_keys
from serving.config.data_directory import ADMIN_TOKEN_FILE, CONFIG_FILE, SESSIONS_FILE
from serving.config.schema import NodeConfig
from serving.daemon.runnable_node import RunnableNode
from serving.dashboard.pages import Dashboard
from serving.http.access import AccessRules
from serving.http.limits import HttpLimits
from serving.http.server import HttpServer, ListenError

TESTING_VARIABLE = "WWWSERVE_TESTING"
"""Environment variable that, set to anything, lets tests cut the node off from peers through its admin listener."""


@contextmanager
def name_setting(keys: str) -> Iterator[None]:
    """Add to an error of listening which keys of the configuration to change."""
    try:
        yield
    except (ListenError, NetworkError) as error:
        raise type(error)(f"{error}; choose another with {keys} in {CONFIG_FILE}") from error


async def open_front(node: RunnableNode, config: NodeConfig, data_dir: Path) -> HttpServer:
    """The listener of the API.

    Raises:
        ListenError: its address is in use or cannot be bound.
        ConfigError: it would be open to other machines without a key, or its certificate cannot be read.
    """
    api = config.api
    access = AccessRules(api.host, api.allowed_hosts, api.allowed_origins)
    check_api_keys(config, bool(node.keys.get_records()))
    front = Api(node.dispatcher, node.keys, access, node.model_reports, node.resent)
    limits = HttpLimits(connections_per_address=api.max_per_address)
    certificate = build_certificate(config, data_dir)
    with name_setting("api.host and api.port"):
        return await HttpServer.open(front.handle, api.host, api.port, node.runtime, limits, front.admit, certificate)


async def open_admin(
    node: RunnableNode, front: HttpServer, config: NodeConfig, data_dir: Path, reload: Reload, partition: Partition
) -> Admin:
    """The owner's listener, which also serves the pages for browsers.

    Raises:
        ListenError: its address is in use or cannot be bound.
    """
    with name_setting("admin.host and admin.port"):
        return await Admin.open(
            node,
            config.admin.host,
            config.admin.port,
            data_dir / ADMIN_TOKEN_FILE,
            reload,
            partition if os.environ.get(TESTING_VARIABLE) else None,
            partial(Dashboard, api_url=get_api_url(front), ended_file=data_dir / SESSIONS_FILE),
            listen_locally(data_dir / ADMIN_SOCKET_FILE),
        )


async def open_public_page(node: RunnableNode, config: NodeConfig, admin: Admin) -> HttpServer | None:
    """The listener of the public level, if the owner wants one.

    Raises:
        ListenError: its address is in use or cannot be bound.
    """
    if not config.dashboard.public:
        return None
    from serving.dashboard.public import open_public

    with name_setting("dashboard.host and dashboard.port"):
        return await open_public(admin.make_public_app(), config.dashboard, node.runtime)


def get_api_url(front: HttpServer) -> str:
    """Where users find the API."""
    return f"{front.scheme}://{front.address[0]}:{front.address[1]}/v1"
