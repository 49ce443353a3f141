"""What the README tells a user to do works as it stands there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forked import ForkedCommand
from tests.support.waiting import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
DEMO_PATIENCE = 3 * PATIENCE
"""Seconds until four nodes have loaded their models and see one another, on a busy machine."""


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[str]:
    """What ``make demo`` prints once it is up."""
    output = tmp_path / "output"
    output.touch()
    arguments = ("wwwserve", "demo", "--directory", str(tmp_path / "demo"))
    process = ForkedCommand(arguments, output, output, {"PYTHONPATH": str(ROOT)})
    try:

        def is_up() -> bool:
            assert process.poll() is None, output.read_text()
            return "Running until Ctrl-C." in output.read_text()

        wait_until(is_up, "the demo is not up", DEMO_PATIENCE)
        yield output.read_text()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


@pytest.mark.timeout(600)
def test_the_python_example_gets_an_answer_from_the_demo(demo: str) -> None:
    found = re.search(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    url = re.search(r"node 0 +(http://127\.0\.0\.1:\d+/v1)", demo)
    assert found is not None and url is not None
    example = found[1].replace("http://127.0.0.1:8000/v1", url[1])
    assert example != found[1]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [sys.executable, "-c", example], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()  # how much a small model says is chance
