"""Checks of the model in a market of whole nodes: an honest executor is never found, one that serves other weights is,
and a restart of any party in any stage changes nothing of that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from chain.state.check_records import CHECK_COMMIT, CHECK_REVEAL, ModelCheck
from chain.transition.checks.finding import CheckOutcome
from chain.types.checks import MEASURED, NO_TRANSCRIPT, NOT_CHECKABLE
from serving.openai.requests import Request
from serving.quality.duels.check_history import CheckRole
from tests.support.market.check_world import (
    CheckOptions,
    CheckWitness,
    find_open_check,
    get_model_backend,
    get_runner,
    list_checks,
    simulate_checks,
)
from tests.support.market.model_backend import IDENTITY
from tests.support.market_world import World, ask, make_request
from tests.support.waiting import eventually


def make_varied_request(number: int, stream: bool = True) -> Request:
    return make_request(stream, temperature=float(number % 2), seed=number)


def test_honest_executors_pass_every_check() -> None:
    """Of streamed and whole answers in turns, at both temperatures."""

    async def play(world: World, witness: CheckWitness) -> None:
        for number in range(8):
            assert (await ask(world.gateway, make_varied_request(number, stream=number % 4 < 2))).status == 200
        settled = await witness.wait_settled(8)
        for event in settled:
            assert event.finding.outcome is CheckOutcome.PASSED and event.finding.is_counted
            assert event.finding.distance == 0 and len(event.finding.agreed) == 3
            assert not event.is_substitution
        assert {role for member in world.members for role in get_runner(member).check_log.opened} == set(CheckRole)
        # What a node has noted of itself is what the ledger moved, once it has the last block too.
        for member in world.members:
            moves = [move for event in settled for move in event.movements if move.public_key == member.public_key]
            log, moved = get_runner(member).check_log, sum(move.amount for move in moves)
            await eventually(lambda log=log, moved=moved: log.earned - log.paid == moved, 10)
        assert sum(get_runner(member).check_log.earned for member in world.members) > 0
        await eventually(lambda: not any(len(get_runner(member).table) for member in world.members), 600)
        await eventually(lambda: not any(list(member.duel_store.items(b"")) for member in world.members), 10)

    simulate_checks(play)


@pytest.mark.long
def test_an_executor_that_serves_other_weights_is_found_and_declares_them_no_more() -> None:
    async def play(world: World, witness: CheckWitness) -> None:
        cheat, bonded = world.members[1], world.account(1).bonded
        for number in range(0, 40, 3):  # three at a time
            if any(event.is_substitution for event in witness.settled):
                break
            for each in range(number, number + 3):
                assert (await ask(world.gateway, make_varied_request(each))).status == 200
            await witness.wait_settled(number + 3)
        found = next(event for event in witness.settled if event.is_substitution)
        assert found.check.executor == cheat.public_key
        for event in witness.settled:
            is_cheat = event.check.executor == cheat.public_key
            assert event.finding.outcome is (CheckOutcome.FAILED if is_cheat else CheckOutcome.PASSED)
        await eventually(lambda: not world.account(1).identities, 30)
        assert world.account(1).bonded < bonded and world.account(1).models == (IDENTITY.model,)
        await trio.sleep(60)
        assert not world.account(1).identities, "it is not declared again by itself"
        assert get_runner(cheat).check_log.paid > 0

    # It has most of the stake, so that it is drawn most of the time.
    simulate_checks(play, CheckOptions(substituted=(1,), bonded={1: 5_000_000_000}))


def test_an_answer_that_cannot_be_checked_counts_for_nothing() -> None:
    async def play(world: World, witness: CheckWitness) -> None:
        assert (await ask(world.gateway, make_request(logit_bias={"3": 1}))).status == 200
        (event,) = await witness.wait_settled(1)
        assert event.finding.outcome is CheckOutcome.NOT_CHECKABLE and not event.finding.is_counted
        assert all(seat.report is not None and seat.report.kind == NOT_CHECKABLE for seat in event.check.seats)
        assert not event.movements

    simulate_checks(play)


@pytest.mark.parametrize(
    "is_late",
    [pytest.param(False, id="before it is drawn"), pytest.param(True, id="once it is drawn", marks=pytest.mark.long)],
)
def test_an_executor_that_is_gone_has_no_transcript_to_show(is_late: bool) -> None:
    async def play(world: World, witness: CheckWitness) -> None:
        for member in world.members[2:]:
            get_model_backend(member).question_delay = 1.0
        assert (await ask(world.members[1].node, make_request())).status == 200
        if is_late:
            await eventually(lambda: bool(list_checks(world)), 200, interval=0.05)
        (record,) = world.members[1].node.dispatcher.records
        assert record.executor is not None
        await eventually(lambda: bool(world.captured), 60)
        await world.kill(world.find(record.executor))
        (event,) = await witness.wait_settled(1)
        assert event.finding.outcome in (CheckOutcome.NO_TRANSCRIPT, CheckOutcome.PASSED)
        assert is_late or event.finding.outcome is CheckOutcome.NO_TRANSCRIPT
        kinds = {seat.report.kind for seat in event.check.seats if seat.report is not None}
        assert kinds == {NO_TRANSCRIPT if event.finding.outcome is CheckOutcome.NO_TRANSCRIPT else MEASURED}

    simulate_checks(play, CheckOptions(gateways=(0, 1)))


Pick = Callable[[World, ModelCheck], int]
PARTIES: dict[str, Pick] = {
    "originator": lambda world, check: world.find(check.payer),
    "executor": lambda world, check: world.find(check.executor),
    "checker": lambda world, check: world.find(check.seats[0].public_key),
}


LONG = pytest.mark.long  # the restart of all nodes at once shows the same


@pytest.mark.parametrize(
    ("party", "stage"),
    [
        pytest.param("checker", CHECK_COMMIT, marks=LONG),
        pytest.param("checker", CHECK_REVEAL, marks=LONG),
        pytest.param("executor", CHECK_COMMIT, marks=LONG),
        pytest.param("executor", CHECK_REVEAL, marks=LONG),
        pytest.param("originator", CHECK_COMMIT, marks=LONG),
        pytest.param("originator", CHECK_REVEAL, marks=LONG),
    ],
)
def test_a_party_that_is_restarted_in_any_stage_goes_on(party: str, stage: int) -> None:
    # The gateway votes alone: a restart of the originator is one of another node.
    async def play(world: World, witness: CheckWitness) -> None:
        hold, check = await find_open_check(world, stage, payer=1)
        number = PARTIES[party](world, check)
        await world.kill(number)
        await trio.sleep(0.5)
        await world.start(number)
        (event,) = await witness.wait_settled(1)
        assert event.hold == hold and event.finding.outcome is CheckOutcome.PASSED
        assert all(seat.report is not None and seat.report.kind == MEASURED for seat in event.check.seats)

    simulate_checks(play, CheckOptions(gateways=(0, 1)))


def test_a_restart_of_all_nodes_in_every_stage_changes_nothing() -> None:
    """All but the one that makes blocks."""

    async def play(world: World, witness: CheckWitness) -> None:
        hold, _ = await find_open_check(world, CHECK_COMMIT, payer=1)
        everybody = range(1, len(world.members))
        for member in world.members[2:]:
            get_model_backend(member).question_delay = 0.05  # each is asked whether it can be checked when it starts
        for stage in (CHECK_COMMIT, CHECK_REVEAL):
            await eventually(lambda stage=stage: list_checks(world)[hold].stage == stage, 60, interval=0.05)
            for number in everybody:
                await world.kill(number)
            await world.start(*everybody)
        (event,) = await witness.wait_settled(1)
        assert event.finding.outcome is CheckOutcome.PASSED
        assert all(seat.report is not None for seat in event.check.seats)

    simulate_checks(play, CheckOptions(gateways=(0, 1)))


def test_a_backend_scores_only_while_nobody_waits_for_it() -> None:
    """Of each executor one slot: its requests go on as if there were no check, which is done in the end."""

    async def play(world: World, witness: CheckWitness) -> None:
        hold, check = await find_open_check(world, CHECK_COMMIT, payer=1)
        checker = world.members[world.find(check.seats[0].public_key)]
        backend = get_model_backend(checker)
        backend.question_delay = 5.0
        await eventually(lambda: backend.running == 1, 30, "it scores", interval=0.05)
        started, cancelled = trio.current_time(), backend.cancelled
        assert (await ask(checker.node, make_request(local_only=True))).status == 200
        script = backend.script
        assert trio.current_time() - started <= script.first_delay + 40 * script.token_delay + 0.1
        assert backend.cancelled == cancelled + 1 and backend.most_running == 1
        (event,) = await witness.wait_settled(1)
        assert event.hold == hold and event.finding.outcome is CheckOutcome.PASSED

    simulate_checks(play, CheckOptions(gateways=(0, 1), capacity=1))


def test_without_identities_nothing_is_checked() -> None:
    async def play(world: World, witness: CheckWitness) -> None:
        assert (await ask(world.gateway, make_request())).status == 200
        await trio.sleep(120)
        assert not witness.events
        assert all(item.delivery.transcript_digest is None for item in world.captured)

    simulate_checks(play, CheckOptions(executors=2, has_identities=False))
