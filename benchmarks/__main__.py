"""Run every benchmark, or those that are named, each in a process of its own, with the options that follow.

``python -m benchmarks [NAME…] [--quick] [--seed N] [--results DIR]``. The name of a package stands for all in it, as
``evaluation`` does. A benchmark that fails does not keep the others from running; the exit code is 1 if any
failed.
"""

from __future__ import annotations

import subprocess
import sys
import time

PACKAGES = {
    "endpoint": ("gateway", "first_answer", "first_token", "failover", "floods"),
    "blockchain": ("ledger", "verify", "commands", "beacon"),
    "network": ("simulation", "overlay", "newcomer"),
    "evaluation": (
        "gpu_model",
        "slo",
        "dynamics",
        "policies",
        "mixed",
        "conversations",
        "scale",
        "ablation",
        "processes",
    ),
    "quality": ("substitution", "judges", "equilibrium", "incentives", "duel_overhead", "ordering"),
}
"""The benchmarks of each package, in the order in which they run and are shown."""
BENCHMARKS = tuple(name for names in PACKAGES.values() for name in names)


def get_module(name: str) -> str:
    """The module of a benchmark."""
    package = next(package for package, names in PACKAGES.items() if name in names)
    return f"benchmarks.{package}.{name}"


def main() -> int:
    """Command line."""
    arguments = sys.argv[1:]
    split = next((place for place, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    words, options = arguments[:split] or BENCHMARKS, arguments[split:]
    names = [name for word in words for name in PACKAGES.get(word, (word,))]
    if unknown := [name for name in names if name not in BENCHMARKS]:
        sys.exit(f"no benchmark {unknown[0]}: there are {', '.join((*PACKAGES, *BENCHMARKS))}")
    lines, is_good = [], True
    for name in names:
        started = time.monotonic()
        code = subprocess.run([sys.executable, "-m", get_module(name), *options], check=False).returncode
        lines.append(f"{name:12} {time.monotonic() - started:6.0f} s  {'ok' if code == 0 else f'FAILED ({code})'}")
        is_good &= code == 0
        print(flush=True)
    print("\n".join(lines))
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
