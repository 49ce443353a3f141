"""Executors commit to transcripts of answers that others may check, and their users see nothing of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from chain.parameters.duels import DuelParameters
from chain.types.operations import compute_digest
from serving.openai.requests import Request
from serving.quality.duels.table import DuelTable
from serving.quality.duels.texts import TextKind
from serving.quality.same_model.transcript import Transcript, decode_transcript
from tests.support.market.check_world import CHECKS, DUELS
from tests.support.market.model_backend import IDENTITY, ModelBackend
from tests.support.market_world import Member, Options, World, ask, make_request, simulate
from tests.support.waiting import eventually


def make_options(with_identity: bool = True, duels: DuelParameters = DUELS) -> Options:
    return Options(
        executors=1,
        make_backend=lambda number: ModelBackend(f"m{number}-"),
        identities={1: IDENTITY} if with_identity else {},
        parameters={"duels": duels, "checks": CHECKS},
    )


def get_model_backend(member: Member) -> ModelBackend:
    assert isinstance(member.backend, ModelBackend)
    return member.backend


def read_text(body: bytes) -> str:
    """The text of an answer, streamed or not."""
    if body.startswith(b"{"):
        return str(json.loads(body)["choices"][0]["message"]["content"])
    events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: {")]
    return "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])


def get_kept(world: World, hold: bytes) -> Transcript | None:
    """The transcript that the executor could hand over; its digest is the one that it has committed to."""
    runner = world.members[1].node.duels
    assert runner is not None
    found = runner.table.load(hold, TextKind.TRANSCRIPT)
    (item,) = world.captured
    assert item.delivery.hold == hold
    if found is None:
        assert item.delivery.transcript_digest is None
        return None
    salt, body = found
    assert item.delivery.transcript_digest == compute_digest(salt, body)
    return decode_transcript(body)


async def deliver(world: World, request: Request) -> tuple[bytes, Transcript | None]:
    """Have a request answered and paid; its answer, and the transcript."""
    result = await ask(world.gateway, request)
    assert result.status == 200
    await eventually(lambda: bool(world.captured), 60)
    (record,) = world.gateway.dispatcher.records
    assert record.hold_id is not None
    return result.body, get_kept(world, record.hold_id)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_transcript_is_of_the_answer_and_the_user_sees_nothing_of_it(stream: bool) -> None:
    answers: list[bytes] = []

    def play_with(with_identity: bool) -> None:
        async def play(world: World) -> None:
            body, transcript = await deliver(world, make_request(stream))
            answers.append(body)
            assert b"logprobs" not in body
            assert (transcript is not None) == with_identity
            if transcript is not None:
                told = get_model_backend(world.members[1]).model.tell(transcript.ids)
                assert told == read_text(body) and len(told) > 5
            await world.settle()

        simulate(play, make_options(with_identity))

    for with_identity in (True, False):
        play_with(with_identity)
    # JSON is written anew without them; events that have none are not touched.
    assert answers[0] == answers[1] if stream else json.loads(answers[0]) == json.loads(answers[1])


@pytest.mark.parametrize("fields", [{"logprobs": True, "top_logprobs": 2}, {"logit_bias": {"3": 1}}])
def test_an_answer_that_cannot_be_checked_is_passed_on_as_it_is(fields: dict[str, Any]) -> None:
    async def play(world: World) -> None:
        body, transcript = await deliver(world, make_request(**fields))
        assert transcript is None
        assert (b"top_logprobs" in body) == ("logprobs" in fields)
        asked = json.loads(get_model_backend(world.members[1]).bodies[-1])
        assert asked.get("top_logprobs") == fields.get("top_logprobs")
        await world.settle()

    simulate(play, make_options())


def test_on_a_chain_without_duels_backends_are_asked_for_nothing_more() -> None:
    async def play(world: World) -> None:
        assert (await ask(world.gateway)).status == 200
        assert not any(b"logprobs" in body for body in get_model_backend(world.members[1]).bodies)
        assert world.account(1).identities == ()
        await world.settle()

    simulate(play, make_options(duels=DuelParameters(rate=0)))


def test_of_an_answer_that_its_user_broke_off_the_transcript_has_what_was_sent() -> None:
    async def play(world: World) -> None:
        backend = get_model_backend(world.members[1])
        backend.script.token_delay = 1.0
        request = make_request(stream=True)
        received = b""
        with trio.move_on_after(6):
            async with world.gateway.dispatcher.complete(request) as (answer, _):
                async for piece in answer.body:
                    received += piece
        await eventually(lambda: bool(world.captured), 60)
        (record,) = world.gateway.dispatcher.records
        assert record.hold_id is not None
        transcript = get_kept(world, record.hold_id)
        assert transcript is not None
        whole = backend.model.tell(backend.model.write_for(json.loads(request.body)))
        told = backend.model.tell(transcript.ids)
        assert whole.startswith(told) and told.startswith(read_text(received)) and len(told) < len(whole)
        await world.settle()

    simulate(play, make_options())


def test_an_identity_is_declared_until_it_is_withdrawn() -> None:
    async def play(world: World) -> None:
        await eventually(lambda: [each.digest for each in world.account(1).identities] == [IDENTITY.digest], 60)
        world.members[1].node.identities.withdraw(IDENTITY.model)
        await eventually(lambda: not world.account(1).identities, 60)
        assert world.account(1).models == (IDENTITY.model,)

    simulate(play, make_options())


def test_a_transcript_is_sealed_on_the_disk_and_outlasts_a_restart() -> None:
    async def play(world: World) -> None:
        _, transcript = await deliver(world, make_request())
        assert transcript is not None
        member, hold = world.members[1], world.captured[0].delivery.hold
        await trio.sleep(5)
        await world.kill(1)
        assert all(transcript.encode()[:32] not in value for _, value in member.duel_store.items(b""))
        found = DuelTable(member.key, member.duel_store, world.gateway.runtime.random).load(hold, TextKind.TRANSCRIPT)
        assert found is not None and found[1] == transcript.encode()

    simulate(play, make_options())
