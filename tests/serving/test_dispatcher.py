"""What becomes of a user's request: served here, offloaded and paid, or refused."""

from __future__ import annotations

import pytest
import trio
from msgspec.structs import replace

from chain.transition.fees import compute_fee
from chain.types.operations import Capture, Hold, Release
from serving.http.responder import ClientGone
from serving.offload.originator.choice import Reason
from serving.offload.settings import OriginatorSettings
from serving.openai.requests import Request
from serving.request_records import Outcome
from serving.scheduling.policy import AdaptivePolicy, PolicyParameters
from tests.support.market.scripted_backend import Script, compute_stream, compute_text, compute_whole
from tests.support.market_world import MODEL, Options, World, ask, make_request, simulate
from tests.support.openai_answers import PROMPT_TOKENS
from tests.support.waiting import eventually


def total_fees(world: World, number: int) -> int:
    """Fees that a member has paid so far."""
    store = world.state_node.engine._store
    key = world.members[number].public_key
    blocks = [store.block(height) for height in range(1, store.height + 1)]
    operations = [o for block in blocks if block is not None for o in block.body.operations if o.signer == key]
    return sum(compute_fee(world.genesis, operation) for operation in operations)


@pytest.mark.parametrize("stream", [True, False])
def test_an_offloaded_answer_is_the_backends_and_is_paid_exactly(stream: bool) -> None:
    async def play(world: World) -> None:
        before = [world.account(number).available for number in range(3)]
        first = world.drawn()[0]
        assert first.backend is not None
        request = make_request(stream=stream)
        result = await ask(world.gateway, request)
        name, script = first.backend.name, first.backend.script
        assert result.body == (compute_stream(name, script) if stream else compute_whole(name, script))
        assert first.backend.bodies == [request.body]
        assert result.executor == first.public_key
        assert result.record is not None and result.record.outcome == "completed" and result.record.attempt == 0
        await world.settle()
        price = 1_000 + 3 * len(request.body) + 5 * len(compute_text(name, script.tokens))
        assert world.account(0).available == before[0] - price - total_fees(world, 0)
        assert world.account(0).held == 0
        earned = world.account(first.number).available - before[first.number]
        assert earned == price - total_fees(world, first.number)
        (hold,), (item,) = world.operations(Hold), world.captured
        assert hold.amount == 1_000 + 3 * len(request.body) + 5 * 8 * 100  # max_tokens is 100
        assert item.receipt is not None
        assert item.delivery.usage.completion_bytes == len(compute_text(name, script.tokens))
        assert item.delivery.finish_reason == "stop"
        assert result.record.hold_id is not None
        payment = world.gateway.payments.payer.find(result.record.hold_id)
        assert payment is not None and payment.paid == price
        assert payment.hold_height is not None and payment.settled_height is not None
        assert 0 < payment.hold_height < payment.settled_height
        assert first.node.payments.payee.earned == price
        assert world.gateway.payments.payee.earned == 0

    simulate(play)


def test_many_requests_at_once_are_each_answered_and_paid_once() -> None:
    async def play(world: World) -> None:
        world.introduce()
        results = [None] * 40

        async def send(number: int) -> None:
            results[number] = await ask(world.gateway, make_request(stream=number % 2 == 0))  # type: ignore[call-overload]

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(send, number)
        await world.settle()
        assert all(result is not None and result.status == 200 and result.error is None for result in results)
        holds = world.operations(Hold)
        assert len({(hold.seq, hold.attempt) for hold in holds}) == len(holds) == 40
        assert len(world.captured) == 40 and all(item.receipt for item in world.captured)
        assert len(world.operations(Capture)) < 40  # they are gathered

    simulate(play, Options(capacity=50))


def test_an_idle_node_serves_its_users_itself_and_a_busy_one_offloads() -> None:
    async def play(world: World) -> None:
        own = world.members[0].backend
        assert own is not None
        assert (await ask(world.gateway)).executor is None
        own.utilization = 0.9
        result = await ask(world.gateway)
        assert result.executor is not None and own.requests == 1
        assert (await ask(world.gateway, make_request(local_only=True))).executor is None
        assert own.requests == 2
        await world.settle()
        assert world.gateway.dispatcher.counters.local == 2 and world.gateway.dispatcher.counters.offloaded == 1
        assert world.gateway.dispatcher.counters.ended[Outcome.COMPLETED] == 3

    simulate(play, Options(own_backend=True))


@pytest.mark.parametrize("own_backend", [False, True])
def test_tokens_that_the_backend_did_not_report_are_marked_as_estimated(own_backend: bool) -> None:
    async def play(world: World) -> None:
        for has_usage in (True, False):
            for member in world.members:
                if member.backend is not None:
                    member.backend.script.has_usage = has_usage
            result = await ask(world.gateway)
            assert result.record is not None
            assert (result.record.completion_tokens, result.record.is_estimated) == (Script().tokens, not has_usage)
            assert result.record.prompt_tokens == (PROMPT_TOKENS if has_usage else 0)
        counters = world.gateway.dispatcher.counters
        assert counters.prompt_tokens == PROMPT_TOKENS
        assert counters.offloaded_prompt_tokens == (0 if result.record.executor is None else PROMPT_TOKENS)
        await world.settle()

    simulate(play, Options(own_backend=own_backend))


