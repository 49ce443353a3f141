"""Schemathesis: the API keeps what its OpenAPI document promises, for whatever the document allows and does not."""

from __future__ import annotations

import pytest

from tests.clients.conftest import Endpoint
from tests.clients.installed import PYTHON, SUITES, run_client

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "positive_data_acceptance", "missing_required_header",
    "unsupported_method",
)  # fmt: skip
EXAMPLES = 25
"""Of each phase and operation."""


def test_the_api_keeps_what_its_document_promises(scripted: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEMATHESIS_HOOKS", str(SUITES / "schemathesis_hooks.py"))
    command = [PYTHON.parent / "st", "run", f"{scripted.root}/openapi.json", "--checks", ",".join(CHECKS)]
    command += ["--max-examples", str(EXAMPLES), "--seed", "7", "--no-color", "--generation-database", "none"]
    done = run_client(command, scripted)
    assert done.returncode == 0, done.stdout[-12000:] + done.stderr[-2000:]
