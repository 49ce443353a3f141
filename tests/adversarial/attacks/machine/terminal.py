"""A peer puts control sequences into a reason and into model names, to write to the owner's terminal.

The owner's log and commands run in a process of their own, whose output is what the terminal would get.
"""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import structlog

from p2p.streams.frames import ExchangeState, Frame, Kind
from serving.cli.running import owner
from serving.logs.console import configure_logs
from tests.adversarial.attacks.table import Attack, Outcome

REASON = "\x1b[2J\x1b[31mDISK-FAILURE\x1b[0m\x1b]0;owned\x07"
NAME = "\x1b[2J\x1b[31mall your peers are gone\x1b]0;owned\x07"
MARKUP = "[/nothing]"
OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of what a terminal may obey instead of showing it."""


def run_attack() -> Outcome:
    command = [sys.executable, "-m", __name__]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[4])
    text = shown.stdout + shown.stderr
    assert text.count("DISK-FAILURE") == 3 and text.count("all your peers are gone") == 2 and MARKUP in text
    obeyed = sum(unicodedata.category(character) in OBEYED and character != "\n" for character in text)
    return Outcome(0, obeyed, obeyed, "names and reasons are escaped, and are no markup", "control characters")


ATTACK = Attack(
    "control sequences in names and reasons",
    Outcome(0, 9, 9, "the screen is cleared; wwwserve peers ends with a traceback", "control characters"),
    run_attack,
)


def show() -> None:
    """What the owner looks at: both forms of the log, and the commands that list peers and models."""
    exchange = ExchangeState(1)
    exchange.accept(Frame(Kind.RESET, 1, REASON.encode()))
    for form in ("text", "json"):
        configure_logs("info", form)  # type: ignore[arg-type]
        structlog.get_logger("serving.offload.originator").info("executor did not deliver", reason=exchange.failure)
    peer = {"address": "12D3KooW", "models": [MARKUP, NAME], "utilization": 0, "bonded": 0, "addresses": []}
    peer |= {"connected": False, "relayed": False, "connected_s": None, "round_trip_ms": None}
    model = {"id": NAME, "local": False, "executors": 1, "stake": 0, "win_rate": None, "duels": 0, "identities": []}
    model |= {"price": {"completion": "0.000001"}}
    backend = {"place": 1, "models": [], "running": 0, "capacity": 1, "is_alive": False, "fault": REASON}
    answers = {"/peers": {"peers": [peer]}, "/models": {"models": [model], "backends": [backend]}}

    def ask_node(data_dir: Path | None, method: str, path: str) -> Any:
        return json.loads(json.dumps(answers[path]))

    owner.ask_node = ask_node  # type: ignore[assignment]
    for command in (owner.models, owner.peers):
        command()


if __name__ == "__main__":
    show()
