"""Vectors of checks of the model: a chain on which they end in every way, and operations that cannot be included."""

from __future__ import annotations

from dataclasses import replace

from chain.exceptions import InvalidOperation
from chain.state.check_records import CHECK_COMMIT
from chain.state.state import StateOverlay
from chain.transition.checks.events import CheckEvent, CheckOpened, CheckSettled
from chain.transition.context import BlockContext
from chain.transition.operations import process_operation
from chain.types.checks import ABSTAINED, NO_TRANSCRIPT, NOT_CHECKABLE, CheckReport, make_measured_report
from chain.types.operations import SignedOperation
from tests.support.chains.check_chain import CHECK_PARAMETERS, CHECKS, FAILED, PASSED, CheckChain
from tests.support.chains.duel_chain import QUICK
from tests.vectors.ledger import describe_block, dump_state
from tests.vectors.plain import Json

PARAMETERS = replace(
    CHECK_PARAMETERS, deposit_per_byte=2, checks=replace(CHECKS, honest_shortfall_ppm=100, honest_distance_ppm=100)
)
"""Two failed checks are a substitution."""
MISSING, UNCHECKABLE, ABSENT = (CheckReport(kind) for kind in (NO_TRANSCRIPT, NOT_CHECKABLE, ABSTAINED))

PANELS: tuple[list[CheckReport | None], ...] = (
    [PASSED, PASSED, PASSED],
    [PASSED, PASSED, FAILED],
    [UNCHECKABLE, UNCHECKABLE, PASSED],
    [make_measured_report(2.3, 0.01), make_measured_report(2.7, 0.01), ABSENT],
    [make_measured_report(-3.0, 0.01), make_measured_report(0.0, 0.01), make_measured_report(3.0, 0.01)],
    [MISSING, ABSENT, ABSENT],
    [FAILED, FAILED, FAILED],
    [MISSING, MISSING, FAILED],
    [FAILED, FAILED, make_measured_report(0.0, 0.6)],
    [PASSED, FAILED, None],
    [None, None, None],
)
"""What the checkers of the first checks report; the others are never reported on."""


def make_check_chain() -> CheckChain:
    """A chain on which the checks of :data:`PANELS` take place, nearly all of answers of one account."""
    chain = CheckChain(5, stakes=[900_000, *[10_000] * 4], parameters=PARAMETERS)
    chain.pay_answers(40)
    panels = list(PANELS)
    while panels:
        chain.append(elapsed=QUICK)
        for hold in [hold for hold, events in chain.check_events.items() if len(events) == 1]:
            check = chain.state.model_check(hold)
            if check is not None and check.stage == CHECK_COMMIT and panels:
                chain.report(hold, panels.pop(0))
    for _ in range(16):  # what is left runs out
        chain.append(elapsed=10_000)
    return chain


def make_checks() -> Json:
    """The chain of :func:`make_check_chain`, block by block."""
    chain = make_check_chain()
    blocks = []
    for height, (block, failures) in enumerate(zip(chain.blocks, chain.failures, strict=True), start=1):
        before, after = chain.states[height - 1], chain.states[height]
        case = describe_block(chain.genesis, before, after, block, chain.finality(block), failures)
        blocks.append({name: case[name] for name in ("height", "operations", "failed", "encoded", "state_root")})
    events = {hold.hex(): [_describe_event(event) for event in events] for hold, events in chain.check_events.items()}
    return {
        "description": (
            "A chain on which checks of the model are drawn, reported and settled. 'events' says what happened to "
            "each, for orientation only; 'refused' has operations that cannot be included in the block after the "
            "height given."
        ),
        "section": "7.8, 9.6",
        "genesis": chain.genesis.encode().hex(),
        "genesis_state": dump_state(chain.genesis.state),
        "blocks": blocks,
        "events": events,
        "refused": _list_refused(),
    }


def _describe_event(event: CheckEvent) -> Json:
    match event:
        case CheckOpened():
            return {"checkers": len(event.check.seats)}
        case CheckSettled():
            moved = [[each.public_key.hex(), each.amount] for each in event.movements]
            outcome = "substitution" if event.is_substitution else event.finding.outcome.value
            return {"outcome": outcome, "counted": event.finding.is_counted, "moved": moved}


def _list_refused() -> Json:
    """Operations that do not fit a check, in each of its stages, on a chain of their own."""
    chain = CheckChain(6)
    chain.has_transcripts = False
    hold = chain.open_check()
    check = chain.check(hold)
    first, second, third = check.seats
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

    commitment = chain.commit_report(hold, first, MISSING)
    elsewhere = replace(commitment.operation, hold=bytes(32))  # type: ignore[arg-type]
    refuse("a commitment about a hold without a check", chain.sign(chain.keys[first.public_key], elsewhere))
    refuse("a commitment of the executor", chain.commit_report(hold, replace(first, public_key=check.executor), PASSED))
    refuse("a report before all have committed", chain.reveal_report(hold, first, MISSING))
    chain.append([commitment], elapsed=QUICK)
    refuse("a second commitment", chain.commit_report(hold, first, UNCHECKABLE))
    copied = chain.sign(chain.keys[second.public_key], commitment.operation)
    chain.append([copied, chain.commit_report(hold, third, PASSED)], elapsed=QUICK)
    refuse("a commitment too late", chain.commit_report(hold, second, MISSING))
    refuse("another report than the one committed to", chain.reveal_report(hold, first, UNCHECKABLE))
    opened = chain.reveal_report(hold, first, MISSING)
    refuse("the report of a copied commitment", chain.sign(chain.keys[second.public_key], opened.operation))
    refuse("a measurement of no transcript", chain.reveal_report(hold, third, PASSED))
    chain.append([opened], elapsed=QUICK)
    refuse("a report twice", opened)
    chain.let_check_run_out(hold)
    refuse("a report after the check was settled", chain.reveal_report(hold, third, PASSED))
    return {
        "genesis": chain.genesis.encode().hex(),
        "blocks": [block.encoded.hex() for block in chain.blocks],
        "cases": cases,
    }
