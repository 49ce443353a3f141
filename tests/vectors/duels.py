"""Vectors of duels: a chain on which they end in every way, and operations of duels that cannot be included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle

from chain.exceptions import InvalidOperation
from chain.state.duel_records import REVEAL
from chain.state.state import StateOverlay
from chain.transition.context import BlockContext
from chain.transition.duels.events import (
    ChallengerReplaced,
    DuelEvent,
    DuelOpened,
    DuelSettled,
    ExecutorAccused,
    VotesRepeated,
)
from chain.transition.operations import process_operation
from chain.types.duels import ABSTAIN, DRAW, IDENTICAL, DuelBallot
from chain.types.operations import SignedOperation
from tests.support.chain_builder import MODEL
from tests.support.chains.duel_chain import (
    CHALLENGER,
    EXECUTOR,
    JUDGE,
    NEITHER,
    QUICK,
    REPEATING,
    SAME,
    SOLO_MODEL,
    DuelChain,
    make_ballot,
)
from tests.vectors.ledger import describe_block, dump_state
from tests.vectors.plain import Json

Votes = Callable[[DuelChain, bytes], list[DuelBallot | None]]


def _agree(better: str, unusable: tuple[str, ...] = (), missing: tuple[str, ...] = ()) -> Votes:
    return lambda chain, hold: list(chain.agree(hold, better, unusable=unusable, missing=missing))


def _differ(*opinions: str | None) -> Votes:
    return lambda chain, hold: [
        None if better is None else make_ballot(seat, better)
        for seat, better in zip(chain.duel(hold).seats, opinions, strict=True)
    ]


COMPARED: tuple[Votes, ...] = (
    _agree(EXECUTOR),
    _agree(CHALLENGER),
    _agree(SAME),
    _differ(EXECUTOR, CHALLENGER, NEITHER),
    _differ(EXECUTOR, None, CHALLENGER),
    _agree(EXECUTOR, unusable=(CHALLENGER,)),
    _agree(NEITHER, missing=(EXECUTOR,)),
    _agree(NEITHER, missing=(CHALLENGER,)),
    _differ(None, None, None),
    _agree(CHALLENGER, unusable=(EXECUTOR,)),
    _agree(CHALLENGER, unusable=(EXECUTOR,)),
    *[_agree(EXECUTOR)] * 12,
)
"""How the judges of the first duels vote; the challengers of those that follow are silent."""
CHECKED: tuple[Votes, ...] = (
    _agree(NEITHER),
    _agree(NEITHER, unusable=(EXECUTOR,)),
    _agree(NEITHER, missing=(EXECUTOR,)),
)
"""How those of the first solo checks do."""


def make_duel_chain() -> DuelChain:
    """A chain on which the duels and solo checks of :data:`COMPARED` and :data:`CHECKED` take place, and a few more."""
    chain = DuelChain(13, parameters=REPEATING)
    chain.pay_answers(24)
    chain.pay_answers(16, model=SOLO_MODEL)
    chain.pay_answers(2, reason="cancelled")
    scripts = {False: list(COMPARED), True: list(CHECKED)}
    panels = [True, False, True, False]
    """Whether a second panel confirms what the first one said."""
    differing = [DuelBallot(DRAW, 2), DuelBallot(IDENTICAL), DuelBallot(IDENTICAL, 1)]
    outcomes: Iterator[DuelBallot | None] = cycle([*differing * 3, None, DuelBallot(ABSTAIN)])
    """How repeated votes come out, when they differ."""
    while any(scripts.values()):
        if chain.head.height % 60 == 0:  # some run out while others are voted on
            chain.pay_answers(12)
        chain.append(elapsed=QUICK)
        while found := [(hold, is_solo) for hold, is_solo in _find_fresh(chain) if scripts[is_solo]]:
            hold, is_solo = max(found, key=lambda each: each[1])  # solo checks first: there are few
            again = {seat.public_key: next(outcomes) for seat in chain.duel(hold).seats}
            event = chain.judge(hold, scripts[is_solo].pop(0)(chain, hold), again)
            if isinstance(event, ExecutorAccused):
                agree = _agree(NEITHER, unusable=(EXECUTOR,))(chain, hold)
                chain.judge(hold, agree if panels.pop() else [*agree[:3], *_agree(NEITHER)(chain, hold)[3:]])
    guessers = [key for key in chain.validators if chain.state.judge_record(key.public_key).benched_until]
    chain.append([chain.serve(key, MODEL, judge=JUDGE) for key in guessers])
    assert guessers and all(chain.failures[-1])
    chain.open_duel()
    for _ in range(5):  # the parties of those that are left are silent
        chain.append(elapsed=10_000)
    return chain


def _find_fresh(chain: DuelChain) -> Iterator[tuple[bytes, bool]]:
    """The duels that were opened and in which nothing happened yet, and whether they are solo checks."""
    for hold, events in chain.events.items():
        if len(events) == 1 and (duel := chain.state.duel(hold)) is not None:
            yield hold, duel.challenger is None


def make_duels() -> Json:
    """The chain of :func:`make_duel_chain`, block by block."""
    chain = make_duel_chain()
    blocks = []
    for height, (block, failures) in enumerate(zip(chain.blocks, chain.failures, strict=True), start=1):
        before, after = chain.states[height - 1], chain.states[height]
        case = describe_block(chain.genesis, before, after, block, chain.finality(block), failures)
        blocks.append({name: case[name] for name in ("height", "operations", "failed", "encoded", "state_root")})
    return {
        "description": (
            "A chain on which duels and solo checks are drawn, answered, judged and settled. 'events' says what "
            "happened to each, for orientation only; 'refused' has operations that cannot be included in the block "
            "after the height given."
        ),
        "section": "7.7, 9.6",
        "genesis": chain.genesis.encode().hex(),
        "genesis_state": dump_state(chain.genesis.state),
        "blocks": blocks,
        "events": {hold.hex(): [_describe_event(event) for event in events] for hold, events in chain.events.items()},
        "refused": _list_refused(),
    }


def _describe_event(event: DuelEvent) -> Json:
    match event:
        case DuelOpened():
            return {"opened": "solo check" if event.duel.challenger is None else "duel"}
        case ChallengerReplaced():
            return {"silent": event.fine.public_key.hex(), "fine": -event.fine.amount}
        case VotesRepeated():
            return {"repeated": [[seat.voter.hex(), seat.public_key.hex()] for seat in event.duel.repeats]}
        case ExecutorAccused():
            moved = [[each.public_key.hex(), each.amount] for each in event.movements]
            return {"accused": event.verdict.value, "moved": moved}
        case DuelSettled():
            moved = [[each.public_key.hex(), each.amount] for each in event.movements]
            return {"verdict": event.verdict.value, "moved": moved}


def _list_refused() -> Json:
    """Operations that do not fit a duel, in each of its stages, on a chain of their own."""
    chain = DuelChain(6)
    hold = chain.open_duel()
    duel = chain.duel(hold)
    challenger, executor = chain.keys[duel.challenger or b""], chain.keys[duel.executor]
    first, second = duel.seats[:2]
    ballot, other = make_ballot(first, EXECUTOR), make_ballot(first, CHALLENGER)
    cases: list[Json] = []

    def refuse(what: str, signed: SignedOperation) -> None:
        context = BlockContext.after(chain.genesis, chain.head)
        try:
            process_operation(StateOverlay(chain.state), context, signed)
        except InvalidOperation as error:
            encoded = signed.encoded.hex()
            cases.append({"what": what, "height": chain.head.height, "encoded": encoded, "reason": str(error)})
        else:
            raise AssertionError(f"included: {what}")

    answer = chain.answer(hold)
    refuse("an answer about a hold without a duel", chain.sign(challenger, replace(answer.operation, hold=bytes(32))))  # type: ignore[arg-type]
    refuse("an answer of the executor", chain.answer(hold, executor))
    refuse("a commitment before the answer", chain.commit(hold, first, ballot))
    chain.append([answer])
    refuse("an answer after the answer", chain.sign(challenger, replace(answer.operation, answer_digest=bytes(32))))  # type: ignore[arg-type]
    stranger = replace(first, public_key=executor.public_key)
    refuse("a commitment of the executor", chain.commit(hold, stranger, ballot))
    refuse("a ballot before all have committed", chain.reveal(hold, first, ballot))
    chain.append([chain.commit(hold, first, ballot)])
    refuse("a second commitment", chain.commit(hold, first, other))
    commitment = chain.commit(hold, first, ballot).operation
    copied = chain.sign(chain.keys[second.public_key], commitment)
    chain.append([copied, *(chain.commit(hold, seat, make_ballot(seat, EXECUTOR)) for seat in duel.seats[2:])])
    assert chain.duel(hold).stage == REVEAL
    refuse("a commitment too late", chain.commit(hold, second, ballot))
    refuse("another ballot than the one committed to", chain.reveal(hold, first, other))
    opened = chain.reveal(hold, first, ballot).operation
    refuse("the ballot of a copied commitment", chain.sign(chain.keys[second.public_key], opened))
    chain.append([chain.reveal(hold, first, ballot)])
    refuse("a ballot twice", chain.reveal(hold, first, ballot))
    chain.let_run_out(hold)
    refuse(
        "a ballot after the duel was settled", chain.reveal(hold, duel.seats[2], make_ballot(duel.seats[2], EXECUTOR))
    )
    return {
        "genesis": chain.genesis.encode().hex(),
        "blocks": [block.encoded.hex() for block in chain.blocks],
        "cases": cases,
    }
