"""Make the test vectors: ``python -m tests.vectors.generate``, or with ``--check`` compare them with the code.

Everything is a function of the code: the same code makes the same bytes on every machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.vectors import answers, basics, checks, draws, duels, encodings, ledger, wire
from tests.vectors.plain import Json

DIRECTORY = Path(__file__).parent
WIDTH = 160

FILES: dict[str, Callable[[], Json]] = {
    "identity": basics.make_identity,
    "hashes": basics.make_hashes,
    "signatures": basics.make_signatures,
    "merkle": basics.make_merkle,
    "beacon": basics.make_beacon,
    "registration": basics.make_registration,
    "encodings": encodings.make_encodings,
    "refused": encodings.make_refused,
    "genesis": ledger.make_genesis_file,
    "chain": ledger.make_chain,
    "forgeries": ledger.make_forgeries,
    "restart": ledger.make_restart,
    "duels": duels.make_duels,
    "checks": checks.make_checks,
    "proofs": ledger.make_proofs,
    "certificates": ledger.make_certificates,
    "leaders": draws.make_leaders,
    "lottery": draws.make_lottery,
    "serving_tables": draws.make_serving_tables,
    "committees": draws.make_committees,
    "hold_windows": draws.make_hold_windows,
    "wire": wire.make_wire,
    "answers": answers.make_answers,
}
"""What makes each file."""


def render(name: str) -> str:
    """The content of a file, made anew."""
    return _lay_out(FILES[name](), 0) + "\n"


def _lay_out(value: Any, depth: int) -> str:
    """JSON with what fits on a line on one."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + depth <= WIDTH or not isinstance(value, dict | list):
        return flat
    if isinstance(value, dict):
        names = (json.dumps(name, ensure_ascii=False) + ": " for name in value)
        items = [name + _lay_out(item, depth + 1) for name, item in zip(names, value.values(), strict=True)]
    else:
        items = [_lay_out(item, depth + 1) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    indent = "\n" + " " * (depth + 1)
    return opening + indent + ("," + indent).join(items) + "\n" + " " * depth + closing


def find_differences() -> list[str]:
    """Names of the files that are missing or not what the code makes, and of those that nothing makes."""
    stale = [path.stem for path in sorted(DIRECTORY.glob("*.json")) if path.stem not in FILES]
    return [name for name in FILES if _read(name) != render(name)] + stale


def _read(name: str) -> str | None:
    path = DIRECTORY / f"{name}.json"
    return path.read_text(encoding="utf-8") if path.exists() else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
    if parser.parse_args().check:
        differences = find_differences()
        for name in differences:
            print(f"tests/vectors/{name}.json is not what the code makes")
        return 1 if differences else 0
    for name in FILES:
        (DIRECTORY / f"{name}.json").write_text(render(name), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
