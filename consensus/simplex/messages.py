"""What the agreement core says: messages to other validators, and effects for the engine that runs it.

A *message* travels: a proposal, a vote or a certificate, as one byte that names its kind and the record's canonical
bytes. An *effect* is an order to the engine, which carries out the effects of all calls one by one, in the order in
which they were returned. Above all, an effect that follows a :class:`PersistVote` must wait until that is durable.
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.codec import Record
from chain.exceptions import CodecError
from chain.types.blocks import Block, Proposal
from chain.types.votes import Certificate, Vote


@dataclass(frozen=True, slots=True)
class Propose(Record):
    """A leader's proposal of a new block; the block's body proves that its place is free."""

    proposal: Proposal
    block: Block

    @property
    def epoch(self) -> int:
        """The epoch of the instance that the message is for."""
        return self.proposal.epoch


@dataclass(frozen=True, slots=True)
class Repropose(Record):
    """A leader's proposal of the epoch's last block once more, until it is final.

    ``certificate`` is the latest notarization of that block, ``nullifications`` end the views since then, or the last
    ``MAX_NULLIFICATIONS`` of them.
    """

    proposal: Proposal
    certificate: Certificate
    nullifications: tuple[Certificate, ...]

    @property
    def epoch(self) -> int:
        """The epoch of the instance that the message is for."""
        return self.proposal.epoch


Message = Propose | Repropose | Vote | Certificate

FORWARDED_KIND = b"\x00"
"""First byte on a link of a batch of operations that is forwarded to the leader (:mod:`consensus.receiver`)."""
COMPACT_KIND = b"\x10"
"""First byte on a link of a proposal that has its operations by id (:mod:`consensus.network.compact_blocks`)."""

_KINDS: dict[int, type[Propose] | type[Repropose] | type[Vote] | type[Certificate]] = {
    1: Propose,
    2: Repropose,
    3: Vote,
    4: Certificate,
}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}


def encode_message(message: Message) -> bytes:
    """The bytes of a message on the wire."""
    return bytes([_NUMBERS[type(message)]]) + message.encode()


def decode_message(raw: bytes) -> Message:
    """The message that ``raw`` carries.

    Raises:
        CodecError: an unknown kind, or not the canonical bytes of that kind.
    """
    kind = _KINDS.get(raw[0]) if raw else None
    if kind is None:
        raise CodecError("unknown kind of message")
    return kind.decode(raw[1:])


@dataclass(frozen=True, slots=True)
class PersistVote:
    """Make ``support`` and then ``vote`` durable before anything that follows.

    After a crash of all validators, a vote is worthless without its support: the block that a notarize names, the
    notarization that a finalize rests on; a nullify needs none. The support is kept until a block of its view or a
    later one is final, and is passed to the constructor of the next instance.
    """

    vote: Vote
    support: Block | Certificate | None


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send ``message`` to every other validator of the epoch."""

    message: Message


@dataclass(frozen=True, slots=True)
class Send:
    """Send ``message`` to one validator, named by its public key."""

    peer: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Call ``on_timeout(view)`` in ``seconds``. There is one timer: setting it replaces it."""

    view: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StopTimer:
    """Nothing is worth waiting for: do not call ``on_timeout``."""


@dataclass(frozen=True, slots=True)
class Build:
    """This validator leads ``view``: build a block with exactly this parent and this support in its body.

    The engine waits until there is something to put into a block (or the idle beat is due, or ``is_settled`` is false:
    only a further block may make the last one final) and answers with ``on_built(view, block)``. A later Build replaces
    it, and it lapses with its view.
    """

    view: int
    parent_id: bytes
    parent_certificate: Certificate | None
    nullifications: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class ExecuteBlock:
    """Execute ``block`` on its parent, which was checked or is final, and answer with ``on_executed``.

    The answer may be delayed: until the parent has come, or while the block is ahead of the engine's clock.
    """

    block: Block


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get a block that is certified but not held, from one of ``peers``, and answer with ``on_block``.

    It is repeated at every timeout until the block is there. An observer has no timeouts, so its engine must retry by
    itself.
    """

    block_id: bytes
    peers: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """The block named by ``certificate``, a finalization, and all its ancestors are final.

    ``blocks`` are the blocks of its branch that are at hand, oldest first, the final block last. If the first is not a
    child of the block that was final before, the blocks in between are missing and the engine syncs them.
    """

    certificate: Certificate
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class UpdateFinality:
    """More stake has signed the finalization of a committed block: ``certificate`` may replace the known one.

    It comes at most twice for a view: when all have signed it, and with the votes known when a later block becomes
    final.
    """

    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two votes of one validator that no honest one signs together: evidence for slashing."""

    first: Vote
    second: Vote


@dataclass(frozen=True, slots=True)
class Reject:
    """A message or block was refused: its sender is faulty (certainly if ``is_forged``), or behind."""

    reason: str
    is_forged: bool = False


Effect = (
    PersistVote
    | Broadcast
    | Send
    | SetTimer
    | StopTimer
    | Build
    | ExecuteBlock
    | Fetch
    | Commit
    | UpdateFinality
    | Conflict
    | Reject
)
