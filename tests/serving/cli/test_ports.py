"""Ports of a new node: the usual ones, or the next ones that are free."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from pathlib import Path

from serving.cli.app import build_wwwserve_app
from serving.cli.setup.ports import choose_ports
from serving.config.file import load_config
from serving.config.schema import AdminConfig, ApiConfig, NodeConfig
from tests.support.commands import run_cli
from tests.support.ports import reserve_ports

USUAL = NodeConfig().api.port


def make_config(listen: int, api: int, admin: int) -> NodeConfig:
    return NodeConfig(listen=(f"/ip4/0.0.0.0/tcp/{listen}",), api=ApiConfig(port=api), admin=AdminConfig(port=admin))


def test_free_ports_stay_and_taken_ones_move() -> None:
    listen, admin, api, _ = reserve_ports(4)
    assert choose_ports(make_config(listen, api, admin)) == make_config(listen, api, admin)
    with socket.create_server(("0.0.0.0", api)):
        moved = choose_ports(make_config(listen, api, admin))
    assert (moved.listen, moved.admin.port) == (make_config(listen, api, admin).listen, admin)
    assert moved.api.port > api and moved.api.port not in (listen, admin)


def test_two_parts_of_a_node_never_share_a_port() -> None:
    (port,) = reserve_ports(1)
    config = choose_ports(make_config(port, port, port))
    assert len({config.listen[0].rpartition("/")[2], str(config.api.port), str(config.admin.port)}) == 3


def test_init_says_that_the_usual_ports_are_taken(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with suppress(OSError):  # another program has it, which is as good
            stack.enter_context(socket.create_server(("127.0.0.1", USUAL)))
        result = run_cli(build_wwwserve_app(), "init", "--new-chain", "home", "-d", tmp_path / "node")
        port = load_config(tmp_path / "node" / "config.yaml").api.port
    assert port != USUAL
    assert f"127.0.0.1:{port}/v1 (other programs have the usual ports)" in result.stdout
