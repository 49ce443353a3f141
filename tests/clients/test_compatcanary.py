"""The public scanner ``compatcanary`` (npm): does the API behave as OpenAI's?"""

from __future__ import annotations

import json

from tests.clients.conftest import Endpoint
from tests.clients.installed import MODULES, needs_node, run_client

LEAST_SCORE = 95


@needs_node
def test_its_modern_profile_finds_nothing_wrong(endpoint: Endpoint) -> None:
    command = [MODULES / ".bin" / "compatcanary", "scan", "--format", "json", "--timeout", "120"]
    done = run_client([*command, "--base-url", endpoint.url, "--model", endpoint.model], endpoint)
    assert done.stdout.startswith("{"), done.stderr
    report = json.loads(done.stdout)
    failures = {each["id"]: each["summary"] for each in report["results"] if each["status"] != "pass"}
    assert report["score"] >= LEAST_SCORE and report["compatible"], failures
