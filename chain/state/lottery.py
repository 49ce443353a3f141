"""The executor lottery: who is drawn to serve a request; and who is drawn for a duel about one.

For each request of a payer there is one random order of the accounts that serve the model, drawn by stake without
replacement; ``attempt`` is a position in it. Everything the order depends on (stakes, beacon, payer, sequence number)
is fixed before the request exists, so that every node computes the same order and the ledger refuses any other payee.

Challengers and judges of duels, and checkers of models, are drawn in the same way, among those with a stake to lose.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, count, islice
from typing import Annotated

from chain import crypto
from chain.codec import Amount, Bounds, Hash, ModelName, Natural, PublicKey, Record
from chain.state.ratings import FULL_EXPOSURE
from chain.types.checks import DeclaredIdentity
from chain.types.duels import DeclaredJudge
from chain.types.validators import compute_draw

MAX_PERIODS = 3
"""Periods that are known at a time: one that just ended, the current one, and one to come."""


@dataclass(frozen=True, slots=True)
class ServingEntry(Record):
    """One account in the draw: its stake, 0 for a newcomer, the models that it serves, and how it judges, if so.

    ``exposure`` is the share of its stake by which it is drawn as an executor, in millionths. ``identities`` are what
    it declares of its models.
    """

    public_key: PublicKey
    stake: Amount
    models: tuple[ModelName, ...]
    judge: DeclaredJudge | None = None
    exposure: Natural = FULL_EXPOSURE
    identities: tuple[DeclaredIdentity, ...] = ()

    @property
    def tickets(self) -> int:
        """Its weight in the draw of executors: one at least, or it could never do better."""
        return max(1, self.stake * self.exposure // FULL_EXPOSURE)


@dataclass(frozen=True)
class ServingTable(Record):
    """All accounts in the draw of a period, ordered by key.

    ``newcomer_share`` thousandths of the draws go to newcomers, as long as there are any: a newcomer must be able to
    earn a stake. A judge is drawn only if the judges with an equal declaration have ``min_judge_share`` thousandths of
    the stake of all judges: the votes of a judge of its own kind could never be repeated.
    """

    entries: tuple[ServingEntry, ...]
    newcomer_share: Natural
    min_judge_share: Natural = 0

    @cached_property
    def _servers(self) -> dict[str, list[ServingEntry]]:
        # All models in one pass: a refused hold pays no fee, so that asking for an unknown model must cost nothing.
        servers: dict[str, list[ServingEntry]] = {}
        for entry in self.entries:
            for model in entry.models:
                servers.setdefault(model, []).append(entry)
        return servers

    @cached_property
    def _lotteries(self) -> dict[str, Lottery]:
        return {}

    def lottery(self, model: str) -> Lottery:
        """The draw among those who serve ``model``; made once, when first asked for."""
        made = self._lotteries.get(model)
        if made is None:
            servers = self._servers.get(model)
            if servers is None:
                return _EMPTY_LOTTERY
            made = self._lotteries[model] = Lottery(servers, self.newcomer_share)
        return made

    @cached_property
    def _judges(self) -> dict[bytes, DeclaredJudge]:
        staked = {entry.public_key: entry.judge for entry in self.entries if entry.judge is not None and entry.stake}
        stakes = {entry.public_key: entry.stake for entry in self.entries}
        shares: Counter[DeclaredJudge] = Counter()
        for key, judge in staked.items():
            shares[judge] += stakes[key]
        least = self.min_judge_share * shares.total()
        return {key: judge for key, judge in staked.items() if shares[judge] * 1_000 >= least}

    @cached_property
    def _judge_urn(self) -> _Urn:
        return _Urn([(entry.public_key, entry.stake) for entry in self.entries if entry.public_key in self._judges])

    @cached_property
    def _checker_urns(self) -> dict[DeclaredIdentity, _Urn]:
        """The accounts with a stake, by the identities that they declare."""
        tickets: dict[DeclaredIdentity, list[tuple[bytes, int]]] = {}
        for entry in self.entries:
            for identity in entry.identities if entry.stake else ():
                tickets.setdefault(identity, []).append((entry.public_key, entry.stake))
        return {identity: _Urn(entries) for identity, entries in tickets.items()}

    def draw_checkers(self, identity: DeclaredIdentity, seed: bytes, excluded: Collection[bytes]) -> Iterator[bytes]:
        """The accounts that declare ``identity`` and have a stake, in the order drawn by ``seed``, without those
        ``excluded``."""
        return _draw_all(self._checker_urns.get(identity, _EMPTY_URN), "checker", seed, excluded)

    @cached_property
    def _equal_judges(self) -> dict[DeclaredJudge, _Urn]:
        """The judges of each kind."""
        stakes = {entry.public_key: entry.stake for entry in self.entries}
        kinds: dict[DeclaredJudge, list[tuple[bytes, int]]] = {}
        for key, judge in self._judges.items():
            kinds.setdefault(judge, []).append((key, stakes[key]))
        return {judge: _Urn(tickets) for judge, tickets in kinds.items()}

    def draw_challengers(self, model: str, seed: bytes, excluded: Collection[bytes]) -> Iterator[bytes]:
        """The accounts that serve ``model`` and have a stake, in the order drawn by ``seed``, without those
        ``excluded``."""
        return self.lottery(model).draw_staked("challenger", seed, excluded)

    def draw_judges(self, seed: bytes, excluded: Collection[bytes]) -> Iterator[tuple[bytes, DeclaredJudge]]:
        """The accounts that judge and have a stake, with their judges, in the order drawn by ``seed``, without those
        ``excluded``."""
        for key in _draw_all(self._judge_urn, "judge", seed, excluded):
            yield key, self._judges[key]

    def draw_equal_judges(self, judge: DeclaredJudge, seed: bytes, excluded: Collection[bytes]) -> Iterator[bytes]:
        """The accounts with a judge equal to ``judge`` and a stake, in the order drawn by ``seed``."""
        urn = self._equal_judges.get(judge)
        return iter(()) if urn is None else _draw_all(urn, "repeater", seed, excluded)


@dataclass(frozen=True, slots=True)
class ServingPeriod(Record):
    """Rounds, from ``first_round`` on, with one serving table and one ``source`` of draws.

    The source is None until the last block before the period: the table is frozen a round earlier.
    """

    first_round: Natural
    source: Hash | None


@dataclass(frozen=True, slots=True)
class ServingPeriods(Record):
    """The periods from which holds may draw, and those to come.

    ``changed_in`` is the last round in which an account changed what it serves, or its bond while it serves.
    """

    changed_in: Natural | None
    periods: Annotated[tuple[ServingPeriod, ...], Bounds(0, MAX_PERIODS)]

    @property
    def current(self) -> ServingPeriod:
        """The period of the block that comes next."""
        return next(period for period in reversed(self.periods) if period.source is not None)

    def get_source(self, first_round: int) -> bytes | None:
        """The source of the draws of a period; None unless it is the current one, or was until a round ago."""
        return next((period.source for period in self.periods if period.first_round == first_round), None)


class Lottery:
    """Permutations without replacement of one model's servers, drawn by stake but for the newcomers' share."""

    __slots__ = ("_newcomers", "_share", "_staked", "_stakes")

    def __init__(self, entries: Iterable[ServingEntry], newcomer_share: int = 0) -> None:
        entries = list(entries)
        self._staked = _Urn([(entry.public_key, entry.tickets) for entry in entries if entry.stake])
        self._stakes = _Urn([(entry.public_key, entry.stake) for entry in entries if entry.stake])
        self._newcomers = _Urn([(entry.public_key, 1) for entry in entries if not entry.stake])
        self._share = newcomer_share

    def order(self, seed: bytes, excluded: bytes) -> Iterator[bytes]:
        """The public keys in drawn order, without ``excluded`` (the payer itself). Each costs O(log n + drawn)."""
        staked, newcomers = _Draw(self._staked, (excluded,)), _Draw(self._newcomers, (excluded,))
        for draw in count():
            number = draw.to_bytes(4, "big")
            is_newcomer = not staked.remaining or (
                newcomers.remaining > 0
                and compute_draw(crypto.hash_bytes("newcomer share", seed, number), 1000) < self._share
            )
            urn = newcomers if is_newcomer else staked
            if not urn.remaining:
                return
            yield urn.take(crypto.hash_bytes("executor", seed, number))

    def get_executor(self, seed: bytes, excluded: bytes, attempt: int) -> bytes | None:
        """The key at position ``attempt`` of the order, or None if the order is shorter."""
        return next(islice(self.order(seed, excluded), attempt, None), None)

    def draw_staked(self, domain: str, seed: bytes, excluded: Collection[bytes]) -> Iterator[bytes]:
        """The public keys with a stake in the order that ``seed`` draws in a domain, without those ``excluded``."""
        return _draw_all(self._stakes, domain, seed, excluded)


class _Urn:
    """Keys with their numbers of tickets."""

    __slots__ = ("bounds", "entries", "positions")

    def __init__(self, entries: list[tuple[bytes, int]]) -> None:
        self.entries = entries
        self.bounds = list(accumulate(tickets for _, tickets in entries))
        self.positions = {key: position for position, (key, _) in enumerate(entries)}


class _Draw:
    """Takes keys out of an urn, one by one; ``remaining`` is the number of tickets left."""

    __slots__ = ("_taken", "_urn", "remaining")

    def __init__(self, urn: _Urn, excluded: Collection[bytes]) -> None:
        self._urn = urn
        self._taken = sorted({urn.positions[key] for key in excluded if key in urn.positions})
        self.remaining = (urn.bounds[-1] if urn.bounds else 0) - sum(urn.entries[p][1] for p in self._taken)

    def take(self, seed: bytes) -> bytes:
        """The key that ``seed`` draws."""
        urn, ticket = self._urn, compute_draw(seed, self.remaining)
        for position in self._taken:  # in ascending order: step over the tickets of those already out
            if ticket >= urn.bounds[position] - urn.entries[position][1]:
                ticket += urn.entries[position][1]
        position = bisect_right(urn.bounds, ticket)
        key, tickets = urn.entries[position]
        insort(self._taken, position)
        self.remaining -= tickets
        return key


def _draw_all(urn: _Urn, domain: str, seed: bytes, excluded: Collection[bytes]) -> Iterator[bytes]:
    """All keys of an urn but those ``excluded``, in drawn order."""
    draw = _Draw(urn, excluded)
    for number in count():
        if not draw.remaining:
            return
        yield draw.take(crypto.hash_bytes(domain, seed, number.to_bytes(4, "big")))


_EMPTY_LOTTERY = Lottery(())
_EMPTY_URN = _Urn([])


def compute_lottery_seed(beacon: bytes, payer: bytes, seq: int) -> bytes:
    """Seed of the order for request ``seq`` of ``payer`` in the period that draws from ``beacon``."""
    return crypto.hash_bytes("lottery", beacon, payer, seq.to_bytes(8, "big"))
