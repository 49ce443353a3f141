"""The light client's view of a chain: the last header of every epoch, and nothing in between.

A header names the validators of its own epoch and of the next by their hashes. A client that trusts one header can
therefore check the last header of that epoch with its finality certificate (:class:`LightClientUpdate`), from it the
next epoch's, and so on: two thirds of each committee vouch for the next. Nothing is executed, and a thousand epochs
take seconds. Where a chain was restarted (:mod:`chain.transition.restart`) the committee changes within an epoch, by
the header of the restart block, which is trusted because the genesis file accepts its id.

What that rests on. Validators that have left may sign what they like once their stake is unbonded: it costs them
nothing. From a header older than the unbonding time old keys can therefore lead anywhere (a long-range fork), and no
proof inside a chain tells such a fork from the true one. Hence the *checkpoint*: a block that the node's owner trusts
for reasons outside the chain (:class:`Checkpoint`), younger than the unbonding time. **A new node that starts from
genesis without one is open to that attack**; one that was away keeps its own last final block as its checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from chain.codec import MAX_INT, Bounds, Record
from chain.exceptions import CheckpointError, InvalidBlock
from chain.genesis import Genesis
from chain.transition.block import verify_finality
from chain.transition.epochs import get_epoch, get_last_height
from chain.types.blocks import VERSION, Header
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate

MAX_EPOCH_RESTARTS = 16
"""Restarts in one epoch."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A block that is trusted by configuration."""

    height: int
    block_id: bytes

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The checkpoint of a text ``HEIGHT:BLOCKID``.

        Raises:
            ValueError: not of that form.
        """
        height, _, block_id = text.partition(":")
        if not (height.isascii() and height.isdigit() and 0 < len(height) < 19 and int(height) <= MAX_INT):
            raise ValueError(f"expected HEIGHT:BLOCKID with the number of a block, got {text!r}")
        if len(block_id) != 64 or not set(block_id) <= set("0123456789abcdefABCDEF"):
            raise ValueError(f"expected HEIGHT:BLOCKID with a block id of 64 hexadecimal digits, got {text!r}")
        if not int(height):
            raise ValueError("genesis needs no checkpoint: it is trusted anyway")
        return cls(int(height), bytes.fromhex(block_id))

    def __str__(self) -> str:
        return f"{self.height}:{self.block_id.hex()}"

    def is_contradicted_by(self, header: Header) -> bool:
        """Whether ``header`` stands at the height of the checkpoint and is another."""
        return header.height == self.height and header.id != self.block_id


@dataclass(frozen=True, slots=True)
class LightClientUpdate(Record):
    """The last header of an epoch, its own finality certificate, and the validators who signed that.

    ``restarts`` are the headers of the restart blocks in that epoch.
    """

    header: Header
    certificate: Certificate
    validators: ValidatorSet
    restarts: Annotated[tuple[Header, ...], Bounds(0, MAX_EPOCH_RESTARTS)] = ()


class LightClient:
    """Epoch ends that follow from a trusted header.

    ``trusted`` is where it begins, ``header`` the last header so far; ``checkpoint`` must not be contradicted. With
    ``is_audit`` it does not matter how old the trusted header is: one chain is read, whether it is the true one or not.
    """

    def __init__(
        self, genesis: Genesis, trusted: Header, checkpoint: Checkpoint | None = None, is_audit: bool = False
    ) -> None:
        self._genesis = genesis
        self._checkpoint = checkpoint
        self._is_audit = is_audit
        self.trusted = trusted
        self.header = trusted
        self.updates: list[LightClientUpdate] = []

    @property
    def next_epoch(self) -> int:
        """The epoch whose end comes next."""
        return get_epoch(self._genesis.parameters, self.header.height + 1)

    def add(self, end: LightClientUpdate) -> None:
        """Check the next epoch end, or first the one that the trusted header itself is.

        Raises:
            InvalidBlock: it does not follow.
            CheckpointError: it does, but from a header so old that its validators may have left since.
        """
        genesis, header = self._genesis, end.header
        is_trusted = not self.updates and header == self.trusted
        epoch = header.epoch if is_trusted else self.next_epoch
        before = self._pass_restarts(epoch, end.restarts)
        validators_hash = before.validators_hash if epoch == before.epoch else before.next_validators_hash
        expected: list[tuple[str, object]] = [
            ("version", VERSION),
            ("chain_id", genesis.chain_id),
            ("epoch", epoch),
            ("height", get_last_height(genesis.parameters, epoch)),
            ("validators_hash", validators_hash),
        ]
        for field, value in expected:
            if getattr(header, field) != value:
                raise InvalidBlock(field, f"of the end of epoch {epoch} is not what follows")
        if end.validators.hash != validators_hash:
            raise InvalidBlock("validators", f"are not those of epoch {epoch}")
        if self._checkpoint is not None and self._checkpoint.is_contradicted_by(header):
            raise InvalidBlock("id", f"contradicts the checkpoint {self._checkpoint}")
        verify_finality(genesis, end.validators, header, end.certificate)
        age = epoch - self.trusted.epoch
        if age > genesis.parameters.unbonding_epochs and not self._is_audit:
            raise CheckpointError(describe_old_checkpoint(genesis, self.trusted, age))
        self.header = header
        self.updates.append(end)

    def _pass_restarts(self, epoch: int, restarts: tuple[Header, ...]) -> Header:
        """The header that names the validators at the end of ``epoch``: the last so far, or of the last restart."""
        header = self.header
        for restart in restarts:
            if restart.id not in self._genesis.restarts or restart.epoch != epoch:
                raise InvalidBlock("restarts", f"{restart.id.hex()} is no restart that the genesis file accepts")
            if restart.height > header.height:
                header = restart
        return header


def describe_old_checkpoint(genesis: Genesis, trusted: Header, age: int) -> str:
    """Why a chain that is ``age`` epochs past a trusted header cannot be followed from it, and what helps."""
    name = "genesis" if not trusted.height else f"block {trusted.height}"
    return (
        f"the chain is at least {age} epochs past {name}, the last that this node trusts; the unbonding time is "
        f"{genesis.parameters.unbonding_epochs} epochs, so validators who have left since could have signed another "
        "history. Get a newer checkpoint, HEIGHT:BLOCKID, from someone you trust (`wwwserve status` of a node prints "
        "one) and set 'checkpoint' in config.yaml"
    )
