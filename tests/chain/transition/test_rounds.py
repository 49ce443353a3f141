"""Rounds: when a change of who serves comes into force, and that no draw can be aimed at by moving stake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chain.state.keys import PERIODS_KEY, TOTALS_KEY, account_key
from chain.state.records import Account, Totals
from chain.state.state import State, StateOverlay
from chain.transition import rounds
from chain.transition.payments import get_executor
from chain.transition.rounds import get_period, get_round, is_change_pending, note_serving_changes
from chain.types.checks import DeclaredIdentity
from chain.types.operations import SignedOperation
from tests.support.chain_builder import MODEL, PARAMETERS, Chain
from tests.support.keys import make_key

LONG = replace(PARAMETERS, epoch_heights=40, round_heights=4)
"""Ten rounds of four heights to an epoch."""


def read_stakes(chain: Chain, first_round: int) -> dict[bytes, int] | None:
    table = chain.state.serving_table(first_round)
    return None if table is None else {entry.public_key: entry.stake for entry in table.entries}


def read_periods(chain: Chain) -> list[tuple[int, bool]]:
    """The first round of each serving period, and whether its source is known."""
    return [(period.first_round, period.source is not None) for period in chain.state.serving_periods.periods]


def extend(chain: Chain, height: int) -> None:
    """Append empty blocks up to a height."""
    while chain.head.height < height:
        chain.append()


def test_rounds_of_heights() -> None:
    assert [get_round(LONG, height) for height in range(10)] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 2]


def test_a_change_is_in_force_two_rounds_later_with_a_source_that_did_not_exist_when_it_was_frozen() -> None:
    chain = Chain(4, 1, parameters=LONG)
    newcomer = chain.users[0]
    first = {key.public_key: 100_000 for key in chain.validators}
    assert read_periods(chain) == [(0, True)] and read_stakes(chain, 0) == first
    chain.append([chain.bond(newcomer, 900_000), chain.serve(newcomer, MODEL, nonce=1)])  # in round 0
    extend(chain, 3)
    assert read_periods(chain) == [(0, True)]
    chain.append()  # the last of round 0
    joined = {**first, newcomer.public_key: 900_000}
    assert read_periods(chain) == [(0, True), (2, False)] and read_stakes(chain, 2) == joined
    chain.append([chain.unbond(newcomer, 400_000)])  # in round 1
    extend(chain, 7)
    assert chain.first_round == 0
    chain.append()
    assert read_periods(chain) == [(0, True), (2, True), (3, False)] and chain.first_round == 2
    assert chain.state.serving_periods.current.source == chain.state.beacon.value
    assert read_stakes(chain, 2) == joined and read_stakes(chain, 3) == {**first, newcomer.public_key: 500_000}
    extend(chain, 12)
    assert read_periods(chain) == [(2, True), (3, True)] and read_stakes(chain, 0) is None
    extend(chain, 16)
    assert read_periods(chain) == [(3, True)] and read_stakes(chain, 2) is None


def test_a_period_ends_with_its_epoch_at_the_latest() -> None:
    chain = Chain(parameters=LONG)
    extend(chain, 32)
    assert read_periods(chain) == [(0, True)]
    for height, periods in (
        (36, [(0, True), (10, False)]),
        (40, [(0, True), (10, True)]),
        (44, [(10, True)]),
        (76, [(10, True), (20, False)]),
    ):
        extend(chain, height)
        assert read_periods(chain) == periods


def test_a_round_in_which_nothing_changes_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be thousands that serve, and a round every few seconds."""
    chain = Chain(parameters=replace(LONG, epoch_heights=80))
    before = chain.state.get(PERIODS_KEY), chain.state.serving_table(0)
    monkeypatch.setattr(rounds, "compute_serving_table", None)
    for height in range(1, 73):
        chain.append([chain.transfer(chain.users[height % 2], chain.users[0], 1)])
    assert chain.state.get(PERIODS_KEY) is before[0] and chain.state.serving_table(0) is before[1]


def is_noted(before: State, after: dict[bytes, Account]) -> bool:
    """Whether a block that leaves these accounts has changed who serves."""
    chain = Chain()
    overlay = StateOverlay(before)
    for key, account in after.items():
        overlay.put_account(key, account)
    note_serving_changes(overlay, before, chain.genesis, 7)
    return overlay.serving_periods.changed_in == get_round(PARAMETERS, 7)


SERVING = Account(available=5, bonded=100, models=("a", "b"))


@pytest.mark.parametrize(
    ("before", "after", "counts"),
    [
        (SERVING, replace(SERVING, bonded=99), True),
        (SERVING, replace(SERVING, models=("a",)), True),
        (SERVING, replace(SERVING, models=()), True),
        (SERVING, replace(SERVING, identities=(DeclaredIdentity("a", bytes(32)),)), True),
        (SERVING, Account(), True),
        (Account(available=5), SERVING, True),
        (Account(), replace(SERVING, bonded=0), True),
        (SERVING, replace(SERVING, available=0, held=7, nonce=3, grant=9), False),
        (Account(bonded=1), Account(bonded=2), False),
        (Account(), Account(available=1), False),
    ],
)
def test_what_a_change_of_who_serves_is(before: Account, after: Account, counts: bool) -> None:
    key = make_key("server").public_key
    state = State().update({account_key(key): before if before != Account() else None, TOTALS_KEY: Totals(0, 0)})
    assert is_noted(state, {make_key("other").public_key: Account(available=1), key: after}) is counts


