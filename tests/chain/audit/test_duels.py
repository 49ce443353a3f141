"""Duels in the audit: counted and shown as they were, and every departure from the rules found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chain.audit.audit import audit_chain
from chain.audit.duels import list_duels
from chain.audit.report import Report
from chain.audit.sources import StoreSource
from chain.cli.app import build_app
from chain.cli.report_text import describe_report, report_to_plain
from chain.crypto import format_address
from chain.state.duel_records import Duel, JudgeSeat
from chain.state.state import StateReader
from chain.store.kv import LevelStore
from chain.transition.duels import opening, settlement
from chain.transition.duels.events import ChallengerReplaced, DuelOpened, DuelSettled, ExecutorAccused
from chain.transition.duels.verdict import DuelVerdict, Finding, decide
from chain.types.blocks import sign_block
from chain.types.operations import SignedOperation
from tests.support.chains.chain_store import ListSource, fill_store
from tests.support.chains.duel_chain import CHALLENGER, EXECUTOR, DuelChain
from tests.vectors.duels import make_duel_chain


def audit(chain: DuelChain) -> Report:
    entries = [(block.encoded, chain.finality(block).encode()) for block in chain.blocks]
    return audit_chain(ListSource(chain.genesis, entries, len(entries)), threads=1)


@pytest.fixture(scope="module")
def full() -> DuelChain:
    """A chain on which duels end in every way."""
    return make_duel_chain()


def test_the_audit_counts_what_happened(full: DuelChain) -> None:
    report = audit(full)
    assert report.ok, report.fault
    events = [event for events in full.events.values() for event in events]
    opened = [event for event in events if isinstance(event, DuelOpened)]
    settled = [event for event in events if isinstance(event, DuelSettled)]
    replaced = [event for event in events if isinstance(event, ChallengerReplaced)]
    counts = report.duels
    assert counts.duels + counts.solo_checks == len(opened) == len(settled) > 10
    assert counts.solo_checks == sum(event.duel.challenger is None for event in opened) > 0
    accused = [event for event in events if isinstance(event, ExecutorAccused)]
    assert counts.verdicts.total() == len(settled) and counts.accused == len(accused) > 0
    assert {*counts.verdicts, *(event.verdict for event in accused)} == {*DuelVerdict}
    assert counts.silent == len(replaced) + counts.verdicts[DuelVerdict.UNANSWERED]
    moved = [movement.amount for event in settled for movement in event.movements]
    moved += [movement.amount for event in accused for movement in event.movements]
    moved += [event.fine.amount for event in replaced]
    assert counts.paid - counts.taken == sum(moved) and counts.paid == sum(each for each in moved if each > 0)
    assert f"{len(settled) - counts.solo_checks} duels, {counts.solo_checks} solo checks" in describe_report(report)
    assert report_to_plain(report)["duels"]["verdicts"]["executor won"] == counts.verdicts[DuelVerdict.EXECUTOR_WON]


def test_the_command_shows_every_duel(full: DuelChain, tmp_path: Path) -> None:
    finals = {block.height: full.finality(block) for block in full.blocks}
    store = LevelStore(tmp_path / "chain")
    fill_store(store, full, finals)
    found = list_duels(StoreSource(store))
    store.close()
    assert [history.hold for history in found] == list(full.events)
    result = CliRunner().invoke(build_app(), ["show", "--duels", "-d", str(tmp_path), "--json"])
    shown = json.loads(result.stdout)
    for plain, history, events in zip(shown, found, full.events.values(), strict=True):
        last = events[-1]
        assert isinstance(last, DuelSettled) and plain["verdict"] == last.verdict.value
        assert full.blocks[plain["opened_at"] - 1].height < full.blocks[plain["settled_at"] - 1].height
        assert plain["executor"] == format_address(last.duel.executor)
        assert [each["amount"] for each in plain["movements"]] == [each.amount for each in history.movements]
        votes = [judge["vote"] for judge in plain["judges"]]
        assert [vote is None for vote in votes] == [seat.ballot is None for seat in last.duel.all_seats]
        repeats = [judge["repeats"] for judge in plain["judges"]]
        assert repeats == [seat.repeats and format_address(seat.repeats) for seat in last.duel.all_seats]
        if last.verdict is DuelVerdict.EXECUTOR_WON:
            counted = [vote for vote, of in zip(votes, repeats, strict=True) if vote is not None and of is None]
            assert sum(vote.startswith("executor") for vote in counted) * 2 > len(counted)
    text = CliRunner().invoke(build_app(), ["show", "--duels", "-d", str(tmp_path)]).stdout
    assert text.count("  executor    ") == len(found)
    assert "  repeater    " in text and "abstains" in text
    assert "executor not obtained" in text and "no ballot" in text and "solo, 0.002000 credits" in text


def test_a_duel_that_is_not_settled_is_shown_as_it_stands(tmp_path: Path) -> None:
    chain = DuelChain()
    hold = chain.open_duel()
    store = LevelStore(tmp_path / "chain")
    fill_store(store, chain, {block.height: chain.finality(block) for block in chain.blocks})
    store.close()
    text = CliRunner().invoke(build_app(), ["show", "--duels", "-d", str(tmp_path)]).stdout
    assert f"{hold.hex()[:16]}  smol, 0.002000 credits; opened block {chain.head.height}; waits for an answer" in text


def forge(chain: DuelChain, operation: SignedOperation) -> Report:
    """An audit of a chain whose last block has one operation more, as all validators say."""
    block = chain.blocks[-1]
    body = replace(block.body, operations=(*block.body.operations, operation))
    key = chain.keys[block.header.proposer]
    chain.blocks[-1] = sign_block(key, replace(block.header, body_root=body.root), body)
    return audit(chain)


@pytest.mark.parametrize("what", ["of another", "twice", "about no duel"])
def test_an_answer_that_is_out_of_place_is_found(what: str) -> None:
    chain = DuelChain()
    hold = chain.open_duel()
    duel, answer = chain.duel(hold), chain.answer(hold)
    if what == "of another":
        answer = chain.answer(hold, chain.keys[duel.executor])
    elif what == "about no duel":
        answer = chain.sign(chain.keys[answer.signer], replace(answer.operation, hold=bytes(32)))  # type: ignore[arg-type]
    else:
        chain.append([answer])
    chain.append()
    fault = forge(chain, answer).fault
    assert fault is not None and (fault.height, fault.field) == (chain.head.height, "operations")


@pytest.mark.parametrize("what", ["judges", "challenger", "verdict", "penalty"])
def test_validators_that_bend_a_rule_are_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them run the same altered program, and certify what it makes."""
    chain = DuelChain()
    with monkeypatch.context() as patch:
        bend(patch, what, chain)
        hold = chain.open_duel()
        if what in ("judges", "challenger"):
            bent_at = chain.head.height
        else:
            chain.judge(hold, chain.agree(hold, CHALLENGER if what == "penalty" else EXECUTOR))
            bent_at = chain.head.height
    fault = audit(chain).fault
    assert fault is not None and (fault.height, fault.field) == (bent_at, "state_root")


