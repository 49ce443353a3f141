"""Duels in a market of whole nodes: they open, all roles are played, verdicts follow the quality of answers, and a
restart of any party at any stage changes nothing of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
import trio

from chain.parameters.parameters import CREDIT
from chain.state.duel_records import ANSWER, COMMIT, REVEAL, Duel
from chain.state.judge_records import DIFFERENT
from chain.transition.duels.events import ExecutorAccused
from chain.transition.duels.verdict import DuelVerdict
from chain.types.duels import DuelAnswer, DuelCommit, compute_ballot_commitment
from chain.types.operations import Operation
from serving.quality.duels.duties import Role
from serving.quality.duels.table import DuelTable
from tests.support.market.duel_world import (
    DUELS,
    DuelOptions,
    JudgingBackend,
    Witness,
    find_open_duel,
    get_judging_backend,
    get_runner,
    list_duels,
    simulate_duels,
)
from tests.support.market_world import Member, World, ask, make_request
from tests.support.waiting import eventually

COMPARED = {DuelVerdict.EXECUTOR_WON, DuelVerdict.EXECUTOR_LOST}


def check_verdict(world: World, qualities: tuple[int, ...], duel: Duel, verdict: DuelVerdict) -> None:
    """The better backend has won."""
    by_key = {world.members[number].public_key: quality for number, quality in enumerate(qualities, 1)}
    if duel.challenger is None:
        assert verdict is DuelVerdict.USABLE
    else:
        is_better = by_key[duel.executor] > by_key[duel.challenger]
        assert verdict is (DuelVerdict.EXECUTOR_WON if is_better else DuelVerdict.EXECUTOR_LOST)


def test_verdicts_follow_the_quality_of_the_answers() -> None:
    """Streamed and whole ones in turns."""
    options = DuelOptions()

    async def play(world: World, witness: Witness) -> None:
        results = [await ask(world.gateway, make_request(stream=number % 2 == 0)) for number in range(8)]
        assert all(result.status == 200 for result in results)
        settled = await witness.wait_settled(8)
        for event in settled:
            check_verdict(world, options.qualities, event.duel, event.verdict)
            assert all(seat.ballot is not None and not seat.ballot.missing for seat in event.duel.seats)
        assert any(event.duel.challenger is not None for event in settled)
        assert {role for member in world.members for role in get_runner(member).log.opened} == set(Role)
        # What a node has noted of itself is what the ledger moved, once it has the last block too.
        for member in world.members:
            moves = [move for event in settled for move in event.movements if move.public_key == member.public_key]
            log, moved = get_runner(member).log, sum(move.amount for move in moves)
            await eventually(lambda log=log, moved=moved: log.earned - log.paid == moved, 10)
        # Of the texts nothing is left once no duel can ask for them any more.
        await eventually(lambda: not any(len(get_runner(member).table) for member in world.members), 600)
        await eventually(lambda: not any(list(member.duel_store.items(b"")) for member in world.members), 10)

    simulate_duels(play, options)


def test_votes_that_are_run_again_come_out_the_same_and_one_that_is_guessed_does_not() -> None:
    """One of the judges prefers what it sees first, whatever it is: the node that repeats its vote finds out."""
    often = replace(DUELS, rate=500, probation_rate=500, levy=2_000, repeat_rate=900)
    options = DuelOptions(duels=often)

    async def play(world: World, witness: Witness) -> None:
        guesser = world.members[3]
        get_judging_backend(guesser).judge = lambda texts: "A" if "ANSWER A" in texts else "U"
        pairs: list[tuple[bool, bool]] = []
        while not {(False, True), (True, False)}.issubset(pairs):
            before = len(witness.settled)
            for _ in range(6):  # about half of them become duels
                assert (await ask(world.gateway)).status == 200
            with trio.move_on_after(120):
                await witness.wait_settled(before + 2)
            pairs = [
                (guesser.public_key in (seat.public_key, seat.repeats), first.ballot == seat.ballot)
                for event in witness.settled
                for seat in event.duel.repeats
                for first in event.duel.seats
                if seat.repeats == first.public_key and seat.ballot is not None
            ]
        assert all(is_equal for has_guesser, is_equal in pairs if not has_guesser)
        state = world.state_node.engine.state
        assert DIFFERENT in state.judge_record(guesser.public_key).repeats

    simulate_duels(play, options)


def test_users_get_the_same_answers_and_nothing_is_kept_on_a_chain_without_duels() -> None:
    async def play(world: World, witness: Witness) -> None:
        assert (await ask(world.gateway)).status == 200
        assert all(member.node.duels is None for member in world.members)
        await trio.sleep(60)
        assert not witness.events and not any(list(member.duel_store.items(b"")) for member in world.members)

    simulate_duels(play, DuelOptions(duels=replace(DUELS, rate=0), judges=()), with_judges=False)


@pytest.mark.long
def test_an_answer_of_no_use_is_a_fraud_once_a_second_panel_agrees() -> None:
    """Eleven nodes: executor, challenger, three judges and five more, whoever is drawn."""

    async def play(world: World, witness: Witness) -> None:
        while not any(event.verdict is DuelVerdict.FRAUD for event in witness.settled):
            before = len(witness.events)
            assert (await ask(world.gateway)).status == 200
            await eventually(lambda before=before: len(witness.events) > before, 600)
            await eventually(lambda: not list_duels(world), 300)
        fraud = next(event for event in witness.settled if event.verdict is DuelVerdict.FRAUD)
        accused = next(each for each in witness.events[fraud.hold] if isinstance(each, ExecutorAccused))
        first_judges = [seat for seat in accused.first_seats if seat.repeats is None]
        assert len(first_judges) == 3 and len(fraud.duel.seats) == 5
        assert fraud.duel.executor == world.members[1].public_key
        assert all(seat.ballot is not None for seat in fraud.duel.all_seats)

    bonded = {1: 5_000 * CREDIT}  # so that it is drawn at once
    simulate_duels(play, DuelOptions(qualities=(0, *[7] * 10), bonded=bonded))


def test_an_answer_that_its_user_broke_off_can_be_handed_over_too() -> None:
    """It is captured without a receipt, and compared as far as it came; the originator has the request alone."""

    async def play(world: World, witness: Witness) -> None:
        assert (await ask(world.gateway)).status == 200  # whose levy pays for what follows
        result = await ask(world.gateway, leave_after=400)
        assert result.status == 200 and result.record is not None and result.record.hold_id is not None
        hold = result.record.hold_id
        await eventually(lambda: any(event.hold == hold for event in witness.settled), 900)
        event = next(event for event in witness.settled if event.hold == hold)
        assert all(seat.ballot is not None and not seat.ballot.missing for seat in event.duel.seats)

    simulate_duels(play)


def test_a_node_that_does_not_judge_any_more_says_so() -> None:
    async def play(world: World, witness: Witness) -> None:
        assert world.account(1).judge is not None and world.account(1).models
        world.options.judges = world.options.judges[1:]
        await world.kill(1)
        await world.start(1)
        await eventually(lambda: world.account(1).judge is None, 60)
        assert world.account(1).models and world.account(2).judge is not None

    simulate_duels(play)


# Restarts


def test_what_a_node_says_on_the_ledger_is_on_its_disk_before() -> None:
    """Else a crash would cost a ballot that cannot be revealed, or an answer that cannot be handed over."""
    options = DuelOptions()
    seen: set[type[Operation]] = set()

    def watch(member: Member) -> None:
        submitter = get_runner(member)._submitter
        submit = submitter.submit

        async def check(operation: Operation) -> bool:
            on_disk = DuelTable(member.key, member.duel_store, Random(0))
            if isinstance(operation, DuelAnswer):
                assert on_disk.get_answer_digest(operation.hold) == operation.answer_digest
            elif isinstance(operation, DuelCommit):
                kept = on_disk.get_ballot(operation.hold, is_accused=False)
                assert kept is not None
                key = member.public_key
                commitment = compute_ballot_commitment(operation.hold, key, kept.salt, kept.ballot)
                assert operation.commitment == commitment
            seen.add(type(operation))
            return await submit(operation)

        submitter.submit = check  # type: ignore[method-assign]

    async def play(world: World, witness: Witness) -> None:
        for member in world.members[1:]:
            watch(member)
        await find_open_duel(world, REVEAL, payer=0, with_challenger=True)
        assert {DuelAnswer, DuelCommit} <= seen

    simulate_duels(play, options)


Pick = Callable[[World, Duel], int]
PARTIES: dict[str, Pick] = {
    "originator": lambda world, duel: world.find(duel.payer),
    "executor": lambda world, duel: world.find(duel.executor),
    "challenger": lambda world, duel: world.find(duel.challenger or duel.executor),
    "judge": lambda world, duel: world.find(duel.seats[0].public_key),
}


LONG = {"originator", "executor", "judge"}
"""Parties whose restarts the test of all at once shows too."""


@pytest.mark.parametrize(
    "party", [pytest.param(party, marks=[pytest.mark.long] if party in LONG else []) for party in PARTIES]
)
def test_a_party_that_is_restarted_in_every_stage_goes_on(party: str) -> None:
    # The gateway votes alone: a restart of the originator is one of another node.
    options = DuelOptions(gateways=(0, 1), qualities=(9, 8, 7, 6, 5, 4))

    async def play(world: World, witness: Witness) -> None:
        hold, duel = await find_open_duel(world, ANSWER, payer=1, with_challenger=True)
        number = PARTIES[party](world, duel)
        for stage in (ANSWER, COMMIT, REVEAL):
            await eventually(lambda stage=stage: list_duels(world)[hold].stage == stage, 60)
            await world.kill(number)
            await trio.sleep(0.5)
            await world.start(number)
        await eventually(lambda: any(event.hold == hold for event in witness.settled), 300)
        event = next(event for event in witness.settled if event.hold == hold)
        assert event.verdict in COMPARED
        assert event.duel.challenger == duel.challenger and not event.duel.silent
        assert all(seat.ballot is not None and not seat.ballot.missing for seat in event.duel.seats)

    simulate_duels(play, options)


def test_a_restart_of_all_nodes_in_every_stage_changes_nothing() -> None:
    """All but the one that makes blocks."""
    options = DuelOptions(gateways=(0, 1))

    async def play(world: World, witness: Witness) -> None:
        hold, _ = await find_open_duel(world, ANSWER, payer=1, with_challenger=True)
        everybody = range(1, len(world.members))
        for stage in (ANSWER, COMMIT, REVEAL):
            await eventually(lambda stage=stage: list_duels(world)[hold].stage == stage, 60)
            for number in everybody:
                await world.kill(number)
            await world.start(*everybody)
        await eventually(lambda: any(event.hold == hold for event in witness.settled), 300)
        event = next(event for event in witness.settled if event.hold == hold)
        assert event.verdict in COMPARED and not event.duel.silent
        assert all(seat.ballot is not None and not seat.ballot.missing for seat in event.duel.seats)

    simulate_duels(play, options)


# Silence


def test_an_executor_and_an_originator_that_are_gone_are_missing_to_all_judges() -> None:
    options = DuelOptions(gateways=(0, 1))

    async def play(world: World, witness: Witness) -> None:
        hold, duel = await find_open_duel(world, ANSWER, payer=1, with_challenger=True)
        backend = get_judging_backend(world.members[world.find(duel.challenger or b"")])
        await eventually(lambda: backend.running, 10, "the challenger has the request")
        for key in (duel.executor, duel.payer):
            await world.kill(world.find(key))
        await eventually(lambda: any(event.hold == hold for event in witness.settled), 300)
        event = next(event for event in witness.settled if event.hold == hold)
        assert event.verdict is DuelVerdict.EXECUTOR_MISSING

    simulate_duels(play, options)


def test_a_challenger_that_is_gone_is_replaced() -> None:
    options = DuelOptions(gateways=(0, 1))

    async def play(world: World, witness: Witness) -> None:
        hold, duel = await find_open_duel(world, ANSWER, payer=1, with_challenger=True)
        assert duel.challenger is not None
        await world.kill(world.find(duel.challenger))
        await eventually(lambda: any(event.hold == hold for event in witness.settled), 300)
        event = next(event for event in witness.settled if event.hold == hold)
        assert event.duel.silent == (duel.challenger,)
        assert event.verdict in {*COMPARED, DuelVerdict.USABLE}

    simulate_duels(play, options)


# In nobody's way


def test_a_backend_works_for_a_duel_only_while_nobody_waits_for_it() -> None:
    """Of each executor one slot: its requests go on as if there were no duel, and the duel is answered in the end."""
    options = DuelOptions(gateways=(0, 1), capacity=1)

    async def play(world: World, witness: Witness) -> None:
        for member in world.members[2:]:
            get_judging_backend(member).script.token_delay = 1.0
        hold, duel = await find_open_duel(world, ANSWER, payer=1, with_challenger=True)
        challenger = world.members[world.find(duel.challenger or b"")]
        backend: JudgingBackend = get_judging_backend(challenger)
        await eventually(lambda: backend.running == 1, 30, "it answers the request of the duel")
        started = trio.current_time()
        assert (await ask(challenger.node, make_request(local_only=True))).status == 200
        script = backend.script
        least = script.first_delay + script.tokens * script.token_delay
        assert trio.current_time() - started <= least + 0.1, "the user did not wait for the duel"
        assert backend.cancelled == 1 and backend.most_running == 1
        await eventually(lambda: any(event.hold == hold for event in witness.settled), 300)
        event = next(event for event in witness.settled if event.hold == hold)
        assert event.verdict in COMPARED and event.duel.challenger == challenger.public_key

    simulate_duels(play, options)