def test_a_local_only_request_never_leaves_a_node_without_the_model() -> None:
    async def play(world: World) -> None:
        result = await ask(world.gateway, make_request(local_only=True))
        assert result.error is not None and result.error.status == 404
        assert world.operations(Hold) == []
        assert all(member.backend is None or member.backend.requests == 0 for member in world.members)

    simulate(play)


def test_refusals() -> None:
    async def play(world: World) -> None:
        unknown = await ask(world.gateway, make_request(model="no-such-model"))
        assert unknown.error is not None and (unknown.error.status, unknown.error.code) == (404, "model_not_found")
        own = world.members[0].backend
        assert own is not None
        own.script.is_alive = False
        down = await ask(world.gateway, make_request(local_only=True))
        assert down.error is not None and down.error.status == 503
        own.script = Script(refuses=True)
        failing = await ask(world.gateway, make_request(local_only=True))
        assert failing.error is not None and failing.error.status == 502
        counters = world.gateway.dispatcher.counters
        assert (counters.ended[Outcome.REFUSED], counters.local, sum(counters.ended.values())) == (3, 0, 3)

    simulate(play, Options(own_backend=True))


def test_a_full_own_queue_is_429() -> None:
    async def play(world: World) -> None:
        own = world.members[0].backend
        assert own is not None
        own.script = Script(first_delay=1000)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, world.gateway, make_request(local_only=True))
            await trio.sleep(1)
            refused = await ask(world.gateway, make_request(local_only=True))
            assert refused.error is not None and refused.error.status == 429
            assert own.running == 1
            nursery.cancel_scope.cancel()

    policy = PolicyParameters(max_queue=2)
    simulate(play, Options(own_backend=True, capacity=1, policy=policy))


@pytest.mark.parametrize("accepts", [True, False])
def test_a_request_that_gets_no_slot_is_offloaded_if_another_node_takes_it(accepts: bool) -> None:
    async def play(world: World) -> None:
        own = world.members[0].backend
        assert own is not None
        own.script = Script(first_delay=1000)
        async with trio.open_nursery() as nursery:
            for _ in range(2):  # one runs, one waits
                nursery.start_soon(ask, world.gateway, make_request())
                await trio.sleep(1)
            result = await ask(world.gateway, make_request())
            if accepts:
                assert result.status == 200 and result.executor == world.members[1].public_key
            else:
                assert result.error is not None and result.error.status == 429
                assert world.members[1].node.executor.declined == 1
            assert own.running == 1
            nursery.cancel_scope.cancel()

    policy = PolicyParameters(max_queue=1, offload_frequency=0.0, accept_frequency=float(accepts), queue_frequency=1.0)
    simulate(play, Options(executors=1, own_backend=True, capacity=1, policy=policy))


def test_everybody_declines() -> None:
    async def play(world: World) -> None:
        refused = await ask(world.gateway)
        assert refused.error is not None and refused.error.status == 503 and "busy" in refused.error.message
        assert refused.error.headers() == [(b"retry-after", b"1")]
        assert world.operations(Hold) == []
        assert world.members[1].node.executor.declined == 1

    simulate(play, Options(policy=PolicyParameters(accept_frequency=0.0)))


def test_a_hint_of_when_to_try_again_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.offload.executor.executor.BUSY_RETRY_MS", 10**15)

    async def play(world: World) -> None:
        refused = await ask(world.gateway)
        assert refused.error is not None and refused.error.headers() == [(b"retry-after", b"60")]

    simulate(play, Options(policy=PolicyParameters(accept_frequency=0.0)))


def test_everybody_declines_but_this_node_has_the_model() -> None:
    async def play(world: World) -> None:
        own = world.members[0].backend
        assert own is not None
        own.utilization = 0.9
        result = await ask(world.gateway)
        assert result.executor is None and result.status == 200

    policy = PolicyParameters(accept_frequency=0.0, offload_frequency=1.0)
    simulate(play, Options(own_backend=True, policy=policy))


def test_declined_requests_use_up_no_hold_numbers() -> None:
    async def play(world: World) -> None:
        for _ in range(300):
            refused = await ask(world.gateway)
            assert refused.error is not None and "busy" in refused.error.message
        for member in world.members[1:]:
            member.node.policy.parameters = PolicyParameters(accept_frequency=1.0)
        assert (await ask(world.gateway)).status == 200
        await world.settle()

    simulate(play, Options(policy=PolicyParameters(accept_frequency=0.0)))


def test_a_dead_backend_takes_its_node_off_the_draw() -> None:
    async def play(world: World) -> None:
        first, second = world.drawn()
        assert first.backend is not None
        first.backend.script.is_alive = False
        await eventually(lambda: world.drawn() == [second])
        result = await ask(world.gateway)
        assert result.executor == second.public_key and result.record is not None and result.record.attempt == 1
        await world.settle()
        assert first.node.executor.declined == 0

    simulate(play)


