"""The whole market in simulation: replayable to the last event, and every credit accounted for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def start(results: Path, hash_seed: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.network.simulation", "--seeds", "0", "--results", str(results), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    found = re.search(r"trace ([0-9a-f]{16})", output)
    assert found is not None, output
    return found[1]


SHORT = ("--minutes", "0.2", "--nodes", "3")


@pytest.mark.parametrize("arguments", [SHORT, pytest.param((), marks=pytest.mark.long)], ids=["short", "whole"])
def test_a_seed_gives_one_trace_whatever_the_hash_seed(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The whole is what ``make sim SEED=7`` runs: eight nodes, ten simulated minutes."""
    runs = [start(tmp_path, hash_seed, "--seed", "7", *arguments) for hash_seed in "12"]
    first, second = (finish(run) for run in runs)
    assert first == second


@pytest.mark.long
def test_another_seed_gives_another_trace(tmp_path: Path) -> None:
    runs = [start(tmp_path, "1", "--seed", seed, *SHORT) for seed in "78"]
    first, other = (finish(run) for run in runs)
    assert first != other
