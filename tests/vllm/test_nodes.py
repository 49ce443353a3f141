"""A real vLLM behind one node, and a second node that has its requests answered there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from serving.backends.load_metrics import MetricsPage, parse_vllm
from serving.cli.demo.node_process import HTTP
from tests.support.cluster import ENTRY, Cluster, ClusterNode, chat, offload_at_entry, request, run_cluster
from tests.support.fake_backend import MODEL
from tests.support.servers.vllm_server import SLOW_S, has_content
from tests.support.waiting import wait_until

LONG = 1500
"""Tokens of an answer that is left long before its end."""
CAPACITY = 2
WITH_VLLM = ENTRY + 1
"""Number of the node that vLLM stands behind; the other one's own backend is a fake, which answers at once."""


@pytest.fixture(scope="module")
def cluster(vllm_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Both offload what they cannot serve at once, and the first everything."""
    name = HTTP.get(f"{vllm_url}/v1/models").json()["data"][0]["id"]
    vllm = {"kind": "openai", "base_url": vllm_url, "names": [MODEL], "aliases": {MODEL: name}, "capacity": CAPACITY}
    patience = {"first_token_timeout_s": SLOW_S, "stall_timeout_s": SLOW_S}

    def configure(number: int) -> dict[str, Any]:
        if number == ENTRY:
            return offload_at_entry(number)
        policy = {"target_utilization": 1.0, "offload_frequency": 1.0, "accept_frequency": 1.0, "queue_frequency": 1.0}
        return {"models": [{**vllm, **patience}], "policy": policy}

    with run_cluster(tmp_path_factory.mktemp("nodes"), 2, config=configure) as cluster:
        yield cluster


def read_page(url: str) -> MetricsPage:
    page = parse_vllm(HTTP.get(f"{url}/metrics").text)
    assert page is not None
    return page


def is_idle(url: str) -> bool:
    page = read_page(url)
    return (page.running, page.waiting) == (0, 0)


def count_generated(url: str) -> float:
    """Tokens that it has generated since its start."""
    lines = HTTP.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:generation_tokens_total"))


@contextmanager
def streaming(url: str, **fields: Any) -> Iterator[httpx.Response]:
    """A stream of which the first content has come; it is left at the end of the context."""
    body = {**chat("Tell me a story.", tokens=LONG), "ignore_eos": True, **fields}
    with HTTP.stream("POST", url, json=body, timeout=SLOW_S) as response:
        assert response.status_code == httpx.codes.OK, response.read()
        lines = response.iter_lines()
        while not has_content(next(lines)):
            pass
        yield response
        lines.close()  # not before: it closes the connection


@pytest.fixture(params=[False, True], ids=["local", "offloaded"])
def node(request: pytest.FixtureRequest, cluster: Cluster, vllm_url: str) -> ClusterNode:
    """A node whose requests reach vLLM, which is idle."""
    wait_until(lambda: is_idle(vllm_url), "vLLM is not idle", SLOW_S)
    return cluster.nodes[ENTRY if request.param else WITH_VLLM]


def test_an_answer_comes_whole_or_as_a_stream_and_names_who_served_it(cluster: Cluster, node: ClusterNode) -> None:
    there = cluster.nodes[WITH_VLLM]
    for stream in (True, False):
        _, executor, text = request(node, "What is the capital of France?", stream)
        assert executor == ("local" if node is there else there.address) and text


def test_what_the_user_leaves_is_left_by_vllm(node: ClusterNode, vllm_url: str) -> None:
    before = count_generated(vllm_url)
    with streaming(node.completions_url):
        assert read_page(vllm_url).running == 1
    wait_until(lambda: is_idle(vllm_url), "vLLM goes on with what nobody reads", SLOW_S)
    assert 0 < count_generated(vllm_url) - before < LONG


def test_load_that_only_vllm_shows_sends_requests_elsewhere_until_it_is_gone(cluster: Cluster, vllm_url: str) -> None:
    node, other = cluster.nodes[WITH_VLLM], cluster.nodes[ENTRY]

    def is_served_by(executors: Sequence[str]) -> bool:
        return request(node, "Name a colour.", True)[1] in executors

    wait_until(lambda: is_served_by(["local"]), "an idle vLLM is not used", SLOW_S)
    name = HTTP.get(f"{vllm_url}/v1/models").json()["data"][0]["id"]
    with ExitStack() as others:
        for _ in range(CAPACITY):  # past the node
            others.enter_context(streaming(f"{vllm_url}/v1/chat/completions", model=name))
        wait_until(lambda: is_served_by([other.address]), "requests go to a vLLM that is full", SLOW_S)
    wait_until(lambda: is_served_by(["local"]), "requests do not come back", SLOW_S)