def test_the_models_are_those_of_the_node_and_of_the_network() -> None:
    async def play(world: World) -> None:
        assert world.gateway.dispatcher.providers.get_models() == [MODEL]
        assert world.gateway.originator.directory.has_executors(MODEL)
        assert not world.gateway.originator.directory.has_executors("other")
        # The only executor cannot offload to itself.
        assert not world.members[1].node.originator.directory.has_executors(MODEL)

    simulate(play, Options(executors=1))


def test_requests_go_on_across_epochs() -> None:
    async def play(world: World) -> None:
        for _ in range(40):
            assert (await ask(world.gateway)).status == 200
            await trio.sleep(0.3)
        assert world.gateway.engine.header.epoch >= 8
        await world.settle()
        assert world.operations(Release) == []

    simulate(play, Options(parameters={"epoch_heights": 4, "round_heights": 2}))


def test_an_unfinished_body_left_in_order_cancels_the_work() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        assert first.backend is not None
        first.backend.script = Script(tokens=1000)
        result = await ask(world.gateway, make_request(max_tokens=2000), leave_after=500)
        assert result.record is not None
        await eventually(lambda: first.backend is not None and first.backend.cancelled == 1, 2.0)
        await world.settle(150)

    simulate(play)


def make_question(number: int) -> Request:
    """A conversation of its own."""
    return make_request(messages=[{"role": "user", "content": f"question {number}"}])


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_leaves_a_node_that_offloads_nothing_even_if_its_backend_fails(fails: bool) -> None:
    async def play(world: World) -> None:
        own = world.members[0].backend
        assert own is not None
        own.script = Script(refuses=fails)
        result = await ask(world.gateway, make_request())
        assert (result.error is not None) == fails and (fails or result.executor is None)
        assert world.gateway.dispatcher.providers.get_models() == [MODEL] and world.operations(Hold) == []

    simulate(play, Options(own_backend=True, originator=OriginatorSettings(enabled=False)))


CHOOSES = OriginatorSettings(exploration=0.0)


def test_the_adaptive_policy_finds_out_where_answers_come_sooner() -> None:
    async def play(world: World) -> None:
        gateway, own = world.gateway, world.members[0].backend
        assert own is not None
        gateway.dispatcher.policy = AdaptivePolicy(PolicyParameters())
        first = await ask(gateway, make_question(0))
        assert first.executor is None and first.record is not None and first.record.reason == Reason.POLICY.value
        own.script = Script(token_delay=2.0)
        for number in range(3):  # nothing is known of the others but what they announce
            slow = await ask(gateway, make_question(10 + number))
        offloaded = await ask(gateway, make_question(1))
        assert offloaded.executor is not None and offloaded.record is not None
        assert offloaded.record.reason == Reason.PREDICTED.value
        prediction = offloaded.record.prediction
        assert prediction is not None and prediction.node == offloaded.executor
        assert slow.record is not None and slow.record.prediction is not None
        assert prediction.time.total < slow.record.prediction.time.total
        first, total = offloaded.record.compare()
        assert first is not None and total is not None and 0.1 < total < 5.0  # its rates are guessed
        gateway.dispatcher.policy = AdaptivePolicy(PolicyParameters(credit_price_s=1e9))
        assert (await ask(gateway, make_question(2))).executor is None, "its owner would rather wait than pay"

    simulate(play, Options(own_backend=True, originator=CHOOSES, seed=2))


def test_a_conversation_that_was_answered_here_stays_here_while_that_is_not_much_slower() -> None:
    async def play(world: World) -> None:
        gateway, own = world.gateway, world.members[0].backend
        assert own is not None
        gateway.dispatcher.policy = AdaptivePolicy(PolicyParameters())
        turns = [{"role": "user", "content": "hello"}]
        for _ in range(3):
            result = await ask(gateway, make_request(messages=turns))
            assert result.executor is None
            turns = [*turns, {"role": "assistant", "content": "x"}, {"role": "user", "content": "and"}]
        assert result.record is not None and result.record.reason == Reason.CONVERSATION.value
        own.script = Script(token_delay=5.0)
        for number in range(2):
            await ask(gateway, make_request(messages=[{"role": "user", "content": f"slow {number}"}], local_only=True))
        assert (await ask(gateway, make_request(messages=turns))).executor is not None

    simulate(play, Options(own_backend=True, originator=CHOOSES))


@pytest.mark.parametrize("local", [True, False])
def test_a_user_who_cannot_be_written_to_has_left(local: bool) -> None:
    """A node may notice by a write that fails before it sees the end of what comes."""

    async def play(world: World) -> None:
        request = replace(make_request(stream=True), local_only=local)
        with pytest.raises(ClientGone):
            async with world.gateway.dispatcher.complete(request) as (_, record):
                raise ClientGone
        assert record.outcome is Outcome.CANCELLED
        await world.settle()

    simulate(play, Options(own_backend=local))
