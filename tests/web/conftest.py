"""The dashboard in a browser against four real nodes. It takes Chromium, so that only ``make test-web`` runs it."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from serving.cli.demo.node_process import HTTP
from tests.support.cluster import SHORT_EPOCHS, Cluster, chat, run_cluster
from tests.support.fake_backend import FakeOptions
from tests.web.browser import find_obstacle

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TRAFFIC_SEED = 5


def pytest_sessionstart(session: pytest.Session) -> None:
    obstacle = find_obstacle()
    if obstacle is not None:
        pytest.exit(f"the tests in a browser are skipped: {obstacle}", returncode=0)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        options = ["--no-sandbox", "--js-flags=--expose-gc", "--enable-precise-memory-info"]
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four validators whose users ask now and then; the first offloads most."""
    backend = FakeOptions(first_token_delay=0.05, token_delay=0.02, word="word ")
    directory = tmp_path_factory.mktemp("web")
    with run_cluster(directory, users=1, parameters=SHORT_EPOCHS, config=_configure, backend=backend) as cluster:
        stop = threading.Event()
        user = threading.Thread(target=_use, args=(cluster, stop))
        user.start()
        try:
            yield cluster
        finally:
            stop.set()
            user.join()


def _configure(number: int) -> dict[str, object]:
    if number == 0:
        return {"policy": {"target_utilization": 0.0, "offload_frequency": 0.7}}
    return {"policy": {"accept_frequency": 1.0, "queue_frequency": 1.0, "max_queue": 256}}


def _use(cluster: Cluster, stop: threading.Event) -> None:
    """Ask one question after the other until told to stop."""
    chance = random.Random(TRAFFIC_SEED)
    while not stop.wait(chance.uniform(0.1, 0.6)):
        node = cluster.nodes[chance.choice((0, 0, 0, 1, 2))]
        body = chat(f"question {chance.getrandbits(32)}", stream=True, tokens=chance.randrange(8, 40))
        try:
            HTTP.post(node.completions_url, json=body)
        except httpx.HTTPError:
            stop.wait(1)  # the node is being restarted
