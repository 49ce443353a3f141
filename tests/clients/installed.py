"""Clients that 'make test-clients' has installed in a directory of their own, and how they are run against a node."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from tests.clients.conftest import Endpoint
from tests.support.cluster import ROOT

INSTALLED = ROOT / ".clients"
PYTHON = INSTALLED / "python" / "bin" / "python"
MODULES = INSTALLED / "node_modules"
SUITES = Path(__file__).parent / "suites"
SCRIPTS = Path(__file__).parent / "javascript"
LIMIT_S = 1800.0
"""Seconds after which a client has failed."""

needs_node = pytest.mark.skipif(not MODULES.is_dir(), reason="npm is not installed")


class Outcomes(NamedTuple):
    """Names of the tests of a suite."""

    passed: set[str]
    failed: dict[str, str]
    """With what went wrong."""
    skipped: set[str]


def run_client(command: list[str | Path], endpoint: Endpoint) -> subprocess.CompletedProcess[str]:
    """Run a client to its end; it finds the node in its environment."""
    told = {"BASE_URL": endpoint.url, "ROOT_URL": endpoint.root, "MODEL": endpoint.model, "OPENAI_API_KEY": "any"}
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=INSTALLED,
        env={**os.environ, **told},
    )


def run_script(name: str, endpoint: Endpoint) -> None:
    """Run the tests of a script in JavaScript. It must lie beside what it imports.

    Raises:
        AssertionError: one of them failed.
    """
    script = Path(shutil.copy(SCRIPTS / name, INSTALLED))
    done = run_client(["node", "--test", "--test-reporter=tap", script], endpoint)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def run_suite(name: str, endpoint: Endpoint, results: Path, *selected: str) -> Outcomes:
    """Run a suite of pytest in the environment of the clients, without the settings and fixtures of this project.

    ``selected`` are options of pytest that say which tests.
    """
    report = results / f"{name}.xml"
    options = ["-q", "-c", os.devnull, "--rootdir", SUITES, "--noconftest", "-p", "no:cacheprovider", "--tb=short"]
    for setting in ("asyncio_mode=auto", "asyncio_default_test_loop_scope=session"):  # clients outlive a test
        options += ["-o", setting]
    done = run_client([PYTHON, "-m", "pytest", *options, f"--junitxml={report}", *selected, SUITES / name], endpoint)
    assert report.exists(), done.stdout[-4000:] + done.stderr[-2000:]
    outcomes = Outcomes(set(), {}, set())
    for case in ElementTree.parse(report).iter("testcase"):
        title = f"{case.attrib['classname'].rpartition('.')[2]}::{case.attrib['name']}"
        fault = case.find("failure") if case.find("failure") is not None else case.find("error")
        if fault is not None:
            outcomes.failed[title] = (fault.text or "")[-2000:]
        elif case.find("skipped") is not None:
            outcomes.skipped.add(title)
        else:
            outcomes.passed.add(title)
    return outcomes
