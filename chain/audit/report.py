"""What an audit found."""

from __future__ import annotations

from dataclasses import dataclass, field

from chain.audit.checks import CheckCounts
from chain.audit.draws import PayerDraws
from chain.audit.duels import DuelCounts
from chain.light.client import Checkpoint


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing wrong with a chain: where, in which field, and why."""

    height: int
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """A trust break: a block that removed validators without a quorum, and the share of stake that was left.

    How many and which share is None for a block that is not there any more, but in the headers of its epoch. The chain
    holds only for readers whose genesis file accepts it (``is_accepted``).
    """

    height: int
    block_id: bytes
    removed: int | None
    share: float | None
    is_accepted: bool


@dataclass(slots=True)
class Report:
    """What an audit found. ``fault`` is None when everything holds.

    ``smallest_certificate`` is the smallest share of stake that made a block final (0 to 1) at ``smallest_height``,
    None if there is no block; ``blocking_group`` of ``validators`` together hold a third and could halt the chain.

    If ``base_height`` is not 0, the blocks up to that height are not there. The state after them is then taken as it
    is, after checking that it hashes to the root in the block at that height. It ``is_proven`` final if the validators
    of every epoch since genesis vouch for those of the next. ``checkpoint`` is the trusted block, if one was named and
    is part of this chain. ``doubt`` says why the chain may not be the true one although nothing in it is wrong.
    """

    name: str
    chain_id: bytes
    height: int = 0
    block_id: bytes = b""
    state_root: bytes = b""
    base_height: int = 0
    base_id: bytes = b""
    is_proven: bool = True
    checkpoint: Checkpoint | None = None
    operations: int = 0
    signatures: int = 0
    epochs: int = 0
    smallest_certificate: float | None = None
    smallest_height: int = 0
    validators: int = 0
    blocking_group: int = 0
    supply: int = 0
    treasury: int = 0
    payers: dict[bytes, PayerDraws] = field(default_factory=dict)
    duels: DuelCounts = field(default_factory=DuelCounts)
    checks: CheckCounts = field(default_factory=CheckCounts)
    restarts: list[Restarted] = field(default_factory=list)
    fault: Fault | None = None
    doubt: str | None = None

    @property
    def ok(self) -> bool:
        return self.fault is None and self.doubt is None
