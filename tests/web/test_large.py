"""A network of a hundred nodes, and an account with 100,000 operations: the page stays small.

How smooth it is depends on the machine, so that is printed and no test.
"""

from __future__ import annotations

from playwright.sync_api import Browser

from tests.web.browser import PICTURES
from tests.web.large_network import LargeNetwork, serve_large_network

MAX_HEAP_BYTES = 60_000_000
MAX_ELEMENTS = 3_000
FRAMES = """async () => {
  const box = document.querySelector(".virtual");
  const times = [];
  let last = performance.now();
  for (let turn = 0; turn < 120; turn++) {
    box.scrollTop = (turn % 2 ? 0.2 : 0.9) * box.scrollHeight * Math.random();
    await new Promise((done) => requestAnimationFrame(done));
    const now = performance.now();
    times.push(now - last);
    last = now;
  }
  times.sort((a, b) => a - b);
  return { median: times[60], p99: times[118] };
}"""


def test_a_hundred_nodes_and_very_many_operations(browser: Browser) -> None:
    network = LargeNetwork()
    with serve_large_network(network) as port:
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/#network")
        page.wait_for_selector(".ring .edge")
        assert len(page.query_selector_all(".ring .stake")) == network.nodes
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / "network-100.png")
        page.evaluate("address => { location.hash = `chain/account/${address}` }", network.addresses[0])
        page.click("text=Earlier operations")
        page.wait_for_selector(".virtual-row")
        page.evaluate(
            """async (all) => {
              const box = document.querySelector(".virtual");
              while (box.scrollHeight < 36 * all) {
                box.scrollTop = box.scrollHeight;
                await new Promise((done) => setTimeout(done, 5));
              }
            }""",
            network.operations,
        )
        print("frames in ms:", page.evaluate(FRAMES))
        heap = page.evaluate("gc && gc(), performance.memory.usedJSHeapSize")
        elements = page.evaluate("document.querySelectorAll('*').length")
        print(f"heap {heap / 1e6:.0f} MB, {elements} elements")
        assert elements < MAX_ELEMENTS
        assert heap < MAX_HEAP_BYTES
        assert complaints == []
        page.close()
