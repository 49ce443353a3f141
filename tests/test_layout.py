"""The order of the tests: what is shared is in ``tests.support``, which stands below tests and benchmarks alike."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from tests.support.forked import PRELOADED

ROOT = Path(__file__).resolve().parents[1]


def find_imports(folder: Path) -> Iterator[tuple[str, str]]:
    """Each module below ``folder`` with each module that it imports."""
    for path in folder.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                yield name, node.module
            elif isinstance(node, ast.Import):
                yield from ((name, alias.name) for alias in node.names)


def test_no_test_module_is_a_library() -> None:
    imports = [*find_imports(ROOT / "tests"), *find_imports(ROOT / "benchmarks")]
    assert [pair for pair in imports if pair[1].rpartition(".")[2].startswith("test_")] == []


def test_what_is_shared_needs_no_test_and_no_benchmark() -> None:
    above = [pair for pair in find_imports(ROOT / "tests" / "support") if pair[1].startswith(("tests.", "benchmarks"))]
    assert [pair for pair in above if not pair[1].startswith("tests.support")] == []


def test_benchmarks_need_of_the_tests_only_what_is_shared() -> None:
    imports = find_imports(ROOT / "benchmarks")
    assert [pair for pair in imports if pair[1].startswith("tests") and not pair[1].startswith("tests.support")] == []


def test_all_processes_are_forked_from_one_that_has_imported_what_they_need() -> None:
    """A second list of modules would replace the first, and a name that is wrong is passed over without a word."""
    setters = {path.name for path in (ROOT / "tests").rglob("*.py") if "set_forkserver_preload(" in path.read_text()}
    assert setters == {"forked.py", Path(__file__).name}
    assert [name for name in PRELOADED if importlib.util.find_spec(name) is None] == []
