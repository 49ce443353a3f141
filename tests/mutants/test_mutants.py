"""The mutants are still what they were meant to be, and some of each kind die; ``make mutants`` runs them all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.run import ROOT, Mutant, apply, copy_tree, judge, load, restore

IN_GATE = (
    "capture-above-the-price",
    "chain-set-aside-when-opened",
    "duplicate-signers-counted",
    "finalize-after-nullify",
    "halt-credit-kept",
    "hand-over-gate-removed",
    "heads-counted",
    "journal-after-sending",
    "journal-cut-unnoticed",
    "notarize-twice",
    "nullifications-not-checked",
    "own-queue-second",
    "release-pays-the-payee",
    "replayed-evidence",
    "stake-of-the-wrong-epoch",
    "votes-of-one-domain",
)
"""About one of each kind of rule, by which most money would be lost; each takes a second or two."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    copy_tree(tree)
    return tree


def test_there_are_enough() -> None:
    assert len(load()) >= 12


@pytest.mark.parametrize("mutant", load(), ids=lambda mutant: mutant.name)
def test_each_applies_and_names_a_test_that_exists(mutant: Mutant, tree: Path) -> None:
    assert apply(mutant, tree) == ""
    for name in mutant.get_files():
        assert (tree / name).read_bytes() != (ROOT / name).read_bytes()
        compile((tree / name).read_text(), name, "exec")
        (tree / name).write_bytes((ROOT / name).read_bytes())
    for test in mutant.tests:
        path, _, function = test.partition("::")
        assert f"def {function.partition('[')[0]}(" in (ROOT / path).read_text(), test


def test_none_uses_a_name_that_does_not_exist(tree: Path, tmp_path: Path) -> None:
    """Its test would fail whether or not the rule were broken."""
    for mutant in load():
        apply(mutant, tree)
        for name in mutant.get_files():
            target = tmp_path / mutant.name / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((tree / name).read_bytes())
        restore(mutant, tree)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F821", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "name",
    [IN_GATE[0], *(pytest.param(name, marks=pytest.mark.long) for name in IN_GATE[1:])],
)
def test_it_is_killed(name: str, tree: Path) -> None:
    [mutant] = [mutant for mutant in load() if mutant.name == name]
    assert judge(mutant, tree).startswith("tests/")


def test_a_mutant_that_calls_what_does_not_exist_is_not_killed(tree: Path, tmp_path: Path) -> None:
    patch = tmp_path / "stale.patch"
    name, test = "consensus/simplex/core.py", "tests/consensus/simplex/test_core.py::test_no_finalize_after_nullify"
    lines = (ROOT / name).read_text().splitlines()
    number = next(number for number, line in enumerate(lines, 1) if line.startswith("    def on_timeout("))
    patch.write_text(
        f"Rule: none.\nTest: {test}\n--- a/{name}\n+++ b/{name}\n@@ -{number},3 +{number},4 @@\n"
        f" {lines[number - 1]}\n {lines[number]}\n+        self.no_such_method()\n {lines[number + 1]}\n"
    )
    assert "no_such_method" in judge(Mutant("stale", patch, "none", (test,)), tree)


def test_a_mutant_that_breaks_nothing_survives(tree: Path, tmp_path: Path) -> None:
    patch = tmp_path / "harmless.patch"
    test = "tests/consensus/simplex/test_core.py::test_no_finalize_after_nullify"
    first, second, *_ = (ROOT / "consensus/simplex/core.py").read_text().splitlines()
    patch.write_text(
        f"Rule: none.\nTest: {test}\n--- a/consensus/simplex/core.py\n+++ b/consensus/simplex/core.py\n"
        f"@@ -1,2 +1,3 @@\n+# nothing\n {first}\n {second}\n"
    )
    assert judge(Mutant("harmless", patch, "none", (test,)), tree) == "SURVIVED"
