"""``make test-busy``: the tests of processes, adversaries and simulations, round after round, on a busy machine.

Endless loops run beside them, each in a process of its own. A test that counts on a quiet machine fails here.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

FOLDERS = ("tests/processes", "tests/adversarial", "tests/simulation")


def _loop() -> None:
    while True:
        pass


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """``count`` processes that take all the time of the processor that they are given."""
    loops = [multiprocessing.get_context("spawn").Process(target=_loop, daemon=True) for _ in range(count)]
    try:
        for loop in loops:
            loop.start()
        yield
    finally:
        for loop in loops:
            loop.kill()


def main() -> int:
    """Command line; the exit code is 1 if a round failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tests", nargs="*", default=FOLDERS, help="folders or files; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loops", type=int, default=2)
    options = parser.parse_args()
    results = []
    with busy_loops(options.loops):
        for number in range(1, options.rounds + 1):
            began = time.monotonic()
            command = [sys.executable, "-m", "pytest", "-n", "auto", "--dist", "loadfile", *options.tests]
            code = subprocess.run(command, check=False).returncode
            verdict = "passed" if code == 0 else f"FAILED ({code})"
            results.append(f"round {number}: {verdict} in {time.monotonic() - began:.0f} s")
            print(results[-1], flush=True)
    print("\n".join(["", *results]))
    return int(any("FAILED" in result for result in results))


if __name__ == "__main__":
    sys.exit(main())
