"""Client errors of executors: passed on when another confirms them, and held against an executor when none does."""

from __future__ import annotations

import pytest
import trio

from chain.exceptions import InvalidOperation
from chain.types.operations import Hold, SignedOperation
from p2p.network import NetworkError
from serving.admin.reports import report_peers
from serving.offload.originator.dialer import ExecutorDialer
from serving.offload.originator.executor_scores import HALF_LIFE_S, ExecutorScore
from serving.offload.originator.originator import ClientErrors
from serving.scheduling.policy import PolicyParameters
from tests.support.market.scripted_backend import ERROR_BODY, Script, compute_stream, compute_whole
from tests.support.market_world import MODEL, Member, Options, World, ask, get_name, get_script, make_request, simulate

STATUSES = [400, 413, 415, 422]


def get_score(world: World, member: Member) -> ExecutorScore | None:
    return world.gateway.originator.scores.find(member.public_key, MODEL, trio.current_time())


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("stream", [True, False])
def test_one_that_another_executor_does_not_share_is_never_seen_and_counts_against_its_author(
    status: int, stream: bool
) -> None:
    async def play(world: World) -> None:
        first, second = world.drawn()
        get_script(first).status = status
        result = await ask(world.gateway, make_request(stream=stream))
        name, script = get_name(second), get_script(second)
        assert result.body == (compute_stream(name, script) if stream else compute_whole(name, script))
        assert result.executor == second.public_key
        score = get_score(world, first)
        assert score is not None and score.unshared_errors > 0 and score.is_faulty
        score = get_score(world, second)
        assert score is not None and (score.delivered, score.unshared_errors) == (1.0, 0.0)
        assert world.gateway.originator.client_errors == ClientErrors(unshared=1)
        await world.settle()
        # One more hold, and the first came back whole.
        assert len(world.operations(Hold)) == 2
        assert sorted(item.delivery.amount > 0 for item in world.captured) == [False, True]

    simulate(play)


def test_one_that_a_second_executor_shares_is_passed_on_and_counts_against_no_one() -> None:
    async def play(world: World) -> None:
        first, second, third = world.drawn()
        get_script(first).status, get_script(second).status = 400, 422
        result = await ask(world.gateway)
        assert (result.status, result.body, result.executor) == (400, ERROR_BODY, first.public_key)
        assert third.backend is not None and third.backend.requests == 0
        assert get_score(world, first) is None and get_score(world, second) is None
        assert world.gateway.originator.client_errors == ClientErrors(shared=1)
        await world.settle()

    simulate(play, Options(executors=3))


@pytest.mark.parametrize("executors", [1, 2])
def test_one_that_no_other_executor_can_confirm_is_passed_on(executors: int) -> None:
    async def play(world: World) -> None:
        first, *failing = world.drawn()
        get_script(first).status = 400
        for member in failing:
            get_script(member).refuses = True
        result = await ask(world.gateway)
        assert (result.status, result.body, result.executor) == (400, ERROR_BODY, first.public_key)
        assert get_score(world, first) is None
        assert world.gateway.originator.client_errors == ClientErrors(unconfirmed=1)
        await world.settle()
        assert len(world.operations(Hold)) == executors

    simulate(play, Options(executors=executors))


def test_a_second_hold_that_the_balance_does_not_cover_leaves_it_unconfirmed() -> None:
    async def play(world: World) -> None:
        first, _ = world.drawn()
        get_script(first).status = 400
        assert (await ask(world.gateway)).status == 400
        await world.settle()
        assert len(world.operations(Hold)) == 1

    simulate(play, Options(available={0: 9_000}, validators=(1,)))


def test_one_that_others_might_confirm_later_is_a_503() -> None:
    async def play(world: World) -> None:
        first, second = world.drawn()
        get_script(first).status = 400
        second.node.policy.parameters = PolicyParameters(accept_frequency=0.0)
        refused = (await ask(world.gateway)).error
        assert refused is not None and refused.status == 503
        assert "answered 400, which no other confirms; declined: busy" in refused.message
        assert refused.headers() == [(b"retry-after", b"1")]
        await world.settle()

    simulate(play)


