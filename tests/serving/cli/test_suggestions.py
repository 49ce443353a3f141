"""What a shell completes from the running node: names of models, peers and parameters; nothing without a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer._completion_classes import BashComplete
from typer.main import get_command

from chain.cli.contract import CommandError
from serving.cli.app import build_wwwserve_app
from serving.cli.running import suggestions
from serving.cli.running.suggestions import PATIENCE_S

ANSWERS: dict[str, dict[str, Any]] = {
    "/models": {"models": [{"id": "smollm2-135m"}, {"id": "Qwen3-8B"}]},
    "/peers": {"peers": [{"address": "12D3KooWb"}, {"address": "12D3KooWa"}]},
    "/policy": {"name": "adaptive", "max_queue": 64, "max_tokens": 4096, "stake": None},
}


@pytest.mark.parametrize(
    ("command", "before", "incomplete", "expected"),
    [
        (["ask"], ["-m"], "smol", ["smollm2-135m"]),
        (["chat"], ["--model"], "", ["Qwen3-8B", "smollm2-135m"]),
        (["ping"], [], "12D3", ["12D3KooWa", "12D3KooWb"]),
        (["policy", "set"], [], "max_", ["max_queue=", "max_tokens="]),
    ],
)
def test_names_come_from_the_node_in_the_directory_that_was_named(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: list[str],
    before: list[str],
    incomplete: str,
    expected: list[str],
) -> None:
    asked = []

    def answer(directory: Path | None, method: str, path: str, timeout: float) -> dict[str, Any]:
        asked.append((directory, timeout))
        return ANSWERS[path]

    monkeypatch.setattr(suggestions, "ask_node", answer)
    assert complete([*command, "-d", str(tmp_path), *before], incomplete) == expected
    assert asked == [(tmp_path, PATIENCE_S)]


def complete(words: list[str], incomplete: str) -> list[str]:
    """What is suggested after some words, as a shell asks for it."""
    completion = BashComplete(get_command(build_wwwserve_app()), {}, "wwwserve", "_WWWSERVE_COMPLETE")
    return [each.value for each in completion.get_completions(words, incomplete)]


def test_without_a_node_nothing_is_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise CommandError("no node runs")

    monkeypatch.setattr(suggestions, "ask_node", fail)
    assert complete(["ping"], "12D3") == []
