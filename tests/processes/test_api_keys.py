"""API keys, TLS and the end of a whole node: made beside it, kept over a crash, and answers finished before it ends."""

from __future__ import annotations

import json
import signal
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from serving.cli.demo.node_process import HTTP
from tests.serving.certificate import write_certificate
from tests.support.cluster import Cluster, chat, run_cluster
from tests.support.commands import run_here
from tests.support.fake_backend import FakeOptions
from tests.support.waiting import PATIENCE, wait_until

BACKEND_WORKS = 'wwwserve_backend_running{backend="0"} 1.0'
"""The metric of a node whose backend works on one request."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One node, which speaks TLS and finishes what it has begun; its answers wait until they are released."""
    certificate, key = write_certificate(tmp_path)
    config = {"api": {"tls_certificate": str(certificate), "tls_key": str(key)}, "drain_timeout_s": PATIENCE}
    backend = FakeOptions(gated=True)
    with run_cluster(tmp_path / "cluster", 1, backend=backend, config=lambda number: config) as cluster:
        yield cluster


def make_key(node_directory: Path, name: str) -> str:
    made = json.loads(run_here("keys", "create", name, "-d", node_directory, "--budget", "5", "--json").output)
    return str(made["key"])


def test_keys_outlive_a_crash_and_answers_the_signal_to_stop(cluster: Cluster, tmp_path: Path) -> None:
    (node,) = cluster.nodes
    trust = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
    base_url = node.api_url.replace("http:", "https:")

    def ask(key: str) -> httpx.Response:
        with httpx.Client(verify=trust, trust_env=False, timeout=PATIENCE) as client:
            headers = {"authorization": f"Bearer {key}"}
            return client.post(f"{base_url}/chat/completions", json=chat("hello", stream=False), headers=headers)

    first = make_key(node.directory, "first")  # beside the running node
    assert ask("sk-wrong").status_code == 401
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, first)
        # Not merely with the node: it sends a request to the backend once what it may cost is on the disk.
        metrics = f"http://127.0.0.1:{node.admin_port}/metrics"
        wait_until(lambda: BACKEND_WORKS in HTTP.get(metrics).text, "the backend has no request")
        node.kill()
        with pytest.raises(httpx.HTTPError):
            answer.result()
        second = make_key(node.directory, "second")  # while it is stopped
        node.start()
        cluster.wait_ready()
        keys = {entry["name"]: entry for entry in node.ask("/keys")["keys"]}
        assert 0 < keys["first"]["left"] < keys["second"]["left"] == 5_000_000, "what was under way counts as spent"
        answers = [pool.submit(ask, key) for key in (first, second)]
        wait_until(lambda: all(entry["running"] for entry in node.ask("/keys")["keys"]), "they are not under way")
        node.send(signal.SIGTERM)
        wait_until(lambda: ask(first).status_code == 503, "it still takes requests")
        assert not any(answer.done() for answer in answers)
        cluster.release_answers()
        for answer in answers:
            assert answer.result().json()["choices"][0]["message"]["content"]
    assert node.wait() == 0
    usage = json.loads(run_here("keys", "usage", "-d", node.directory, "--json").output)["usage"]
    assert {entry["key"]: entry["requests"] for entry in usage} == {"first": 1, "second": 1}
