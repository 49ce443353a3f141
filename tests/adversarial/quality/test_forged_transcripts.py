"""Executors that declare a model and serve another, and forge what the checkers are to see; and peers that want what is
not for them. None gets away with it, and none gets anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio

from chain.exceptions import CodecError
from chain.state.check_records import CHECK_COMMIT
from chain.transition.checks.events import CheckSettled
from chain.transition.checks.finding import CheckOutcome
from p2p.network import NetworkError
from serving.offload.context import AnswerTap
from serving.openai.begun_answers import CONTINUED
from serving.openai.requests import Request
from serving.quality.duels.protocol import DUEL_PROTOCOL, MAX_DUEL_MESSAGE_BYTES, TextHead, TextRequest
from serving.quality.duels.texts import TextKind
from serving.quality.same_model.scoring import POSITIONS
from serving.quality.same_model.statistics import TOP_TOKENS
from serving.quality.same_model.transcript import TopToken, Transcript, TranscriptToken, decode_transcript, to_surprisal
from tests.support.market.check_world import (
    CheckOptions,
    CheckWitness,
    find_open_check,
    get_model_backend,
    get_runner,
    simulate_checks,
)
from tests.support.market_world import Member, World, ask, make_request
from tests.support.servers.scripted_model import ScriptedModel, render, tokenize

CHEAT = 1
UNLIKELY_ANSWERS = (1, 2)
"""Seeds with which the cheap model writes what the declared one would hardly write; one check finds two in five."""
FORGED: list[bytes] = []
"""Transcripts that were handed in earlier."""

Forge = Callable[[bytes], bytes | None]


def replay(transcript: bytes) -> bytes:
    """That of an earlier answer, which the declared weights gave."""
    FORGED.append(transcript)
    return FORGED[0]


def invent(transcript: bytes) -> bytes:
    """Tokens that no model has, so that no backend scores them."""
    tokens = decode_transcript(transcript).tokens
    return Transcript(tuple(TranscriptToken(2**32 - 1, token.top) for token in tokens)).encode()


def shorten(transcript: bytes) -> bytes:
    """The first token alone, whose distribution both models may share."""
    return Transcript(decode_transcript(transcript).tokens[:1]).encode()


def withhold(transcript: bytes) -> None:
    """None at all."""


def garble(transcript: bytes) -> bytes:
    """What is no transcript."""
    return transcript[:-1]


def supply(transcript: bytes) -> bytes:
    """The cheap model has written, and the declared one says what it finds likely there."""
    tokens, declared = decode_transcript(transcript).tokens, ScriptedModel("vllm")
    prompt = tokenize(render([{"role": "user", "content": "x" * 200}]))
    forged = []
    for place, token in enumerate(tokens):
        logprobs = declared.compute([*prompt, *(each.id for each in tokens[:place])])
        likeliest = sorted(logprobs, key=lambda each: (-logprobs[each], each))[:TOP_TOKENS]
        top = tuple(TopToken(each, to_surprisal(logprobs[each])) for each in likeliest)
        forged.append(TranscriptToken(token.id, top))
    return Transcript(tuple(forged)).encode()


def corrupt(member: Member, forge: Forge) -> None:
    """Have a member commit to what ``forge`` makes of its transcripts."""
    identities = member.node.identities
    make_tap = identities.make_tap

    def make_forging_tap(request: Request) -> AnswerTap | None:
        tap = make_tap(request)
        if tap is not None:
            make = tap.make_transcript

            def make_forged(passed: int) -> bytes | None:
                made = make(passed)
                return None if made is None else forge(made)

            tap.make_transcript = make_forged  # type: ignore[method-assign]
        return tap

    executor = member.node.executor
    executor._context = replace(executor._context, make_tap=make_forging_tap)


async def check_one(world: World, witness: CheckWitness, number: int, **fields: Any) -> CheckSettled:
    before = len(witness.settled)
    assert (await ask(world.gateway, make_request(temperature=1.0, seed=number, **fields))).status == 200
    return (await witness.wait_settled(before + 1))[-1]


def test_a_transcript_that_is_not_of_the_answer_fails_every_check() -> None:
    async def play(world: World, witness: CheckWitness) -> None:
        FORGED.clear()
        forges: list[Forge] = [replay, replay, invent, shorten, withhold, garble]
        corrupt(world.members[CHEAT], lambda transcript: forge(transcript))
        for number, forge in enumerate(forges):
            event = await check_one(world, witness, number)
            assert event.check.executor == world.members[CHEAT].public_key
            if number:  # the first answer is the one that is replayed
                assert event.finding.outcome is CheckOutcome.NO_TRANSCRIPT, forge
                assert event.finding.is_counted

    # It has nearly all of the stake, so that it is drawn first.
    simulate_checks(play, CheckOptions(bonded={CHEAT: 50_000_000_000}))


def test_a_cheap_model_that_writes_beside_the_declared_one_is_seen_by_what_it_chooses() -> None:
    """The answers are so short that every token is scored: what is found does not rest on the positions drawn."""

    async def play(world: World, witness: CheckWitness) -> None:
        corrupt(world.members[CHEAT], supply)
        for number in UNLIKELY_ANSWERS:
            event = await check_one(world, witness, number, max_tokens=POSITIONS)
            assert event.check.executor == world.members[CHEAT].public_key
            assert event.finding.shortfall_failed and not event.finding.distance_failed

    options = CheckOptions(bonded={CHEAT: 50_000_000_000}, substituted=(CHEAT,), noise=6.0)
    simulate_checks(play, options)


@pytest.mark.parametrize("is_cheat", [True, False])
def test_a_cheap_model_does_not_hide_behind_a_seam(is_cheat: bool) -> None:
    """The rest of an answer that another has begun is checked like any answer."""

    async def play(world: World, witness: CheckWitness) -> None:
        messages = [{"role": "user", "content": "Go on."}, {"role": "assistant", "content": "abc"}]
        event = await check_one(world, witness, 1, messages=messages, **CONTINUED)
        assert event.check.executor == world.members[CHEAT].public_key and event.finding.is_counted
        assert event.finding.distance_failed == is_cheat

    substituted = (CHEAT,) if is_cheat else ()
    simulate_checks(play, CheckOptions(bonded={CHEAT: 50_000_000_000}, substituted=substituted))


async def ask_for(world: World, asker: int, holder: bytes, hold: bytes, kind: TextKind) -> TextHead | None:
    """What a holder says to a member that asks for a text; None: nothing."""
    streams = world.members[asker].node.streams
    try:
        with trio.fail_after(10):
            async with streams.open(holder, DUEL_PROTOCOL) as exchange:
                await exchange.send(TextRequest(hold, int(kind)).encode(), end=True)
                return TextHead.decode(await exchange.receive() or b"", MAX_DUEL_MESSAGE_BYTES)
    except (NetworkError, CodecError, trio.TooSlowError):
        return None


def test_only_checkers_get_texts_and_only_what_they_need() -> None:
    async def play(world: World, witness: CheckWitness) -> None:
        hold, check = await find_open_check(world, CHECK_COMMIT)
        checkers = {world.find(seat.public_key) for seat in check.seats}
        executor = world.find(check.executor)
        for asker in range(len(world.members)):
            for kind in TextKind:
                if asker == executor:
                    continue
                head = await ask_for(world, asker, check.executor, hold, kind)
                is_due = asker in checkers and kind is not TextKind.ANSWER
                assert head is not None and (head.salt is not None) == is_due, (asker, kind)
        await witness.wait_settled(1)
        await trio.sleep(5)
        for asker in checkers:
            head = await ask_for(world, asker, check.executor, hold, TextKind.TRANSCRIPT)
            assert head is not None and head.salt is None, "the check is over"

    simulate_checks(play)


def test_a_holder_that_hands_over_something_else_has_handed_over_nothing() -> None:
    async def play(world: World, witness: CheckWitness) -> None:
        for member in world.members[1:]:
            table = get_runner(member).table
            load = table.load

            def hand_over_another(hold: bytes, kind: TextKind, load: Callable[..., object] = load) -> object:
                found = load(hold, kind)
                return (b"x" * 16, b"another") if found is not None and kind is TextKind.TRANSCRIPT else found

            table.load = hand_over_another  # type: ignore[method-assign, assignment]
        event = await check_one(world, witness, 0)
        assert event.finding.outcome is CheckOutcome.NO_TRANSCRIPT
        assert all(get_model_backend(member).questions <= 10 for member in world.members[1:])

    simulate_checks(play)