def bend(patch: pytest.MonkeyPatch, what: str, chain: DuelChain) -> None:
    """Change one rule."""
    friends = [key.public_key for key in chain.validators]
    if what == "judges":
        real = opening.draw_seats

        def choose_seats(*arguments: object) -> tuple[JudgeSeat, ...]:
            seats = real(*arguments)  # type: ignore[arg-type]
            free = [key for key in friends if key not in arguments[3] and key not in {s.public_key for s in seats}]  # type: ignore[operator]
            return (replace(seats[0], public_key=free[0]), *seats[1:])

        patch.setattr(opening, "draw_seats", choose_seats)
    elif what == "challenger":
        drawn = opening.draw_challenger

        def choose_challenger(state: StateReader, model: str, seed: bytes, excluded: set[bytes]) -> bytes | None:
            first = drawn(state, model, seed, excluded)
            return drawn(state, model, seed, {*excluded, first or b""})

        patch.setattr(opening, "draw_challenger", choose_challenger)
    elif what == "verdict":

        def let_it_lose(duel: Duel) -> Finding:
            return replace(decide(duel), verdict=DuelVerdict.EXECUTOR_LOST)

        patch.setattr(settlement, "decide", let_it_lose)
    else:
        patch.setattr(
            settlement,
            "compute_dues",
            lambda *arguments: [each for each in compute_dues(*arguments) if each.amount > 0],
        )


compute_dues = settlement.compute_dues
