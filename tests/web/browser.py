"""A visitor of the dashboard: one window of Chromium, and all that goes wrong in it."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.cluster import ClusterNode

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / ".web" / "node_modules" / "axe-core" / "axe.min.js"
"""The checker of accessibility; ``make test-web`` puts it there."""
PICTURES = ROOT / "results" / "web"
"""Where pictures of the pages go."""
PATIENCE_MS = 30_000
"""How long anything may take to appear; only a failure waits that long."""


def find_obstacle() -> str | None:
    """Why the browser cannot be used here; None if it can."""
    if shutil.which("chromium") is None:
        return "there is no chromium (Debian: apt-get install chromium)"
    if importlib.util.find_spec("playwright") is None:
        return "there is no playwright (pip install playwright)"
    return None if AXE.exists() else "there is no axe-core (make test-web installs it)"


@dataclass
class Visitor:
    """One window at a node. What it complains of is collected."""

    page: Page
    node: ClusterNode
    complaints: list[str] = field(default_factory=list)
    """Messages on the console, which is where a browser reports what the policy of the page forbids."""
    strangers: list[str] = field(default_factory=list)
    """Addresses of other origins that were asked."""

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        if not url.startswith((self.url, f"blob:{self.url}")):
            self.strangers.append(url)

    @cached_property
    def url(self) -> str:
        """Origin of the dashboard."""
        return f"http://127.0.0.1:{self.node.admin_port}"

    def open(self) -> None:
        """Look as the public."""
        self.page.goto(f"{self.url}/")
        self.page.wait_for_selector("main .card table")

    def log_in(self) -> None:
        """Look as the owner."""
        code = self.node.ask("/dashboard/code", "POST", {})["code"]
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}/#t={code}")
        self.page.wait_for_selector(".attention")

    def go(self, page: str, selector: str) -> None:
        """Go to a page, and wait until a part of it is there."""
        self.page.evaluate("page => { location.hash = page }", page)
        self.page.wait_for_selector(selector)

    def take_picture(self, name: str, *, whole: bool = True) -> None:
        """Keep a picture."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=whole)

    def get_overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))

    def find_barriers(self) -> list[str]:
        """What keeps people out (serious or worse), as axe-core finds it."""
        script = f"{AXE.read_text()};axe.run(document, {{resultTypes: ['violations']}})"
        violations: list[dict[str, Any]] = self.page.evaluate(script)["violations"]
        return [
            f"{each['impact']} {each['id']}: {each['nodes'][0]['html'][:200]}"
            for each in violations
            if each["impact"] in ("serious", "critical")
        ]


@contextmanager
def visit(
    browser: Browser, node: ClusterNode, *, scheme: str = "light", width: int = 1280, height: int = 860
) -> Iterator[Visitor]:
    """A window of its own, with its own cookies. At the end nothing must have gone wrong in it."""
    size: Any = {"width": width, "height": height}
    context = browser.new_context(viewport=size, color_scheme=scheme, accept_downloads=True)  # type: ignore[arg-type]
    try:
        visitor = Visitor(context.new_page(), node)
        yield visitor
    finally:
        context.close()
    assert visitor.strangers == []
