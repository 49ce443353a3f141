"""``wwwserve run --vllm MODEL`` with a real vLLM: killed under load, started again, and ended with the node."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from chain.parameters.parameters import CREDIT
from serving.cli.demo.node_process import HTTP
from tests.support.cluster import ENVIRONMENT, Cluster, ClusterNode, chat, request, run_cluster
from tests.support.fake_backend import MODEL
from tests.support.servers.vllm_server import (
    OPTIONS,
    SETTINGS,
    START_TIMEOUT_S,
    get_weights,
    has_content,
    is_installed,
    write_command,
)
from tests.support.waiting import wait_until

STREAMS = 3
"""Requests under way when the server is killed."""
LONG, SHORT = 1500, 200
"""Tokens of an answer that is cut, and of one that is finished while the node ends."""
DRAIN_S = 600.0

pytestmark = pytest.mark.skipif(not is_installed(), reason="it takes a vLLM of its own")


def find_descendants(pid: int) -> list[tuple[int, str]]:
    """Ids and command lines of the processes that one has started, and that those have."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        for child in parents.get(left.pop(), []):
            left.append(child)
            found.append((child, _read_command(child)))
    return found


def _read_command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def find_server(node: ClusterNode) -> int:
    """The process id of the node's vLLM."""
    assert node.process is not None
    servers = [
        pid
        for pid, command in find_descendants(node.process.pid)
        if "vllm.entrypoints" in command and "process_guard" not in command
    ]
    assert servers, node.log[-3000:]
    return min(servers)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One validator, whose backend is a fake."""
    with run_cluster(tmp_path_factory.mktemp("own"), 1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def node(cluster: Cluster) -> Iterator[ClusterNode]:
    """A node that runs vLLM itself, serves with it while it is there, and can pay others."""
    (cluster.directory / "bin").mkdir()
    write_command(cluster.directory / "bin")
    config = {"models": [], "policy": {"offload_frequency": 0.0}, "drain_timeout_s": DRAIN_S}
    node = cluster.add_guest("owner", config)
    node.options = ("--vllm", str(get_weights()), "--", "--served-model-name", MODEL, *OPTIONS)
    path = f"{cluster.directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
    node.environment = {**ENVIRONMENT, **SETTINGS, "PATH": path}
    node.start()
    wait_until(lambda: is_serving(node), "vLLM does not answer", START_TIMEOUT_S)
    cluster.nodes[0].transfer(node, 100 * CREDIT)
    yield node
    if node.is_running:
        node.kill()


def is_serving(node: ClusterNode) -> bool:
    """Whether its own vLLM answers."""
    assert node.is_running, node.log[-3000:]
    try:
        return any(model["id"] == MODEL and model["local"] for model in node.ask("/models")["models"])
    except (OSError, httpx.HTTPError):
        return False


def read_events(node: ClusterNode, tokens: int, begun: Any = lambda: None) -> list[dict[str, Any] | None]:
    """The events of a stream, None for its end; ``begun`` is called at the first content."""
    body = {**chat("Tell me a story.", tokens=tokens), "ignore_eos": True}
    events: list[dict[str, Any] | None] = []
    with HTTP.stream("POST", node.completions_url, json=body, timeout=DRAIN_S) as response:
        assert response.status_code == httpx.codes.OK, response.read()
        for line in response.iter_lines():
            if line.startswith("data: "):
                text = line.removeprefix("data: ")
                events.append(None if text == "[DONE]" else json.loads(text))
                if has_content(line):
                    begun()
    return events


def test_a_vllm_that_is_killed_under_load_is_started_again_and_no_answer_looks_whole(
    cluster: Cluster, node: ClusterNode
) -> None:
    assert request(node, "Name a colour.", True)[1] == "local"
    begun: set[int] = set()
    with ThreadPoolExecutor(STREAMS) as pool:
        answers = [pool.submit(read_events, node, LONG, lambda n=n: begun.add(n)) for n in range(STREAMS)]
        wait_until(lambda: len(begun) == STREAMS, "the answers do not begin", START_TIMEOUT_S)
        killed = find_server(node)
        os.kill(killed, signal.SIGKILL)
        for answer in answers:
            events = answer.result(DRAIN_S)
            assert None not in events, "a cut answer ends as a whole one does"
            assert events and events[-1] is not None and "error" in events[-1]
    wait_until(lambda: not is_serving(node), "a server that is gone counts as alive", START_TIMEOUT_S)
    assert request(node, "Name a colour.", True)[1] == cluster.nodes[0].address, "requests go elsewhere meanwhile"
    wait_until(lambda: is_serving(node), "it is not started again", START_TIMEOUT_S)
    assert find_server(node) != killed and request(node, "Name a colour.", True)[1] == "local"


def test_a_node_that_ends_finishes_what_vllm_writes_and_leaves_no_process(cluster: Cluster, node: ClusterNode) -> None:
    assert node.process is not None
    started = [pid for pid, _ in find_descendants(node.process.pid)]
    begun: set[int] = set()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(read_events, node, SHORT, lambda: begun.add(0))
        wait_until(lambda: bool(begun), "the answer does not begin", START_TIMEOUT_S)
        assert not answer.done()
        node.send(signal.SIGTERM)
        events = answer.result(DRAIN_S)
    assert events[-1] is None, "the answer is not whole"
    assert node.wait(DRAIN_S) == 0, node.log[-3000:]
    alive = [pid for pid in started if Path(f"/proc/{pid}").exists() and _read_command(pid)]
    assert not alive, [_read_command(pid) for pid in alive]
