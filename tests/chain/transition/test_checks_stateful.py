"""Checks of the model against their specification: random histories must leave both in the same state.

On top of what happens to duels (:mod:`tests.chain.transition.duel_machine`), identities are declared and
dropped, answers come with and without transcripts, and checkers report what they like, in time and too late.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from typing import ClassVar

import pytest
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from chain.crypto import hash_bytes
from chain.state.check_records import CHECK_COMMIT, CHECK_REVEAL, CheckerSeat, ModelCheck
from chain.state.duel_records import Duel
from chain.state.state import compute_supply
from chain.transition.checks.events import CheckSettled
from chain.transition.checks.finding import CheckOutcome
from chain.types.checks import CheckReport, DeclaredIdentity, make_measured_report
from tests.chain.specification.operations import DONE, REFUSED
from tests.chain.transition.duel_machine import RULES, STAKES, DuelMachine, indices, people
from tests.support.chain_builder import MODEL
from tests.support.chains.check_chain import CHECKS, FAILED, IDENTITY, PASSED, CheckChain
from tests.support.chains.duel_chain import JUDGE, QUICK

CHECK_RULES = replace(
    RULES,
    deposit_per_byte=1,
    checks=replace(CHECKS, commit_ms=2_000, reveal_ms=2_000, honest_shortfall_ppm=100, honest_distance_ppm=100),
)
reports = st.one_of(
    st.sampled_from([PASSED, FAILED, FAILED, CheckReport(2), CheckReport(2), CheckReport(3), CheckReport(4)]),
    st.builds(
        make_measured_report, st.sampled_from([0.0, 0.4, 0.8, 2.4, 2.6, 99.0]), st.sampled_from([0.0, 0.01, 0.06])
    ),
)
panels = st.one_of(
    st.lists(reports, min_size=3, max_size=3),
    reports.map(lambda report: [report] * 3),
    reports.map(lambda report: [report] * 3),
)


class CheckMachine(DuelMachine):
    findings: ClassVar[Counter[object]] = Counter()
    """How the checks of all histories ended."""

    def __init__(self) -> None:
        super().__init__()
        self.reported: dict[tuple[bytes, bytes], CheckReport] = {}
        """What each checker has committed to, by check."""

    def make_chain(self) -> CheckChain:
        chain = CheckChain(len(STAKES), stakes=STAKES, parameters=CHECK_RULES)
        chain.pay_answers(30)
        for _ in range(24):
            chain.append(elapsed=QUICK)
        return chain

    @property
    def check_chain(self) -> CheckChain:
        assert isinstance(self.chain, CheckChain)
        return self.chain

    def pick_check(self, index: int, stage: int) -> bytes | None:
        """The hold of a check in a stage, if there is one."""
        entries = self.chain.state.entries()
        checks = {leaf.key[1:]: leaf.record for leaf in entries if isinstance(leaf.record, ModelCheck)}
        fitting = sorted(hold for hold, check in checks.items() if check.stage == stage)
        return fitting[index % len(fitting)] if fitting else None

    def list_seats(self, hold: bytes, fault: str) -> list[CheckerSeat]:
        """Those that act: all checkers, or none but the executor."""
        check = self.check_chain.check(hold)
        return [CheckerSeat(check.executor)] * 3 if fault == "another" else [*check.seats]

    @rule(index=indices, panel=panels, absent=st.sampled_from([0, 0, 0, 1, 2]), fault=st.sampled_from(["", "another"]))
    def commit_reports(self, index: int, panel: list[CheckReport], absent: int, fault: str) -> None:
        hold = self.pick_check(index, CHECK_COMMIT)
        if hold is None:
            return
        for seat, report in list(zip(self.list_seats(hold, fault), panel, strict=False))[absent:]:
            self.reported[hold, seat.public_key] = report
            self.ask(self.check_chain.commit_report(hold, seat, report))

    @rule(
        index=indices,
        absent=st.sampled_from([0, 0, 0, 1]),
        fault=st.sampled_from(["", "", "another", "other report"]),
    )
    def reveal_reports(self, index: int, absent: int, fault: str) -> None:
        hold = self.pick_check(index, CHECK_REVEAL)
        if hold is None:
            return
        for seat in self.list_seats(hold, fault)[absent:]:
            report = CheckReport(4) if fault else self.reported.get((hold, seat.public_key), PASSED)
            self.ask(self.check_chain.reveal_report(hold, seat, report))

    @rule(digest=st.sampled_from([IDENTITY, IDENTITY, hash_bytes("other weights")]), who=st.sets(people, min_size=1))
    def declare(self, digest: bytes, who: set[int]) -> None:
        for number in sorted(who):
            key = self.chain.validators[number]
            identities = (DeclaredIdentity(MODEL, digest),)
            nonce = self.next_nonce(key)
            self.ask(self.chain.serve(key, MODEL, judge=JUDGE, identities=identities, nonce=nonce))

    @rule(has_transcripts=st.sampled_from([True, True, False]))
    def commit_to_transcripts(self, has_transcripts: bool) -> None:
        self.check_chain.has_transcripts = has_transcripts

    @rule(agreed=st.permutations([PASSED, FAILED, FAILED, *map(CheckReport, (2, 2, 3, 4))]))
    def agree(self, agreed: list[CheckReport]) -> None:
        """The checkers of each check that waits for commitments come to one report, of the next to another.

        The executor reports on itself beside them, in vain.
        """
        chain = self.check_chain
        self.make_block(1)
        for hold, report in zip([*chain.check_events], cycle(agreed), strict=False):
            check = chain.state.model_check(hold)
            if check is None or check.stage != CHECK_COMMIT:
                continue
            seats = [CheckerSeat(check.executor), *(seat for seat in check.seats if seat.commitment is None)]
            self.queue = [chain.commit_report(hold, seat, report) for seat in seats]
            self.make_block(1)
            self.queue = [chain.reveal_report(hold, seat, report) for seat in seats]
            self.make_block(1)

    @invariant()
    def nothing_is_made_or_lost(self) -> None:
        state = self.chain.state
        assert compute_supply(state) == state.totals.supply == self.chain.genesis.supply
        opened = [leaf.record for leaf in state.entries() if isinstance(leaf.record, Duel | ModelCheck)]
        assert state.totals.reserved == sum(each.reserved for each in opened) <= state.totals.treasury
        for key, account in state.accounts():
            assert account.locked >= sum(each.locked for each in opened if each.executor == key)
            parts = (account.available, account.held, account.bonded, account.locked, account.deposit)
            assert all(part >= 0 for part in parts)

    def teardown(self) -> None:
        super().teardown()
        assert not any(isinstance(leaf.record, ModelCheck) for leaf in self.chain.state.entries())
        for events in self.check_chain.check_events.values():
            settled = events[-1]
            assert isinstance(settled, CheckSettled)
            self.findings[settled.finding.outcome] += 1
            self.findings["substitution"] += settled.is_substitution


@pytest.mark.parametrize(
    ("seeds", "examples", "enough"), [((5,), 2, 1), pytest.param(range(20), 4, 10, marks=pytest.mark.long)]
)
def test_both_come_to_the_same_findings(seeds: Sequence[int], examples: int, enough: int) -> None:
    """Every operation is included and refused, and every outcome found, often enough. If not, there are more rounds."""
    CheckMachine.outcomes.clear()
    CheckMachine.findings.clear()
    kinds = [(kind, outcome) for kind in ("CheckCommit", "CheckReveal") for outcome in (DONE, REFUSED)]

    def is_enough() -> bool:
        counts = [CheckMachine.outcomes[each] for each in kinds]
        counts += [CheckMachine.findings[each] for each in (*CheckOutcome, "substitution")]
        return min(counts) >= enough

    for number in (*seeds, *range(20, 120)):
        if number >= 20 and is_enough():
            break
        machine = settings(max_examples=examples, stateful_step_count=20)
        run_state_machine_as_test(seed(number)(CheckMachine), settings=machine)
    assert is_enough(), (CheckMachine.outcomes, CheckMachine.findings)
