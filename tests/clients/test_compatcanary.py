"""The public scanner ``compatcanary`` (npm): does the API behave as OpenAI's?"""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.clients.conftest import Endpoint
from tests.support.fake_backend import MODEL

PACKAGE = "compatcanary@0.2.2"
LEAST_SCORE = 95


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_its_modern_profile_finds_nothing_wrong(endpoint: Endpoint) -> None:
    command = ["npm", "exec", "--yes", "--", PACKAGE, "scan", "--format", "json", "--timeout", "120"]
    command += ["--base-url", endpoint.url, "--model", MODEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.stdout.startswith("{"), done.stderr
    report = json.loads(done.stdout)
    failures = {each["id"]: each["summary"] for each in report["results"] if each["status"] != "pass"}
    assert report["score"] >= LEAST_SCORE and report["compatible"], failures
