"""What goes wrong is said on the page, and the page goes on by itself when it is over."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.support.cluster import Cluster, run_cluster
from tests.support.fake_backend import FakeOptions
from tests.web.browser import Visitor, visit

STALL_MS = 90_000
"""A ledger counts as stalled 30 s after three idle beats of ten seconds."""


@pytest.fixture
def visitor(cluster: Cluster, browser: Browser) -> Iterator[Visitor]:
    with visit(browser, cluster.nodes[0]) as visitor:
        yield visitor


def test_a_code_works_once_and_leaves_the_address(visitor: Visitor) -> None:
    code = visitor.node.ask("/dashboard/code", "POST", {})["code"]
    page = visitor.page
    page.goto(f"{visitor.url}/#t={code}")
    page.wait_for_selector(".attention")
    assert code not in page.url
    page.context.clear_cookies()
    page.goto("about:blank")
    page.goto(f"{visitor.url}/#t={code}")
    page.wait_for_selector(".notice >> text=wwwserve dashboard")
    page.wait_for_selector("header >> text=public view")
    assert code not in page.url


def test_a_second_tab_has_the_same_session_until_one_logs_out(visitor: Visitor) -> None:
    visitor.log_in()
    second = visitor.page.context.new_page()
    second.goto(f"{visitor.url}/")
    second.wait_for_selector(".attention")
    visitor.page.click("text=read only · unlock")
    visitor.page.wait_for_selector("header >> text=unlocked")
    second.click("text=log out")
    second.wait_for_selector("header >> text=public view")
    visitor.page.wait_for_selector("header >> text=public view")
    assert visitor.page.query_selector("header >> text=Money") is None, "nothing of the owner stays on the page"


def test_the_keyboard_is_enough_to_find_and_prove_an_operation(visitor: Visitor) -> None:
    visitor.log_in()
    rows = visitor.node.ask("/requests?limit=100")["requests"]
    height = next(row["settled_height"] for row in rows if row["settled_height"])
    page = visitor.page
    page.keyboard.press("/")
    page.wait_for_selector("#search:focus")
    page.keyboard.type(str(height))
    page.keyboard.press("Enter")
    page.wait_for_selector(f"h2 >> text=Block {height:,}")
    _tab_to(page, "a[href^='#chain/operation/']")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Prove it")
    _tab_to(page, "button:text('Prove it')")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    proof = Path(download.value.path()).read_text()
    assert proof and download.value.suggested_filename.startswith("operation-")
    page.wait_for_selector("text=chain check-proof")


def _tab_to(page: Page, selector: str) -> None:
    for _ in range(120):
        page.keyboard.press("Tab")
        if page.query_selector(f"{selector}:focus") is not None:
            return
    raise AssertionError(f"Tab does not come to {selector}")


def test_a_node_that_stops_and_returns(visitor: Visitor, cluster: Cluster) -> None:
    visitor.log_in()
    page, node = visitor.page, visitor.node
    node.stop(signal.SIGTERM)
    page.wait_for_selector("header >> text=node does not answer")
    node.start()
    cluster.wait_ready([node])
    page.wait_for_selector("header >> text=live")
    page.wait_for_selector(".attention")
    assert page.query_selector("header >> text=public view") is None, "the session outlives the node's restart"
    visitor.complaints.clear()  # the browser reports each request that failed meanwhile


def test_a_stalled_ledger(visitor: Visitor, cluster: Cluster) -> None:
    visitor.log_in()
    gone = cluster.nodes[2:]
    for node in gone:
        node.stop()
    visitor.page.wait_for_selector("header >> text=stalled at", timeout=STALL_MS)
    visitor.page.wait_for_selector(".attention .problem >> text=more than a third of the stake")
    visitor.take_picture("stalled")
    for node in gone:
        node.start()
    visitor.page.wait_for_selector("header >> text=height", timeout=STALL_MS)


def test_a_backend_that_dies_in_the_middle_of_an_answer(browser: Browser, tmp_path: Path) -> None:
    broken = run_cluster(tmp_path, 1, backend=FakeOptions(break_after=3))
    with broken as cluster, visit(browser, cluster.nodes[0]) as visitor:
        visitor.log_in()
        visitor.go("chat", "#model:has(option)")
        visitor.page.fill("#prompt", "Hello!")
        visitor.page.keyboard.press("Enter")
        visitor.page.wait_for_selector(".message.assistant .failure")
        visitor.page.wait_for_selector("text=Send")
        visitor.take_picture("chat-broken", whole=False)
