"""The owner's commands: names that other nodes chose are shown, not obeyed by the terminal and not read as markup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from serving.cli.app import build_wwwserve_app

EVIL = "\x1b[2J\x1b[31mall your peers are gone\x1b]0;owned\x07\u202e"
MARKUP = "[/nothing][bold]x[/bold]\nforged row"

ANSWERS: dict[str, Any] = {
    "/peers": {
        "peers": [
            {"address": EVIL, "models": [MARKUP, EVIL], "utilization": 0, "addresses": [EVIL, MARKUP]},
        ]
    },
    "/models": {"models": [{"id": EVIL}, {"id": MARKUP}]},
    "/status": {"chain": EVIL, "models": [MARKUP, EVIL], "block": MARKUP},
    "/wallet": {"address": EVIL, "models": [MARKUP, EVIL], "available": 5},
    "/policy": {"name": EVIL},
}


async def run_nothing(*_: object) -> None:
    """Stands for running a node."""


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("command", ["peers", "models", "status", "wallet show", "policy show"])
def test_no_control_character_of_a_peer_reaches_the_terminal(
    command: str, as_json: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def ask_node(data_dir: Path | None, method: str, path: str, *_: Any) -> Any:
        return ANSWERS[path]

    for module in ("owner", "wallet"):
        monkeypatch.setattr(f"serving.cli.{module}.ask_node", ask_node)
    arguments = [*command.split(), "-d", str(tmp_path), *(["--json"] if as_json else [])]
    result = CliRunner().invoke(build_wwwserve_app(run_nothing), arguments)
    assert result.exit_code == 0, result.exception
    assert all(character.isprintable() or character == "\n" for character in result.output)
    assert "all your peers are gone" in result.output
    assert not any(line.strip().startswith("forged") for line in result.output.splitlines())
    if as_json:
        path = f"/{command.split()[0]}"
        assert json.loads(result.output) == ANSWERS[path]
