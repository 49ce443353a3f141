"""What is looked at once of the machine: ports are told apart without a connection, and a look finds what is wrong."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
import trio

from chain.store.kv import WriteTimer
from serving.admin.health import self_checks
from serving.admin.health.health import report_checks
from serving.admin.health.machine import Machine
from serving.admin.health.self_checks import Finding, check_disk, check_ports
from serving.config.schema import NodeConfig
from tests.support.ports import reserve_ports
from tests.support.solo_node import run_node

CODES = ("", "port", "port_closed")


@pytest.fixture
def config() -> NodeConfig:
    ports = reserve_ports(4)
    return NodeConfig.model_validate(
        {
            "listen": [f"/ip4/127.0.0.1/tcp/{ports[0]}"],
            "api": {"port": ports[1]},
            "admin": {"port": ports[2]},
            "dashboard": {"public": True, "host": "127.0.0.1", "port": ports[3]},
        }
    )


@pytest.fixture
def listening(config: NodeConfig) -> Iterator[None]:
    """Users, owner and peers are listened to, and the public is not."""
    peer = int(config.listen[0].rpartition("/")[2])
    with ExitStack() as stack:
        for port in (config.api.port, config.admin.port, peer):
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


def look(config: NodeConfig, *, runs: bool, listens: bool = True) -> dict[str, str]:
    """Code and text by the key of the configuration that is named."""
    found = list(check_ports(config, Path("home"), runs=runs, listens=listens))
    return {each.trouble.text.partition(":")[0]: each.trouble.code for each in found if each.trouble is not None} | {
        each.text: "" for each in found if each.trouble is None
    }


def test_ports_of_a_node_that_runs_are_listened_on(config: NodeConfig, listening: None) -> None:
    ports = [config.api.port, config.admin.port, int(config.listen[0].rpartition("/")[2])]
    text = "api.port {}, admin.port {}, listen {}: listened on".format(*ports)
    assert look(config, runs=True) == {"dashboard.port": "port_closed", text: ""}
    assert "listen " not in " ".join(look(config, runs=True, listens=False))


def test_ports_of_a_node_that_does_not_run_are_free(config: NodeConfig, listening: None) -> None:
    assert look(config, runs=False) == {
        "api.port": "port", "admin.port": "port", "listen": "port", f"dashboard.port {config.dashboard.port}: free": ""
    }  # fmt: skip


@pytest.mark.parametrize(("fault", "code"), [(errno.EADDRNOTAVAIL, "port"), (errno.EACCES, "")])
def test_an_address_that_has_left_is_a_fault_and_one_that_may_not_be_tried_is_none(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch, fault: int, code: str
) -> None:
    monkeypatch.setattr(self_checks, "_try_to_bind", lambda host, port: OSError(fault, "so it is"))
    assert set(look(config, runs=True).values()) == {code}


def test_a_port_that_the_system_chooses_is_not_looked_at(config: NodeConfig) -> None:
    chosen = config.model_copy(
        update={
            "listen": ("/ip4/127.0.0.1/tcp/0",),
            "dashboard": config.dashboard.model_copy(update={"public": False}),
            **{name: getattr(config, name).model_copy(update={"port": 0}) for name in ("api", "admin")},
        }
    )
    assert look(chosen, runs=True) == {}


def test_the_disk_is_timed_by_the_clock_that_is_given(tmp_path: Path) -> None:
    def tell(took: float) -> Finding:
        (found,) = check_disk(tmp_path, count(0.0, took).__next__)
        return found

    slow, quick = tell(0.2).trouble, tell(0.01)
    assert slow is not None and slow.code == "disk_slow" and "fsync 200 ms" in slow.text
    assert quick.trouble is None and quick.text.endswith("fsync 10 ms")


def test_a_running_node_looks_when_it_is_asked(tmp_path: Path) -> None:
    async def main() -> None:
        async with run_node() as node:
            assert await report_checks(node) == {"findings": []}
            node.machine = Machine(tmp_path, WriteTimer(trio.current_time).times, node.runtime)
            found = {each["subject"]: each["code"] for each in (await report_checks(node))["findings"]}
            assert found["config"] == "config" and found["disk"] == "", "there is no configuration here"
            (tmp_path / "config.yaml").write_text("models: []\napi: {port: 0}\nadmin: {port: 0}\n")
            found = {each["subject"]: each["code"] for each in (await report_checks(node))["findings"]}
            assert found["config"] == ""

    trio.run(main)
