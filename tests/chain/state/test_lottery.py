"""The executor lottery: one order per request, by stake, without replacement, the same for everybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.crypto import hash_bytes
from chain.genesis import compute_serving_table
from chain.state.lottery import Lottery, ServingEntry, ServingTable, compute_lottery_seed
from chain.transition.payments import get_executor
from tests.support.chain_builder import MODEL, PARAMETERS, Chain
from tests.support.keys import make_key

PAYER = bytes(32)
SALT = hash_bytes("test salt")


def make_lottery(*stakes: int, newcomer_share: int = 0) -> tuple[list[bytes], Lottery]:
    keys = [bytes([number]) * 32 for number in range(1, len(stakes) + 1)]
    entries = [ServingEntry(key, stake, (MODEL,)) for key, stake in zip(keys, stakes, strict=True)]
    return keys, Lottery(entries, newcomer_share)


def seed(number: int) -> bytes:
    return compute_lottery_seed(hash_bytes("test beacon"), PAYER, number)


@given(stakes=st.lists(st.integers(0, 5), max_size=8), number=st.integers(0, 1000), out=st.integers(0, 8))
def test_the_order_is_a_permutation_of_all_except_the_payer(stakes: list[int], number: int, out: int) -> None:
    """Newcomers, who have no stake, come last when no share of the draws is theirs."""
    keys, lottery = make_lottery(*stakes)
    payer = bytes([out]) * 32
    order = list(lottery.order(seed(number), payer))
    staked = [key for key, stake in zip(keys, stakes, strict=True) if stake and key != payer]
    assert sorted(order) == [key for key in keys if key != payer]
    assert sorted(order[: len(staked)]) == staked
    assert [lottery.get_executor(seed(number), payer, attempt) for attempt in range(len(order) + 2)] == [
        *order,
        None,
        None,
    ]


def test_permutations_appear_as_often_as_their_stakes_say() -> None:
    """Chi-square of the whole order over 12,000 draws, 5 degrees of freedom: 25.7 is exceeded once in 10,000 seeds."""
    stakes = (1, 2, 5)
    keys, lottery = make_lottery(*stakes)
    drawn = Counter(tuple(lottery.order(seed(number), PAYER)) for number in range(12_000))
    statistic = 0.0
    for first, second, third in permutations(range(3)):
        chance = stakes[first] / 8 * stakes[second] / (8 - stakes[first])
        expected = 12_000 * chance
        statistic += (drawn[keys[first], keys[second], keys[third]] - expected) ** 2 / expected
    assert statistic < 25.7


def test_the_excluded_payers_tickets_go_to_the_others_in_proportion() -> None:
    """Chi-square over 9,000 draws, 1 degree of freedom: 15.1 is exceeded once in 10,000 seeds."""
    keys, lottery = make_lottery(10, 30, 20)
    drawn = Counter(lottery.get_executor(seed(number), keys[1], 0) for number in range(9_000))
    assert set(drawn) == {keys[0], keys[2]}
    assert (drawn[keys[0]] - 3_000) ** 2 / 3_000 + (drawn[keys[2]] - 6_000) ** 2 / 6_000 < 15.1


def test_newcomers_have_their_share_of_the_draws() -> None:
    """Chi-square over 10,000 draws, 2 degrees of freedom: 18.5 is exceeded once in 10,000 seeds."""
    keys, lottery = make_lottery(10, 0, 30, 0, newcomer_share=50)
    drawn = Counter(lottery.get_executor(seed(number), PAYER, 0) for number in range(10_000))
    newcomers = drawn[keys[1]] + drawn[keys[3]]
    expected = {keys[0]: 9_500 / 4, keys[2]: 9_500 * 3 / 4}
    statistic = (newcomers - 500) ** 2 / 500 + sum((drawn[key] - mean) ** 2 / mean for key, mean in expected.items())
    assert statistic < 18.5
    assert abs(drawn[keys[1]] - drawn[keys[3]]) < 100, "and share it evenly"


@pytest.mark.parametrize("newcomer_share", [0, 50, 1000])
def test_where_only_one_kind_is_left_it_has_all_draws(newcomer_share: int) -> None:
    for stakes in ((0, 0, 0), (5, 6, 7)):
        keys, lottery = make_lottery(*stakes, newcomer_share=newcomer_share)
        for number in range(20):
            assert sorted(lottery.order(seed(number), PAYER)) == keys


def test_who_has_nearly_everything_is_stepped_over() -> None:
    keys, lottery = make_lottery(1, 2**62, 1)
    for number in range(20):
        order = list(lottery.order(seed(number), PAYER))
        assert order[0] == keys[1] and sorted(order) == keys


def test_the_seed_depends_on_beacon_payer_and_number() -> None:
    seeds = {
        compute_lottery_seed(bytes([b]) * 32, bytes([p]) * 32, s) for b in range(3) for p in range(3) for s in range(3)
    }
    assert len(seeds) == 27


def test_a_table_draws_among_those_who_serve_the_model() -> None:
    table = ServingTable((ServingEntry(b"a" * 32, 5, ("x",)), ServingEntry(b"b" * 32, 5, ("x", "y"))), 0)
    assert sorted(table.lottery("x").order(seed(0), PAYER)) == [b"a" * 32, b"b" * 32]
    assert list(table.lottery("y").order(seed(0), PAYER)) == [b"b" * 32]
    assert list(table.lottery("z").order(seed(0), PAYER)) == []
    assert table.lottery("z").get_executor(seed(0), PAYER, 0) is None


def test_asking_for_unknown_models_leaves_nothing_behind() -> None:
    table = ServingTable((ServingEntry(b"a" * 32, 5, ("x",)),), 0)
    assert len({id(table.lottery(f"unknown {number}")) for number in range(100)}) == 1


def test_the_table_takes_the_bonds_and_models_of_the_state() -> None:
    chain = Chain(4, 1, stakes=[5_000, 2_000, 1_999, 7_000])
    a, b, c, d = chain.validators
    chain.append([chain.serve(d), chain.serve(a, "another", MODEL), chain.serve(chain.users[0], MODEL)])
    dear = replace(PARAMETERS, min_service_bond=2_000)
    table = compute_serving_table(chain.state, replace(dear, newcomer_share=0), SALT)
    assert {(e.public_key, e.stake, e.models) for e in table.entries} == {
        (a.public_key, 5_000, ("another", MODEL)),
        (b.public_key, 2_000, (MODEL,)),
    }
    assert [e.public_key for e in table.entries] == sorted(e.public_key for e in table.entries)
    both = compute_serving_table(chain.state, dear, SALT)
    newcomers = {entry.public_key for entry in both.entries if not entry.stake}
    assert newcomers == {c.public_key, chain.users[0].public_key} and len(both.entries) == 4
    free = compute_serving_table(chain.state, replace(PARAMETERS, min_service_bond=0, newcomer_share=0), SALT)
    assert len(free.entries) == 3  # a bond of nothing is never drawn by its stake


def test_everybody_computes_the_same_executor() -> None:
    chain = Chain(4, 1)
    chain.append()
    for attempt in range(4):
        drawn = {get_executor(state, 0, chain.users[0].public_key, 7, attempt, MODEL) for state in chain.states}
        assert len(drawn) == 1 and None not in drawn
    payer = chain.users[0].public_key
    assert get_executor(chain.state, 0, payer, 7, 4, MODEL) is None
    assert get_executor(chain.state, 9, payer, 7, 0, MODEL) is None
    assert get_executor(chain.state, 0, payer, 7, 0, "unknown") is None
    validator = chain.validators[0].public_key
    assert validator not in {
        get_executor(chain.state, 0, validator, seq, attempt, MODEL) for seq in range(20) for attempt in range(4)
    }
    assert make_key("stranger").public_key not in chain.keys


def test_a_table_keeps_the_largest_bonds(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many accounts serve, the table stays an entry of the state that can be read again."""
    monkeypatch.setattr("chain.genesis.MAX_SERVERS", 2)
    chain = Chain(4, 0, stakes=(1_000, 4_000, 3_000, 2_000))
    table = compute_serving_table(chain.state, replace(PARAMETERS, min_service_bond=0), SALT)
    assert sorted(entry.stake for entry in table.entries) == [3_000, 4_000]
    assert list(table.entries) == sorted(table.entries, key=lambda entry: entry.public_key)


def test_a_draw_is_made_once_and_only_for_a_model_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table may name sixty thousand models: to make all their draws would hold up a node at every epoch."""
    made: list[int] = []
    make = Lottery.__init__

    def count(lottery: Lottery, entries: Iterable[ServingEntry], newcomer_share: int = 0) -> None:
        made.append(len(list(entries)))
        make(lottery, entries, newcomer_share)

    monkeypatch.setattr(Lottery, "__init__", count)
    keys = [make_key(f"server {number}").public_key for number in range(9)]
    entries = [ServingEntry(key, 5, tuple(sorted({"common", f"own {key.hex()}"}))) for key in sorted(keys)]
    table = ServingTable(tuple(entries), 0)
    assert table.lottery("common") is table.lottery("common") and made == [9]
    table.lottery("unserved")
    table.lottery(f"own {keys[0].hex()}")
    assert made == [9, 1]
