"""Models are declared on the ledger under names that write to a terminal, or read like those of others."""

from __future__ import annotations

from chain.exceptions import CodecError
from chain.types.operations import Serve
from tests.adversarial.attacks.table import Attack, Outcome

NAMES = {
    "control sequence": "\x1b[2J\x1b[31mall your peers are gone",
    "line feed": "qwen3-8b\nok: audited",
    "delete": "qwen3-8b\x7f",
    "C1 control": "\x9b1mqwen3-8b",
    "right-to-left override": "qwen3-\u202eb8",
    "zero-width space": "qwen3\u200b-8b",
    "Cyrillic letter": "qw\u0435n3-8b",
}
"""Each beside what makes it deceptive."""


def run() -> Outcome:
    taken = []
    for reason, name in NAMES.items():
        try:
            Serve.decode(Serve(0, (name,)).encode())
        except CodecError:
            continue
        taken.append(reason)
    assert Serve.decode(Serve(0, ("Qwen/Qwen3-8B (4 bit)",)).encode()).models
    return Outcome(0, len(taken), len(taken), ", ".join(taken) or "names are printable ASCII", "names taken")


ATTACK = Attack(
    "names of models that write to terminals or pass for others",
    Outcome(0, 7, 7, "any text in UTF-8 is a name", "names taken"),
    run,
)
