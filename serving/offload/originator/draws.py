"""The executors of this node's requests by the ledger: the serving table, and the draw for each hold number.

A node needs a draw several times for each request, also for those that it serves itself. Draws change only with a
block, so each is computed once for each state of the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.collections import BoundedDict
from chain.state.lottery import ServingTable, compute_lottery_seed
from chain.state.state import State
from chain.types.blocks import Header
from serving.offload.context import OffloadContext

MAX_DRAWS = 64
"""Draws of one state that are kept: local requests ask for the one of the next number, offloaded ones for their own."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """An executor that was drawn. ``number`` is its position, ``free_bond`` the part of its bond that is not locked."""

    number: int
    executor: bytes
    free_bond: int


class Draws:
    """The draws of one payer, as of the last final block."""

    def __init__(self, context: OffloadContext) -> None:
        self._context = context
        self._seen: tuple[State, Header] | None = None
        """The state and the header that all of this is of."""
        self._first_round = 0
        self._table: ServingTable | None = None
        self._drawn: BoundedDict[tuple[str, int, int], tuple[Drawn, ...]] = BoundedDict(MAX_DRAWS)

    @property
    def first_round(self) -> int:
        """The first round of the present serving period (:attr:`OffloadContext.first_round`)."""
        self._look()
        return self._first_round

    @property
    def table(self) -> ServingTable | None:
        """The executors of that period; None if there are none."""
        self._look()
        return self._table

    def draw(self, model: str, first_round: int, seq: int) -> tuple[Drawn, ...]:
        """The candidates for the hold ``seq`` in the period that begins with a round, in the order of the draw."""
        self._look()
        key = (model, first_round, seq)
        drawn = self._drawn.get(key)
        if drawn is None:
            drawn = self._drawn[key] = self._compute(model, first_round, seq)
        return drawn

    def _look(self) -> None:
        engine = self._context.engine
        state, header = engine.state, engine.header
        if self._seen is None or self._seen[0] is not state or self._seen[1] is not header:
            self._seen = state, header
            self._first_round = self._context.first_round
            self._table = state.serving_table(self._first_round)
            self._drawn.clear()

    def _compute(self, model: str, first_round: int, seq: int) -> tuple[Drawn, ...]:
        engine, me = self._context.engine, self._context.key.public_key
        state = engine.state
        table, source = state.serving_table(first_round), state.serving_periods.get_source(first_round)
        if table is None or source is None:
            return ()
        order = table.lottery(model).order(compute_lottery_seed(source, me, seq), me)
        accounts = ((key, state.account(key)) for key in order)
        return tuple(
            Drawn(number, key, account.bonded - account.locked)
            for number, (key, account) in zip(range(engine.genesis.parameters.max_attempts), accounts, strict=False)
        )
