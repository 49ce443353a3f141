"""A chain on which the model of answers is checked: all validators declare the same identity, unless told otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from chain.crypto import hash_bytes
from chain.parameters.checks import CheckParameters
from chain.parameters.parameters import Parameters
from chain.state.check_records import CHECK_COMMIT, CheckerSeat, ModelCheck
from chain.transition.block import Transition
from chain.transition.checks.events import CheckEvent, CheckSettled
from chain.types.blocks import Block
from chain.types.checks import (
    REPORT_SALT_BYTES,
    CheckCommit,
    CheckReport,
    CheckReveal,
    DeclaredIdentity,
    compute_report_commitment,
    make_measured_report,
)
from chain.types.operations import Delivery, SignedOperation
from tests.support.chain_builder import MODEL
from tests.support.chains.duel_chain import AMOUNT, DUEL_PARAMETERS, JUDGE, QUICK, DuelChain, make_salt

CHECKS = CheckParameters(commit_ms=7_000, reveal_ms=4_000)
CHECK_PARAMETERS = replace(DUEL_PARAMETERS, checks=CHECKS)
IDENTITY = hash_bytes("test weights")
"""The digest that all declare."""
PASSED, FAILED = make_measured_report(0.1, 0.01), make_measured_report(9.0, 0.4)
"""What checkers measure of an honest answer, and of one by other weights."""


class CheckChain(DuelChain):
    """A chain whose validators declare an identity.

    Attributes:
        check_events: what happened to checks, by hold.
        has_transcripts: whether executors commit to transcripts.
    """

    def __init__(
        self,
        validators: int = 7,
        *,
        identified: Sequence[int] | None = None,
        stakes: Sequence[int] | None = None,
        parameters: Parameters = CHECK_PARAMETERS,
    ) -> None:
        self.check_events: dict[bytes, list[CheckEvent]] = {}
        self.has_transcripts = True
        super().__init__(validators, stakes=stakes, parameters=parameters)
        self.append(
            self.serve(
                key,
                *self.account(key).models,
                judge=JUDGE,
                identities=(DeclaredIdentity(MODEL, IDENTITY),) if identified is None or number in identified else (),
            )
            for number, key in enumerate(self.validators)
        )
        for _ in range(3 * parameters.round_heights):
            self.append(elapsed=QUICK)

    def accept(self, block: Block, transition: Transition) -> None:
        super().accept(block, transition)
        for event in transition.check_events:
            self.check_events.setdefault(event.hold, []).append(event)

    def deliver(self, seq: int, amount: int, reason: str = "stop") -> Delivery:
        delivery = super().deliver(seq, amount, reason)
        digest = hash_bytes("test transcript", delivery.hold) if self.has_transcripts else None
        return replace(delivery, transcript_digest=digest)

    def open_check(self, *, amount: int = AMOUNT, executor: bytes | None = None) -> bytes:
        """The hold of a check that was just opened, of an answer by ``executor`` if that is given."""
        seen = set(self.check_events)
        for _ in range(60):
            self.pay_answers(4, amount=amount)
            for _ in range(40):
                self.append(elapsed=QUICK)
                fresh = [hold for hold in self.check_events if hold not in seen]
                seen.update(fresh)
                fitting = [hold for hold in fresh if executor in (None, self.check(hold).executor)]
                if fitting:
                    return fitting[0]
        raise AssertionError("no check was opened")

    def check(self, hold: bytes) -> ModelCheck:
        """An open check."""
        check = self.state.model_check(hold)
        assert check is not None
        return check

    def let_check_run_out(self, hold: bytes) -> None:
        """Append one block at the very end of the check's stage."""
        self.append(elapsed=max(QUICK, self.check(hold).ends_at - self.head.chain_time))

    # Operations of a check.

    def commit_report(self, hold: bytes, seat: CheckerSeat, report: CheckReport) -> SignedOperation:
        key = self.keys[seat.public_key]
        commitment = compute_report_commitment(hold, key.public_key, make_salt(key), report)
        return self.sign(key, CheckCommit(hold, commitment))

    def reveal_report(self, hold: bytes, seat: CheckerSeat, report: CheckReport) -> SignedOperation:
        key = self.keys[seat.public_key]
        return self.sign(key, CheckReveal(hold, report, make_salt(key)[:REPORT_SALT_BYTES]))

    def report(self, hold: bytes, reports: Iterable[CheckReport | None]) -> CheckSettled:
        """Carry a check to its end, with these reports in the order of seats; a checker with None does nothing."""
        seats = self.check(hold).seats
        said = [(seat, report) for seat, report in zip(seats, reports, strict=True) if report is not None]
        self.append([self.commit_report(hold, seat, report) for seat, report in said], elapsed=QUICK)
        if len(said) < len(seats):
            assert self.check(hold).stage == CHECK_COMMIT
            self.let_check_run_out(hold)
        if said:
            self.append([self.reveal_report(hold, seat, report) for seat, report in said], elapsed=QUICK)
        return self.get_settled(hold)

    def get_settled(self, hold: bytes) -> CheckSettled:
        """How a check came to its end."""
        event = self.check_events[hold][-1]
        assert isinstance(event, CheckSettled) and self.state.model_check(hold) is None
        return event
