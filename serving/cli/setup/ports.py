"""Ports for a new node: those of the defaults, moved where another program has them on this machine."""

from __future__ import annotations

import socket

from chain.cli.contract import CommandError
from serving.config.schema import NodeConfig


def choose_ports(config: NodeConfig) -> NodeConfig:
    """``config`` with the ports of the first listener, the API and the admin listener moved where others have them."""
    taken = {config.dashboard.port}  # which listens only for an owner who wants it
    address, _, port = config.listen[0].rpartition("/")
    listen = f"{address}/{find_free_port(int(port), taken)}"
    api, admin = (find_free_port(section.port, taken) for section in (config.api, config.admin))
    return config.model_copy(
        update={
            "listen": (listen, *config.listen[1:]),
            "api": config.api.model_copy(update={"port": api}),
            "admin": config.admin.model_copy(update={"port": admin}),
        }
    )


def find_free_port(port: int, taken: set[int]) -> int:
    """The first port from ``port`` on that nothing listens on here, and that is not in ``taken``, which gets it."""
    for number in range(port, 65536):
        if number in taken:
            continue
        try:
            socket.create_server(("127.0.0.1", number)).close()
        except OSError:
            continue
        taken.add(number)
        return number
    raise CommandError(f"no port from {port} on is free")


def find_any_port() -> int:
    """A loopback port that nothing listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
