"""LangChain's standard tests. What the small model cannot do is named here, and a scripted one does it."""

from __future__ import annotations

from pathlib import Path

from tests.clients.conftest import Endpoint
from tests.clients.installed import run_suite

SUITE = "langchain_suite.py"
BEYOND_THE_SMALL_MODEL = {
    "TestChat::test_agent_loop[model0]",  # it does not call a tool of itself
    "TestChat::test_agent_loop[model1]",
    "TestChat::test_json_mode",  # it writes JSON, but not with the fields that the prompt asks for
    "TestChat::test_structured_output_optional_param",  # a text of no bounded length does not end
    "TestChat::test_structured_output_pydantic_2_v1",
}
"""What takes a model that can follow an instruction, or that ends what it writes."""
LEAST = 35
"""Tests that must be there: a suite that collects none would fail nothing."""


def test_a_model_that_does_as_it_is_told_passes_all_of_them(scripted: Endpoint, tmp_path: Path) -> None:
    outcomes = run_suite(SUITE, scripted, tmp_path)
    assert not outcomes.failed, outcomes.failed
    assert len(outcomes.passed) >= LEAST, outcomes


def test_a_small_model_passes_all_but_what_is_beyond_it(endpoint: Endpoint, tmp_path: Path) -> None:
    outcomes = run_suite(SUITE, endpoint, tmp_path, "-k", "not TestResponses")
    assert set(outcomes.failed) <= BEYOND_THE_SMALL_MODEL, outcomes.failed
    assert len(outcomes.passed) + len(outcomes.failed) >= LEAST, outcomes
