"""What the documents tell a reader to do works as it stands there: every command, file and program of every page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.player import read_alone

BEGINNING = ("The first answer",)


@pytest.mark.timeout(600)
def test_the_first_answer_comes_as_the_readme_says(tmp_path: Path) -> None:
    """With the model that comes with the node: init, run, ask, look, audit, and the program in Python."""
    with read_alone(tmp_path) as player:
        player.play("README.md", {}, BEGINNING)
