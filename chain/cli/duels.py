"""Duels for people and, as JSON, for other programs."""

from __future__ import annotations

from typing import Any

from chain.amounts import format_credits
from chain.audit.duels import DuelCounts, DuelHistory
from chain.cli.text import format_count
from chain.crypto import format_address
from chain.printable import escape_unprintable
from chain.state.duel_records import STAGES, JudgeSeat
from chain.transition.duels.verdict import DuelVerdict
from chain.types.duels import ABSTAIN, IDENTICAL, A, B


def duel_to_plain(history: DuelHistory) -> dict[str, Any]:
    """A duel as JSON."""
    duel = history.duel
    return {
        "hold": history.hold.hex(),
        "opened_at": history.opened_at,
        "settled_at": history.settled_at,
        "stage": None if history.verdict is not None else STAGES[duel.stage],
        "verdict": None if history.verdict is None else history.verdict.value,
        "first_verdict": None if history.first_verdict is None else history.first_verdict.value,
        "model": duel.model,
        "amount": duel.amount,
        "payer": format_address(duel.payer),
        "executor": format_address(duel.executor),
        "challenger": None if duel.challenger is None else format_address(duel.challenger),
        "silent": [format_address(key) for key in duel.silent],
        "request_digest": duel.request_digest.hex(),
        "response_digest": duel.response_digest.hex(),
        "answer_digest": None if duel.answer_digest is None else duel.answer_digest.hex(),
        "first_judges": [_seat_to_plain(seat) for seat in history.first_seats],
        "judges": [_seat_to_plain(seat) for seat in duel.all_seats],
        "movements": [
            {"account": format_address(each.public_key), "amount": each.amount} for each in history.movements
        ],
    }


def _seat_to_plain(seat: JudgeSeat) -> dict[str, Any]:
    return {
        "account": format_address(seat.public_key),
        "model": seat.judge.model,
        "prompt_digest": seat.judge.prompt_digest.hex(),
        "repeats": None if seat.repeats is None else format_address(seat.repeats),
        "vote": _describe_vote(seat),
    }


def _describe_vote(seat: JudgeSeat) -> str | None:
    """What a judge said, with the answers by their authors; None without a ballot."""
    if seat.ballot is None:
        return None
    names = {A: "challenger", B: "executor"} if seat.is_reversed else {A: "executor", B: "challenger"}
    parts = [{**names, IDENTICAL: "identical", ABSTAIN: "abstains"}.get(seat.ballot.better, "draw")]
    for what, answers in (("unusable", seat.ballot.unusable), ("not obtained", seat.ballot.missing)):
        parts += [f"{name} {what}" for bit, name in names.items() if answers & bit]
    return ", ".join(parts)


def describe_duel(history: DuelHistory) -> str:
    """A duel as a few lines of text."""
    plain, duel = duel_to_plain(history), history.duel
    opened = "before this chain begins" if history.opened_at is None else f"block {history.opened_at}"
    end = plain["stage"] or f"{plain['verdict']}, block {history.settled_at}"
    end = end if history.first_verdict is None else f"accused ({plain['first_verdict']}); {end}"
    model = escape_unprintable(duel.model)
    lines = [
        f"{plain['hold'][:16]}  {model}, {format_credits(duel.amount)} credits; opened {opened}; {end}",
        f"  executor    {plain['executor']}  {plain['response_digest'][:16]}",
    ]
    if plain["challenger"] is not None:
        digest = plain["answer_digest"]
        lines.append(f"  challenger  {plain['challenger']}  {'no answer' if digest is None else digest[:16]}")
    lines += [f"  silent      {address}" for address in plain["silent"]]
    lines += [
        f"  {'judge' if each['repeats'] is None else 'repeater':<10}  {each['account']}  "
        f"{escape_unprintable(each['model'])}: {each['vote'] or 'no ballot'}"
        for each in (*plain["first_judges"], *plain["judges"])
    ]
    lines += [f"  {format_credits(each['amount']):>14}  {each['account']}" for each in plain["movements"]]
    return "\n".join(lines)


def describe_counts(counts: DuelCounts) -> list[str]:
    """The duels of a chain in sum, as lines of a report; none if there was no duel."""
    if not counts.duels and not counts.solo_checks and not counts.verdicts:
        return []
    verdicts = ", ".join(f"{verdict.value} {number:,}" for verdict, number in _sort_verdicts(counts))
    return [
        f"  duels        {format_count(counts.duels, 'duel')}, {format_count(counts.solo_checks, 'solo check')}; "
        f"{format_count(counts.silent, 'silent challenger')}, {format_count(counts.repeated, 'vote')} repeated, "
        f"{format_count(counts.accused, 'accusation')}; "
        f"{format_credits(counts.paid)} credits paid, {format_credits(counts.taken)} taken",
        f"    {verdicts or 'none is settled'}",
    ]


def _sort_verdicts(counts: DuelCounts) -> list[tuple[DuelVerdict, int]]:
    """The commonest first."""
    return sorted(counts.verdicts.items(), key=lambda item: (-item[1], item[0].value))


def counts_to_plain(counts: DuelCounts) -> dict[str, Any]:
    """The duels of a chain in sum, as JSON."""
    return {
        "duels": counts.duels,
        "solo_checks": counts.solo_checks,
        "silent_challengers": counts.silent,
        "repeated_votes": counts.repeated,
        "accusations": counts.accused,
        "verdicts": {verdict.value: number for verdict, number in _sort_verdicts(counts)},
        "paid": counts.paid,
        "taken": counts.taken,
    }
