"""The records that the state holds, but for those with rules of their own (beacon, serving table, committee)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from chain.codec import Amount, Bounds, Hash, ModelName, Natural, PublicKey, Record
from chain.state.beacon import NO_COMMITMENT
from chain.types.checks import DeclaredIdentity
from chain.types.duels import DeclaredJudge
from chain.types.operations import MAX_CAPTURE_ITEMS, MAX_MODELS, Delivery
from chain.types.validators import LATE_VOTE_BLOCKS, MAX_COMMITTEE

REPLAY_WINDOW_SIZE = 256
"""How many recent hold sequence numbers of a payer stay usable."""


MAX_UNBONDINGS = 32
"""Amounts that one account may have unbonding at a time."""


@dataclass(frozen=True, slots=True)
class Unbonding(Record):
    """Credit on its way out of a bond, free at the start of ``release_epoch``."""

    amount: Amount
    release_epoch: Natural


@dataclass(frozen=True, slots=True)
class Account(Record):
    """One key's credits (micro-credits) and what it serves. An account that never was equals ``Account()``.

    ``held`` is the amounts of its open holds, and their deposits. ``grant`` is the part of the bond that was given to a
    newcomer and never leaves it. ``locked`` is the part that stands behind captures without a receipt, and behind its
    answers in duels and checks, until they are settled. ``deposit`` is what the account left for its models, and for
    hold numbers that it has not used. ``judge`` says how it judges duels, if it does, ``identities`` what it declares
    of its models.
    """

    nonce: Natural = 0
    available: Amount = 0
    held: Amount = 0
    bonded: Amount = 0
    unbonding: Annotated[tuple[Unbonding, ...], Bounds(0, MAX_UNBONDINGS)] = ()
    models: Annotated[tuple[ModelName, ...], Bounds(0, MAX_MODELS)] = ()
    grant: Amount = 0
    locked: Amount = 0
    deposit: Amount = 0
    judge: DeclaredJudge | None = None
    identities: Annotated[tuple[DeclaredIdentity, ...], Bounds(0, MAX_MODELS)] = ()

    @property
    def total(self) -> int:
        """All credit of the account, whatever it is bound to."""
        return self.available + self.held + self.bonded + self.deposit + sum(part.amount for part in self.unbonding)

    @property
    def own_bond(self) -> int:
        """The bond beside the grant: what an account can lose that was its own."""
        return max(0, self.bonded - self.grant)

    @property
    def free_bond(self) -> int:
        """The part of the own bond that may leave it, or back another capture without a receipt."""
        return max(0, self.own_bond - self.locked)

    def find_identity(self, model: str) -> bytes | None:
        """The digest that the account declares for a model."""
        return next((identity.digest for identity in self.identities if identity.model == model), None)

    @property
    def payable(self) -> int:
        """Credit that may pay the fee of an operation with a nonce: see :meth:`pay_fee`."""
        return self.available + self.free_bond + sum(part.amount for part in self.unbonding)

    def pay_fee(self, amount: int) -> Account:
        """Take an amount out of the available credit, then out of the free bond, then out of unbonding entries.

        ``amount`` is :attr:`payable` at most.
        """
        available = min(amount, self.available)
        if available == amount:
            return self.credit(-amount)
        return self.credit(-available).take_stake(amount - available, spared=self.bonded - self.free_bond)[0]

    def add_bond(self, amount: int) -> Account:
        """The account with ``amount`` more bonded. A grant that was taken is not made up for: that would be lost."""
        return replace(self, bonded=self.bonded + amount, grant=min(self.grant, self.bonded))

    def take_stake(self, amount: int, spared: int = 0) -> tuple[Account, int]:
        """Take an amount out of the bond, then out of unbonding entries, the earliest first.

        ``spared`` of the bond stays. Returns the account after that, and the amount taken, at most all that there is.
        """
        bonded = min(amount, self.bonded - spared)
        owed, parts = amount - bonded, []
        for part in self.unbonding:
            taken = min(owed, part.amount)
            owed -= taken
            if part.amount > taken:  # an entry of nothing could never be withdrawn
                parts.append(replace(part, amount=part.amount - taken))
        return replace(self, bonded=self.bonded - bonded, unbonding=tuple(parts)), amount - owed

    def credit(self, amount: int) -> Account:
        """The account with ``amount`` more available (less, if it is negative)."""
        # Written out: every operation comes through here, and dataclasses.replace takes three times as long.
        available = self.available + amount
        return Account(
            self.nonce,
            available,
            self.held,
            self.bonded,
            self.unbonding,
            self.models,
            self.grant,
            self.locked,
            self.deposit,
            self.judge,
            self.identities,
        )


@dataclass(frozen=True, slots=True)
class ReplayWindow(Record):
    """Hold numbers a payer has used, as in the anti-replay window of IPsec (RFC 4303 §3.4.3).

    ``top`` is one more than the highest sequence number used; byte i of ``used`` belongs to sequence number
    ``top − 1 − i`` and has bit a set once attempt a was made.
    """

    top: Natural = 0
    used: Annotated[bytes, Bounds(0, REPLAY_WINDOW_SIZE)] = b""

    @property
    def unused(self) -> int:
        """How many numbers below ``top`` may still be used, and no hold was made under them."""
        return min(self.top, REPLAY_WINDOW_SIZE) - len(self.used) + self.used.count(0)

    def has_hold(self, seq: int) -> bool:
        """Whether a hold was made under a number that is less than ``top``, or it is too old for one."""
        index = self.top - 1 - seq
        return index >= REPLAY_WINDOW_SIZE or (index < len(self.used) and self.used[index] > 0)

    def is_usable(self, seq: int, attempt: int) -> bool:
        """Whether (seq, attempt) is neither used nor too far from ``top`` in either direction."""
        if seq >= self.top:
            return seq < self.top + REPLAY_WINDOW_SIZE
        index = self.top - 1 - seq
        if index >= REPLAY_WINDOW_SIZE:
            return False
        return index >= len(self.used) or not (self.used[index] >> attempt) & 1

    def use(self, seq: int, attempt: int) -> ReplayWindow:
        """The window after (seq, attempt) is used."""
        shift = max(0, seq + 1 - self.top)
        used = bytearray(min(shift, REPLAY_WINDOW_SIZE)) + self.used if shift else bytearray(self.used)
        top = self.top + shift
        index = top - 1 - seq
        used.extend(bytes(max(0, index + 1 - len(used))))
        used[index] |= 1 << attempt
        return ReplayWindow(top, bytes(used[:REPLAY_WINDOW_SIZE]).rstrip(b"\0"))


@dataclass(frozen=True, slots=True)
class OpenHold(Record):
    """Credit set aside for one request, until it is captured or released.

    ``unsettled_delivery`` is an unreceipted delivery, paid after the grace time unless the payer disputes it
    (:class:`DueCaptures`).
    """

    payer: PublicKey
    payee: PublicKey
    amount: Amount
    model: ModelName
    request_digest: Hash
    deadline: Natural
    unsettled_delivery: Delivery | None = None


@dataclass(frozen=True, slots=True)
class DueCaptures(Record):
    """The holds that one capture left unsettled: they are settled at chain time ``pays_at``, or later if too many are.

    A hold that was disputed in the meantime is not open any more.
    """

    pays_at: Natural
    holds: Annotated[tuple[Hash, ...], Bounds(1, MAX_CAPTURE_ITEMS)]


@dataclass(frozen=True, slots=True)
class SettlementQueue(Record):
    """The numbers of the :class:`DueCaptures` that wait: from ``first`` to ``end`` − 1, in the order of ``pays_at``.

    That is the order of capture, since all have the same grace time.
    """

    first: Natural = 0
    end: Natural = 0


@dataclass(frozen=True, slots=True)
class ValidatorRecord(Record):
    """An account's entry in the validator registry.

    Its weight is its bond, as long as it is enrolled, not jailed, and has a commitment.

    ``waiting_since`` is the height since which it has asked for more weight than it has (0 if it does not). Its next
    reveal must open ``commitment``. ``next_commitment`` replaces that from ``next_epoch`` on. It is jailed if
    ``jailed_until`` is not 0, and may ask to return from that epoch on. Votes of epochs before ``clean_from`` were
    punished already. ``counted_votes`` of ``counted_blocks`` blocks are its participation in the whole epochs since
    chain time ``counted_since`` (:mod:`chain.transition.validators.jailing`).
    """

    is_enrolled: bool = False
    waiting_since: Natural = 0
    commitment: Hash = NO_COMMITMENT
    hash_chain: Natural = 0
    next_commitment: Hash = NO_COMMITMENT
    next_hash_chain: Natural = 0
    next_epoch: Natural = 0
    jailed_until: Natural = 0
    clean_from: Natural = 0
    counted_since: Natural = 0
    counted_blocks: Natural = 0
    counted_votes: Natural = 0


@dataclass(frozen=True, slots=True)
class RecentBlock(Record):
    """A block for which late votes still count: the view it was notarized in, and bit i if position i voted for it."""

    block_id: Hash
    view: Natural
    voters: Annotated[bytes, Bounds(MAX_COMMITTEE // 8, MAX_COMMITTEE // 8)]


@dataclass(frozen=True, slots=True)
class Participation(Record):
    """Who took part in this epoch, as its block bodies say: for ``blocks`` of its blocks, the votes by position.

    Empty before the first block of an epoch.
    """

    blocks: Natural
    votes: Annotated[tuple[Natural, ...], Bounds(0, MAX_COMMITTEE)]
    recent: Annotated[tuple[RecentBlock, ...], Bounds(0, LATE_VOTE_BLOCKS)]


@dataclass(frozen=True, slots=True)
class Registrations(Record):
    """How many newcomers were registered in this epoch."""

    count: Natural


@dataclass(frozen=True, slots=True)
class Totals(Record):
    """The treasury, and the supply that all credit adds up to.

    ``reserved`` is the part of the treasury that is promised to the challengers and judges of open duels.
    """

    treasury: Amount
    supply: Amount
    reserved: Amount = 0
