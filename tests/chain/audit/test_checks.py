"""Checks of the model in the audit: counted and shown as they were, and departures from the rules found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chain.audit.audit import audit_chain
from chain.audit.checks import list_checks
from chain.audit.report import Report
from chain.audit.sources import StoreSource
from chain.cli.app import build_app
from chain.cli.report_text import describe_report, report_to_plain
from chain.crypto import format_address
from chain.store.kv import LevelStore
from chain.transition.checks import settlement
from chain.transition.checks.events import CheckSettled
from chain.transition.checks.finding import CheckOutcome
from tests.support.chains.chain_store import ListSource, fill_store
from tests.support.chains.check_chain import FAILED, PASSED, CheckChain
from tests.vectors.checks import make_check_chain


def audit(chain: CheckChain) -> Report:
    entries = [(block.encoded, chain.finality(block).encode()) for block in chain.blocks]
    return audit_chain(ListSource(chain.genesis, entries, len(entries)), threads=1)


@pytest.fixture(scope="module")
def full() -> CheckChain:
    """A chain on which checks end in every way."""
    return make_check_chain()


def test_the_audit_counts_what_happened(full: CheckChain) -> None:
    report = audit(full)
    assert report.ok, report.fault
    settled = [event for events in full.check_events.values() for event in events if isinstance(event, CheckSettled)]
    counts = report.checks
    assert counts.checks == len(full.check_events) == len(settled) == counts.outcomes.total()
    assert set(counts.outcomes) == {*CheckOutcome} and counts.substitutions == 1
    moved = [each.amount for event in settled for each in event.movements]
    assert counts.paid - counts.taken == sum(moved) and counts.paid == sum(each for each in moved if each > 0)
    assert f"{len(settled)} checks of the model, 1 substitution;" in describe_report(report)
    assert report_to_plain(report)["checks"]["outcomes"]["passed"] == counts.outcomes[CheckOutcome.PASSED]


def test_the_command_shows_every_check(full: CheckChain, tmp_path: Path) -> None:
    store = LevelStore(tmp_path / "chain")
    fill_store(store, full, {block.height: full.finality(block) for block in full.blocks})
    found = list_checks(StoreSource(store))
    store.close()
    assert [listed.hold for listed in found] == list(full.check_events)
    shown = json.loads(CliRunner().invoke(build_app(), ["show", "--checks", "-d", str(tmp_path), "--json"]).stdout)
    for plain, events in zip(shown, full.check_events.values(), strict=True):
        last = events[-1]
        assert isinstance(last, CheckSettled) and plain["outcome"] == last.finding.outcome.value
        assert plain["opened_at"] < plain["settled_at"] and plain["executor"] == format_address(last.check.executor)
        assert [each["amount"] for each in plain["movements"]] == [each.amount for each in last.movements]
        reports = [each["report"] is None for each in plain["checkers"]]
        assert reports == [seat.report is None for seat in last.check.seats]
    text = CliRunner().invoke(build_app(), ["show", "--checks", "-d", str(tmp_path)]).stdout
    assert text.count("  executor    ") == len(found) and text.count("SUBSTITUTION") == 1
    assert "shortfall 9.000, distance 0.400000" in text and "no report" in text and "not checkable" in text


def test_a_check_that_is_not_settled_is_shown_as_it_stands(tmp_path: Path) -> None:
    chain = CheckChain()
    hold = chain.open_check()
    store = LevelStore(tmp_path / "chain")
    fill_store(store, chain, {block.height: chain.finality(block) for block in chain.blocks})
    store.close()
    text = CliRunner().invoke(build_app(), ["show", "--checks", "-d", str(tmp_path)]).stdout
    assert f"{hold.hex()[:16]}  smol, 0.002000 credits; opened block {chain.head.height}; waits for commitments" in text


@pytest.mark.parametrize("what", ["finding", "fine"])
def test_validators_that_bend_a_rule_are_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them run the same altered program, and certify what it makes."""
    chain = CheckChain()
    real_decide, real_dues = settlement.decide, settlement.compute_dues
    with monkeypatch.context() as patch:
        if what == "finding":
            patch.setattr(settlement, "decide", lambda *args: replace(real_decide(*args), shortfall_failed=False))
        else:
            patch.setattr(settlement, "compute_dues", lambda *args: [due for due in real_dues(*args) if due.amount > 0])
        chain.report(chain.open_check(), [FAILED, FAILED, PASSED])
    fault = audit(chain).fault
    assert fault is not None and (fault.height, fault.field) == (chain.head.height, "state_root")
