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

from collections.abc import Collection
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
        if header.height != get_last_height(genesis.parameters, epoch):
            raise InvalidBlock("height", f"{header.height} is not that of the end of epoch {epoch}")
        if self._checkpoint is not None and self._checkpoint.is_contradicted_by(header):
            raise InvalidBlock("id", f"contradicts the checkpoint {self._checkpoint}")
        verify_next_header(genesis, before, header, end.validators, end.certificate)
        if is_too_old(genesis, self.trusted, epoch) and not self._is_audit:
            raise CheckpointError(describe_old_checkpoint(genesis, self.trusted, epoch))
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


def check_header_form(genesis: Genesis, header: Header) -> None:
    """Check the fields of a header that need no other header: its chain, its version and its epoch.

    Raises:
        InvalidBlock: one is wrong.
    """
    height, chain_id = header.height, header.chain_id
    if chain_id != genesis.chain_id:
        names = f"{chain_id.hex()[:8]}, not {genesis.chain_id.hex()[:8]}"
        raise InvalidBlock("chain_id", f"block {height} is of another chain ({names})")
    if header.version != VERSION:
        raise InvalidBlock("version", f"block {height} is of version {header.version}, expected {VERSION}")
    if header.epoch != get_epoch(genesis.parameters, height):
        raise InvalidBlock("epoch", f"block {height} is not in epoch {header.epoch}")


def verify_next_header(
    genesis: Genesis,
    before: Header,
    header: Header,
    validators: ValidatorSet,
    certificate: Certificate,
    restarts: Collection[bytes] = (),
) -> None:
    """Check that ``header`` is final by the validators that the trusted header ``before`` names.

    ``header`` is of the epoch of ``before`` or of the next one, and ``validators`` are those of its epoch.
    ``restarts`` are the ids of restart blocks that the caller accepts: no block names their validators.

    Raises:
        InvalidBlock: the header is malformed or leaves out an epoch, or its validators are not those that were named.
        InvalidCertificate: ``certificate`` does not make it final.
    """
    check_header_form(genesis, header)
    if not before.epoch <= header.epoch <= before.epoch + 1:
        gap = f"the step from epoch {before.epoch} to {header.epoch} leaves out the epochs between them"
        raise InvalidBlock("epoch", gap)
    named = before.validators_hash if header.epoch == before.epoch else before.next_validators_hash
    if header.validators_hash != named and header.id not in restarts:
        reason = f"the validators of block {header.height} are not those that block {before.height} announces"
        raise InvalidBlock("validators_hash", reason)
    if header.validators_hash != validators.hash:
        reason = f"the validators given for epoch {header.epoch} are not those of block {header.height}"
        raise InvalidBlock("validators", reason)
    verify_finality(genesis, validators, header, certificate)


def is_too_old(genesis: Genesis, trusted: Header, epoch: int) -> bool:
    """Whether ``trusted`` is too old to lead to ``epoch``: its validators may have left with their stake by then."""
    return epoch - trusted.epoch > genesis.parameters.unbonding_epochs


def describe_old_checkpoint(genesis: Genesis, trusted: Header, epoch: int) -> str:
    """Why a chain that has reached ``epoch`` cannot be followed from a trusted header, and what helps."""
    age = epoch - trusted.epoch
    name = "genesis" if not trusted.height else f"block {trusted.height}"
    return (
        f"the chain is at least {age} epochs past {name}, the last that this node trusts; the unbonding time is "
        f"{genesis.parameters.unbonding_epochs} epochs, so validators who have left since could have signed another "
        "history. Get a newer checkpoint, HEIGHT:BLOCKID, from a node that you trust (its `wwwserve status` prints "
        "one) and set 'checkpoint' in config.yaml"
    )