def test_a_change_is_pending_until_it_is_in_force() -> None:
    chain = Chain(parameters=LONG)
    pending = []
    assert get_period(LONG, chain.state, 0).first_round == 0
    for height in range(1, 20):
        pending.append(is_change_pending(chain.genesis, chain.state, height))
        chain.append([chain.bond(chain.validators[0], 1)] if height == 3 else [])
        assert is_change_pending(chain.genesis, chain.state, 1) == (height >= 3), "a round that is not over yet"
        assert get_period(LONG, chain.state, height).first_round == (0 if height <= 8 else 2)
        assert chain.first_round == (0 if height < 8 else 2)
    assert [number for number, is_pending in enumerate(pending, 1) if is_pending] == [4, 5, 6, 7, 8]


def test_the_end_of_an_epoch_alone_is_no_change() -> None:
    chain = Chain(parameters=LONG)
    extend(chain, 38)
    assert read_periods(chain)[-1] == (10, False) and not is_change_pending(chain.genesis, chain.state, 39)


def test_one_round_to_an_epoch_and_one_height_to_a_round() -> None:
    for epoch_heights, round_heights in ((4, 4), (4, 1), (1, 1)):
        chain = Chain(parameters=replace(PARAMETERS, epoch_heights=epoch_heights, round_heights=round_heights))
        for height in range(1, 13):
            chain.append([chain.bond(chain.validators[height % 4], 1)])
            number = (height - 1) // round_heights
            begun = {chain.first_round, *(first for first, known in read_periods(chain) if known)}
            assert max(begun) <= number + 1 and chain.first_round >= number - 1


# No draw can be aimed at.

Move = Callable[[Chain], list[SignedOperation]]
PAYER = 0
SEQS = range(12)


def bond(who: int, amount: int) -> Move:
    return lambda chain: [chain.bond(chain.validators[who], amount)]


def unbond(who: int, amount: int) -> Move:
    return lambda chain: [chain.unbond(chain.validators[who], min(amount, chain.account(chain.validators[who]).bonded))]


def serve(who: int, models: tuple[str, ...]) -> Move:
    return lambda chain: [chain.serve(chain.validators[who], *models)]


def join(who: int, amount: int) -> Move:
    def move(chain: Chain) -> list[SignedOperation]:
        user, nonce = chain.users[1 + who], chain.account(chain.users[1 + who]).nonce
        return [chain.bond(user, amount, nonce=nonce), chain.serve(user, MODEL, nonce=nonce + 1)]

    return move


MOVES = st.one_of(
    st.builds(bond, st.integers(0, 3), st.integers(1, 50_000)),
    st.builds(unbond, st.integers(0, 3), st.integers(1, 90_000)),
    st.builds(serve, st.integers(0, 3), st.sampled_from([(), (MODEL,), ("other",), (MODEL, "smolest")])),
    st.builds(join, st.integers(0, 2), st.integers(1, 200_000)),
)


def draw_all(chain: Chain, first_round: int) -> list[bytes | None]:
    """The first executors of some requests of one payer."""
    payer = chain.users[PAYER].public_key
    return [get_executor(chain.state, first_round, payer, seq, 0, MODEL) for seq in SEQS]


@settings(max_examples=25)
@given(
    early=st.lists(MOVES, min_size=1, max_size=3),
    late=st.lists(st.tuples(st.integers(0, 9), MOVES), max_size=6),
)
def test_stake_that_is_moved_once_a_table_is_frozen_changes_no_draw_of_it(
    early: list[Move], late: list[tuple[int, Move]]
) -> None:
    """Of two chains with the same leaders, on one of which stake is moved from the freezing on: all draws are equal."""
    draws = []
    for moved in (True, False):
        chain = Chain(4, 4, parameters=replace(PARAMETERS, unbonding_epochs=9, min_validator_bond=1))
        for move in early:
            chain.append(move(chain))
        extend(chain, len(early) + len(early) % 2)  # the end of a round
        first_round = chain.state.serving_periods.periods[-1].first_round
        assume(chain.first_round < first_round)  # the last move changed something
        drawn = []
        for step in range(10):
            operations = [operation for at, move in late if at == step for operation in move(chain)]
            block, transition, _ = chain.propose(operations if moved else [])
            chain.accept(block, transition)
            if chain.state.serving_periods.get_source(first_round) is not None:
                drawn.append(draw_all(chain, first_round))
        draws.append(drawn)
        assert drawn and all(each == drawn[0] for each in drawn)
    assert draws[0][: len(draws[1])] == draws[1][: len(draws[0])]


def test_the_source_of_a_period_depends_on_who_leads_after_its_table_was_frozen() -> None:
    sources = set()
    for skipped in range(4):
        chain = Chain()
        chain.append([chain.bond(chain.validators[0], 1)])
        chain.append()
        table = chain.state.serving_table(2)
        assert table is not None and chain.state.serving_periods.get_source(2) is None
        chain.append()
        chain.append(skipped=skipped)
        assert chain.state.serving_table(2) == table
        sources.add(chain.state.serving_periods.get_source(2))
    assert len(sources) > 1 and None not in sources
