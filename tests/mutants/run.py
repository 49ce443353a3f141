"""``make mutants``: apply each patch beside this file to a copy of the tree, and see the test that it names fail.

A patch begins with two lines, ``Rule:`` (what it breaks) and ``Test:`` (arguments for pytest, the smallest that kill
it). Every test must pass on the unchanged copy. The exit status is 1 if a mutant survives, or does not apply any more,
or breaks more than its rule: the test cannot even be collected, or fails for a name that does not exist.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).resolve().parent
PARTS = ("chain", "consensus", "p2p", "serving", "benchmarks", "tests", "docs", "node.py", "pyproject.toml")
"""What the tests of the rules need of the tree; the specification of the ledger reads docs/protocol.md."""

PASSED, FAILED = 0, 1
"""What pytest returns; anything else is no verdict."""

_MISSING = re.compile(r".*\b(?:NameError|ImportError|ModuleNotFoundError|AttributeError)\b(?!.*'NoneType').*")
"""A failure that says nothing of a rule: the patch uses a name that the code no longer has."""

TIMEOUT = 300

PRINTED = 2000
"""Characters of what pytest printed that are shown where there is no verdict."""


@dataclass(frozen=True)
class Mutant:
    """A patch, what it breaks, and who should notice."""

    name: str
    path: Path
    rule: str
    tests: tuple[str, ...]

    def get_files(self) -> list[str]:
        """The files that it changes."""
        lines = self.path.read_text().splitlines()
        return [line.removeprefix("+++ b/").split("\t")[0] for line in lines if line.startswith("+++ b/")]


def load() -> list[Mutant]:
    """All mutants, by name.

    Raises:
        ValueError: a patch does not say what it breaks, or which test is to notice.
    """
    mutants = []
    for path in sorted(PATCHES.glob("*.patch")):
        head, _, _ = path.read_text().partition("--- a/")
        fields = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
        if not {"Rule", "Test"} <= fields.keys():
            raise ValueError(f"{path.name} does not begin with Rule: and Test:")
        mutants.append(Mutant(path.stem, path, fields["Rule"], tuple(fields["Test"].split())))
    return mutants


def copy_tree(target: Path) -> None:
    """Copy what the tests need."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / part).exists():
            shutil.copy2(ROOT / part, target / part)


def apply(mutant: Mutant, tree: Path) -> str:
    """Apply a patch, with little regard for what stands around the lines it changes; returns why it does not."""
    command = ["git", "apply", "-C1", str(mutant.path)]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    result = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    return result.stderr.strip()


def restore(mutant: Mutant, tree: Path) -> None:
    for name in mutant.get_files():
        shutil.copyfile(ROOT / name, tree / name)


def run_tests(tests: tuple[str, ...], tree: Path) -> tuple[int, str]:
    """The verdict of pytest in a tree, and what it printed."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**ours, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    options = ["-x", "--no-header", "--tb=line", "--durations=0", f"--timeout={TIMEOUT}", "--hypothesis-profile=find"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, (result.stdout + result.stderr).strip()


def judge(mutant: Mutant, tree: Path) -> str:
    """The test that killed it, or what is wrong."""
    reason = apply(mutant, tree)
    if reason:
        return f"does not apply: {reason}"
    try:
        status, output = run_tests(mutant.tests, tree)
    finally:
        restore(mutant, tree)
    if status == FAILED:
        missing = _MISSING.search(output)
        if missing is not None:
            return f"fails for a name that does not exist: {missing[0]}"
        failed = re.search(r"^FAILED (\S+)", output, re.MULTILINE)
        return failed[1] if failed is not None else f"no test failed by name:\n{output[-PRINTED:]}"
    return "SURVIVED" if status == PASSED else f"no verdict from pytest ({status}):\n{output[-PRINTED:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="mutants to run; all by default")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="mutants at a time")
    options = parser.parse_args()
    mutants = [mutant for mutant in load() if not options.names or mutant.name in options.names]
    console = Console() if sys.stdout.isatty() else Console(width=240)
    table = Table("mutant", "rule it breaks", "killed by", "s", title="Mutants")
    survivors = 0
    with tempfile.TemporaryDirectory() as directory, Progress(console=console, transient=True) as progress:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(options.jobs):
            tree = Path(directory, str(number))
            tree.mkdir()
            copy_tree(tree)
            trees.put(tree)
        task = progress.add_task("unchanged", total=len(mutants) + 1)
        tests = tuple(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
        status, output = run_tests(("-n", str(options.jobs), *tests), tree)
        if status != PASSED:
            console.print(f"The tests do not pass on the unchanged tree:\n{output[-PRINTED:]}", markup=False)
            sys.exit(1)

        def run(mutant: Mutant) -> tuple[str, float]:
            tree, start = trees.get(), time.monotonic()
            try:
                return judge(mutant, tree), time.monotonic() - start
            finally:
                trees.put(tree)
                progress.update(task, advance=1, description=mutant.name)

        with ThreadPoolExecutor(options.jobs) as pool:
            for mutant, (verdict, seconds) in zip(mutants, pool.map(run, mutants), strict=True):
                survivors += not verdict.startswith("tests/")
                table.add_row(mutant.name, mutant.rule, verdict, f"{seconds:.1f}")
    console.print(table)
    console.print(f"{len(mutants) - survivors} of {len(mutants)} mutants were killed.")
    sys.exit(bool(survivors) or not mutants)


if __name__ == "__main__":
    main()
