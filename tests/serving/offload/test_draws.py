"""Draws follow the ledger: each block may change who is drawn, and what bond is left."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from chain.state.lottery import ServingEntry, ServingTable
from chain.state.records import Account
from serving.offload.context import OffloadContext
from serving.offload.originator.draws import Draws

MODEL = "m"
KEYS = [bytes([number]) * 32 for number in range(1, 6)]
ME = KEYS[0]


@dataclass
class FakeState:
    """What draws look at, and how often it was looked at."""

    locked: int = 0
    keys: tuple[bytes, ...] = tuple(KEYS)
    source: bytes | None = bytes(32)
    looks: int = 0

    def serving_table(self, first_round: int) -> ServingTable | None:
        self.looks += 1
        return ServingTable(tuple(ServingEntry(key, 100, (MODEL,)) for key in self.keys), 0) if self.keys else None

    @property
    def serving_periods(self) -> Any:
        return SimpleNamespace(get_source=lambda first_round: self.source)

    def account(self, key: bytes) -> Account:
        return Account(bonded=100, locked=self.locked)


def make(state: FakeState) -> tuple[Draws, Any]:
    genesis = SimpleNamespace(parameters=SimpleNamespace(max_attempts=3))
    engine = SimpleNamespace(state=state, header=object(), genesis=genesis)
    context = SimpleNamespace(engine=engine, key=SimpleNamespace(public_key=ME), first_round=0)
    return Draws(cast(OffloadContext, context)), context


def test_a_draw_is_made_once_for_each_state_number_and_model() -> None:
    state = FakeState()
    draws, _ = make(state)
    first = draws.draw(MODEL, 0, 1)
    looks = state.looks
    assert draws.draw(MODEL, 0, 1) is first and draws.table is not None and state.looks == looks
    assert [drawn.number for drawn in first] == [0, 1, 2] and ME not in {drawn.executor for drawn in first}
    others = {draws.draw(MODEL, 0, seq) for seq in range(2, 30)}
    assert len({tuple(drawn.executor for drawn in other) for other in others}) > 10
    assert draws.draw("other", 0, 1) == ()


def test_a_block_changes_what_is_drawn() -> None:
    draws, context = make(FakeState())
    assert {drawn.free_bond for drawn in draws.draw(MODEL, 0, 1)} == {100}
    context.engine.state = FakeState(locked=40)
    assert {drawn.free_bond for drawn in draws.draw(MODEL, 0, 1)} == {60}
    context.engine.state = FakeState(keys=(ME, KEYS[3]))
    assert [drawn.executor for drawn in draws.draw(MODEL, 0, 1)] == [KEYS[3]]
    context.engine.state = FakeState(keys=())
    assert draws.draw(MODEL, 0, 1) == () and draws.table is None
    context.engine.state = FakeState(source=None)
    assert draws.draw(MODEL, 0, 1) == ()


def test_a_block_that_changes_no_account_may_begin_a_period() -> None:
    draws, context = make(FakeState())
    assert draws.first_round == 0
    context.first_round, context.engine.header = 8, object()
    assert draws.first_round == 8