@pytest.mark.parametrize("own_status", [200, 400])
def test_the_nodes_own_backend_has_the_last_word(own_status: int) -> None:
    async def play(world: World) -> None:
        own, (only,) = world.members[0].backend, world.drawn()
        assert own is not None
        own.utilization, own.script = 0.9, Script(status=own_status)
        get_script(only).status = 400
        result = await ask(world.gateway)
        assert result.status == own_status and own.requests == 1
        assert result.executor is None
        errors, score = world.gateway.originator.client_errors, get_score(world, only)
        if own_status == 200:
            assert errors == ClientErrors(unshared=1) and score is not None and score.is_faulty
        else:
            assert errors == ClientErrors(shared=1) and score is None
        await world.settle()

    simulate(play, Options(executors=1, own_backend=True))


def test_a_second_executor_that_breaks_off_contradicts_no_client_error() -> None:
    async def play(world: World) -> None:
        first, second = world.drawn()
        get_script(first).status = 400
        get_script(second).break_after = 3
        assert (await ask(world.gateway)).broken is not None
        assert get_score(world, first) is None
        score = get_score(world, second)
        assert score is not None and score.failed == 1.0
        await world.settle()

    simulate(play)


@pytest.mark.parametrize("fault", [{"refuses": True}, {"status": 400}], ids=str)
def test_a_bad_executor_is_asked_last_until_it_is_forgiven(fault: dict[str, object]) -> None:
    async def play(world: World) -> None:
        bad = world.drawn()[0]
        assert bad.backend is not None
        bad.backend.script = Script(**fault)  # type: ignore[arg-type]
        for _ in range(20):
            assert (await ask(world.gateway)).status == 200
        assert bad.backend.requests == 1
        (peer,) = (peer for peer in report_peers(world.gateway)["peers"] if peer["address"] == bad.key.address)
        score = peer["scores"][MODEL]
        assert score["is_faulty"] and score["delivered"] == 0 and score["failed"] + score["unshared_errors"] > 0.5
        bad.backend.script = Script()
        await trio.sleep(HALF_LIFE_S)
        executors = {(await ask(world.gateway)).executor for _ in range(20)}
        assert bad.public_key in executors
        await world.settle()

    simulate(play, Options(executors=3))


def test_a_bad_executor_is_asked_when_there_is_no_other() -> None:
    async def play(world: World) -> None:
        (only,) = world.drawn()
        get_script(only).refuses = True
        assert (await ask(world.gateway)).error is not None
        get_script(only).refuses = False
        assert (await ask(world.gateway)).status == 200
        await world.settle()

    simulate(play, Options(executors=1))


def test_one_that_declined_is_asked_after_the_others_until_it_may_be_asked_again() -> None:
    async def play(world: World) -> None:
        world.introduce()
        busy = world.drawn()[0]
        busy.node.policy.parameters = PolicyParameters(accept_frequency=0.0)
        started = trio.current_time()
        while trio.current_time() < started + 0.9:
            assert (await ask(world.gateway, make_request(stream=False))).status == 200
        assert busy.node.executor.declined == busy.node.executor.declined_for_now == 1
        busy.node.policy.parameters = PolicyParameters(accept_frequency=1.0)
        executors = {(await ask(world.gateway)).executor for _ in range(20)}
        assert busy.public_key in executors
        await world.settle()

    simulate(play, Options(executors=3))


def test_a_hold_that_this_node_cannot_make_counts_against_no_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(operation: SignedOperation) -> None:
        raise InvalidOperation("no such hold")

    async def play(world: World) -> None:
        monkeypatch.setattr(world.gateway.engine, "submit", refuse)
        result = await ask(world.gateway)
        assert result.error is not None and result.error.message.count("the hold was refused") == 2
        assert len(world.gateway.originator.scores) == 0

    simulate(play)


def test_an_executor_that_cannot_be_reached_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(dialer: ExecutorDialer, executor: bytes, timeout: float) -> None:
        raise NetworkError("no way there")

    async def play(world: World) -> None:
        monkeypatch.setattr(ExecutorDialer, "connect", fail)
        assert (await ask(world.gateway)).error is not None
        assert [get_score(world, member) is not None for member in world.members] == [False, True, True]

    simulate(play)
