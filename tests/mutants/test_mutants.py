"""The mutants are still what they were meant to be; whether the tests kill them is for ``make mutants`` to show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.run import ROOT, Mutant, apply, copy_tree, load


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
