"""Every page, light and dark, wide and on a phone: it shows data, fits, keeps nobody out, and breaks no rule."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.support.cluster import Cluster
from tests.support.waiting import wait_until
from tests.web.browser import Visitor, visit

LOOKS = (("light", 400), ("dark", 1280), ("light", 1280))
PAGES = {
    "node": ".card tbody .pill",
    "network": ".ring .edge",
    "chain": ".card tbody tr:nth-child(3)",
    "chat": "#prompt",
    "money": ".chart canvas",
    "policy": ".form input",
    "quality": ".card table",
    "logs": "main:has(.checks li):has(.log li)",
}
"""Pages, and a part of each that is there once it shows data."""


def check(visitor: Visitor, name: str, *, whole: bool = True) -> None:
    visitor.page.wait_for_timeout(1200)  # for a second event, so that charts have a line
    visitor.take_picture(name, whole=whole)
    assert visitor.get_overflow() <= 0, name
    assert visitor.find_barriers() == [], name
    assert visitor.complaints == [], name


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_pages_of_the_owner(cluster: Cluster, browser: Browser, scheme: str, width: int) -> None:
    node = cluster.nodes[0]
    wait_until(lambda: any(row["settled_height"] for row in node.ask("/requests")["requests"]), "nothing was paid")
    with visit(browser, node, scheme=scheme, width=width) as visitor:
        visitor.log_in()
        for page, part in PAGES.items():
            visitor.go(page, part)
            if page == "chat":
                visitor.page.fill("#prompt", "Name **three** primary colours.")
                visitor.page.keyboard.press("Enter")
                visitor.page.wait_for_selector("text=word word word word word")
                visitor.page.click("text=Stop")
                visitor.page.wait_for_selector("text=copy as curl")
            check(visitor, f"{page}-{scheme}-{width}", whole=page != "chat")


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_pages_of_the_public(cluster: Cluster, browser: Browser, scheme: str, width: int) -> None:
    with visit(browser, cluster.nodes[0], scheme=scheme, width=width) as visitor:
        visitor.open()
        check(visitor, f"public-{scheme}-{width}")


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_pages_of_the_chain(cluster: Cluster, browser: Browser, scheme: str, width: int) -> None:
    node = cluster.nodes[0]
    row = next(row for row in node.ask("/requests?limit=100")["requests"] if row["settled_height"])
    block = node.ask(f"/chain/blocks/{row['settled_height']}")
    operation = next(each for each in block["operations"] if each["kind"] == "capture")
    with visit(browser, node, scheme=scheme, width=width) as visitor:
        visitor.open()
        for kind, name in (("block", block["id"]), ("operation", operation["id"]), ("account", row["executor"])):
            visitor.go(
                f"chain/{kind}/{name}", "details summary" if kind != "account" else ".card tbody tr:nth-child(3)"
            )
            check(visitor, f"{kind}-{scheme}-{width}")
