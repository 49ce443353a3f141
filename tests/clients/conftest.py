"""Nodes for the clients that users have: a small model and a scripted one, behind a node that serves both and one that
offloads all.

Only ``make test-clients`` installs the clients and runs these tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import pytest
import trio

from p2p.runtime import RealRuntime
from serving.backends.embedded import EmbeddedBackend
from serving.http.server import HttpServer
from tests.clients.scripted_chat import SCRIPTED, serve_scripted
from tests.serving.relay import relay_to
from tests.support.cluster import ENTRY, Cluster, offload_at_entry, run_cluster
from tests.support.fake_backend import MODEL
from tests.support.forked import ForkedServer
from tests.support.waiting import wait_until

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
"""Those of the tool that models are to call."""
FEATURES = ["tools", "logprobs", "completions", "embeddings"]


def serve_model(started: Connection) -> None:
    """Serve the embedded model under the name of the cluster's, until killed; the URL is sent to ``started``."""

    async def serve() -> None:
        runtime = RealRuntime()
        backend = EmbeddedBackend(runtime, model=MODEL, context=1024)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.run)
            await backend.wait_alive()
            server = await HttpServer.open(relay_to(backend), "127.0.0.1", 0, runtime)
            started.send(f"http://127.0.0.1:{server.address[1]}")
            await server.run()

    trio.run(serve)


@dataclass(frozen=True)
class Endpoint:
    """Where a client asks, and where the backend answers itself."""

    root: str
    """Without ``/v1``."""
    direct: str
    is_offloaded: bool
    model: str = MODEL

    @property
    def url(self) -> str:
        """What OpenAI's clients call ``base_url``."""
        return f"{self.root}/v1"


@pytest.fixture(scope="session")
def model_url() -> Iterator[str]:
    """The model itself."""
    server = ForkedServer(serve_model)
    yield server.told
    server.kill()


@pytest.fixture(scope="session")
def scripted_url() -> Iterator[str]:
    """The model that does as it is told."""
    server = ForkedServer(serve_scripted)
    yield server.told
    server.kill()


@pytest.fixture(scope="session")
def nodes(model_url: str, scripted_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes with both models, of which the first offloads all that it is asked."""

    def configure(number: int) -> dict[str, Any]:
        fixed = {"kind": "openai", "load": "none", "features": FEATURES, "capacity": 4}
        models = [{**fixed, "base_url": url} for url in (model_url, scripted_url)]
        return {"models": models, **offload_at_entry(number)}

    with run_cluster(tmp_path_factory.mktemp("clients"), 2, models=(MODEL, SCRIPTED), config=configure) as cluster:
        entry = cluster.nodes[ENTRY]
        announced = lambda: {model for peer in entry.ask("/peers")["peers"] for model in peer["models"]}  # noqa: E731
        wait_until(lambda: announced() >= {MODEL, SCRIPTED}, "the models are not announced")
        yield cluster


@pytest.fixture(params=[False, True], ids=["local", "offloaded"])
def endpoint(request: pytest.FixtureRequest, nodes: Cluster, model_url: str) -> Endpoint:
    """A node that serves what it is asked, and one that offloads it."""
    return Endpoint(_get_root(nodes, request.param), model_url, request.param)


@pytest.fixture(params=[False, True], ids=["local", "offloaded"])
def scripted(request: pytest.FixtureRequest, nodes: Cluster, scripted_url: str) -> Endpoint:
    """The same, for the scripted model."""
    return Endpoint(_get_root(nodes, request.param), scripted_url, request.param, SCRIPTED)


def _get_root(nodes: Cluster, is_offloaded: bool) -> str:
    return f"http://127.0.0.1:{nodes.nodes[ENTRY if is_offloaded else ENTRY + 1].api_port}"
