"""Checks of the model for people and, as JSON, for other programs."""

from __future__ import annotations

from typing import Any

from chain.amounts import format_credits
from chain.audit.checks import CheckCounts, ListedCheck
from chain.cli.text import format_count
from chain.crypto import format_address
from chain.printable import escape_unprintable
from chain.state.check_records import CHECK_STAGES
from chain.transition.checks.finding import CheckOutcome
from chain.types.checks import ABSTAINED, MEASURED, NO_TRANSCRIPT, NOT_CHECKABLE, SHORTFALL_OFFSET, CheckReport

_KINDS = {
    MEASURED: "measured",
    NO_TRANSCRIPT: "no transcript",
    NOT_CHECKABLE: "not checkable",
    ABSTAINED: "abstained",
}


def check_to_plain(listed: ListedCheck) -> dict[str, Any]:
    """A check as JSON; shortfalls are in standard deviations, distances probabilities."""
    check, settled = listed.check, listed.settled
    finding = None if settled is None else settled.finding
    return {
        "hold": listed.hold.hex(),
        "opened_at": listed.opened_at,
        "settled_at": listed.settled_at,
        "stage": CHECK_STAGES[check.stage] if settled is None else None,
        "outcome": None if finding is None else finding.outcome.value,
        "counted": None if finding is None else finding.is_counted,
        "substitution": None if settled is None else settled.is_substitution,
        "shortfall": None if finding is None or finding.shortfall is None else finding.shortfall / 1_000,
        "distance": None if finding is None or finding.distance is None else finding.distance / 1_000_000,
        "model": check.model,
        "identity": check.identity.hex(),
        "amount": check.amount,
        "payer": format_address(check.payer),
        "executor": format_address(check.executor),
        "transcript_digest": None if check.transcript_digest is None else check.transcript_digest.hex(),
        "checkers": [
            {"account": format_address(seat.public_key), "report": _describe_report(seat.report)}
            for seat in check.seats
        ],
        "movements": [
            {"account": format_address(each.public_key), "amount": each.amount}
            for each in (() if settled is None else settled.movements)
        ],
    }


def _describe_report(report: CheckReport | None) -> str | None:
    """What a checker said; None without a report."""
    if report is None:
        return None
    if report.kind != MEASURED:
        return _KINDS[report.kind]
    shortfall = (report.shortfall - SHORTFALL_OFFSET) / 1_000
    return f"shortfall {shortfall:.3f}, distance {report.distance / 1_000_000:.6f}"


def describe_check(listed: ListedCheck) -> str:
    """A check as a few lines of text."""
    plain, check = check_to_plain(listed), listed.check
    opened = "before this chain begins" if listed.opened_at is None else f"block {listed.opened_at}"
    end = plain["stage"] or f"{plain['outcome']}, block {listed.settled_at}"
    if plain["shortfall"] is not None:
        end += f": shortfall {plain['shortfall']:.3f}, distance {plain['distance']:.6f}"
    if plain["counted"] is False:
        end += "; does not count"
    if plain["substitution"]:
        end += "; SUBSTITUTION"
    lines = [
        f"{plain['hold'][:16]}  {escape_unprintable(check.model)}, {format_credits(check.amount)} credits; "
        f"opened {opened}; {end}",
        f"  executor    {plain['executor']}  identity {plain['identity'][:16]}",
    ]
    lines += [f"  checker     {each['account']}: {each['report'] or 'no report'}" for each in plain["checkers"]]
    lines += [f"  {format_credits(each['amount']):>14}  {each['account']}" for each in plain["movements"]]
    return "\n".join(lines)


def describe_check_counts(counts: CheckCounts) -> list[str]:
    """The checks of a chain in sum, as lines of a report; none if there was no check."""
    if not counts.checks and not counts.outcomes:
        return []
    outcomes = ", ".join(f"{outcome.value} {number:,}" for outcome, number in _sort_outcomes(counts))
    return [
        f"  checks       {format_count(counts.checks, 'check')} of the model, "
        f"{format_count(counts.substitutions, 'substitution')}; "
        f"{format_credits(counts.paid)} credits paid, {format_credits(counts.taken)} taken",
        f"    {outcomes or 'none is settled'}",
    ]


def _sort_outcomes(counts: CheckCounts) -> list[tuple[CheckOutcome, int]]:
    """The commonest first."""
    return sorted(counts.outcomes.items(), key=lambda item: (-item[1], item[0].value))


def check_counts_to_plain(counts: CheckCounts) -> dict[str, Any]:
    """The checks of a chain in sum, as JSON."""
    return {
        "checks": counts.checks,
        "substitutions": counts.substitutions,
        "outcomes": {outcome.value: number for outcome, number in _sort_outcomes(counts)},
        "paid": counts.paid,
        "taken": counts.taken,
    }
