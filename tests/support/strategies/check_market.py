"""A market on the ledger in which the model of answers is checked, too: agents that declare an identity, and score.

An honest checker comes to the two numbers that were measured of a real answer of the same kind
(:mod:`tests.adversarial.duels.measure_checks`): each answer draws one row of the measurements, which all who check it
share, since all score the same positions. Everything else is :mod:`tests.support.strategies.ledger_market`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from chain.crypto import hash_bytes
from chain.genesis import compute_serving_table
from chain.parameters.check_economics import SCORING_COST
from chain.parameters.parameters import CREDIT, Parameters
from chain.state.check_records import CHECK_COMMIT, ModelCheck
from chain.state.keys import TOTALS_KEY, account_key, table_key
from chain.transition.block import Transition
from chain.transition.checks.events import CheckOpened, CheckSettled
from chain.transition.deposits import compute_models_deposit
from chain.types.checks import (
    NO_TRANSCRIPT,
    REPORT_SALT_BYTES,
    CheckCommit,
    CheckReport,
    CheckReveal,
    DeclaredIdentity,
    compute_report_commitment,
    make_measured_report,
)
from chain.types.operations import Operation, Serve, SignedOperation
from tests.support.chain_builder import MODEL
from tests.support.chains.duel_chain import JUDGE
from tests.support.strategies.ledger_market import LedgerMarket
from tests.support.strategies.market_agents import Agent, Payer, Served, Text

MEASURED = Path(__file__).with_name("measured_checks.json")
"""What was measured of real answers."""
IDENTITIES = (DeclaredIdentity(MODEL, hash_bytes("market weights")),)
"""What all agents declare."""
HONEST = "honest"
"""The weights that are declared, as the measurements name them."""
Numbers = tuple[float, float]
"""Shortfall in standard deviations, and distance."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of an answer that was drawn at a ``temperature`` of 0 or 1.

    ``scored`` are the numbers by the declared weights, ``told`` those by what the transcript says of itself.
    """

    temperature: float
    scored: Numbers
    told: Numbers


@cache
def load_measured(case: str, temperatures: tuple[float, ...] = (0.0, 1.0)) -> list[Measured]:
    """The answers of a kind that were measured."""
    rows = [Measured(**row) for row in json.loads(MEASURED.read_text("utf-8"))[case]]
    return [row for row in rows if row.temperature in temperatures]


@dataclass(frozen=True, slots=True)
class Transcript:
    """A transcript of the answer with the digest ``answer``, and what was ``measured`` of one like it."""

    answer: bytes
    measured: Measured
    digest: bytes


@dataclass(slots=True)
class CheckCase:
    """A check that is open. ``transcript`` is None for a checker that does not get it, or if there is none."""

    hold: bytes
    check: ModelCheck
    payer: Payer
    answer: Text
    transcript: Transcript | None


@dataclass(eq=False)
class CheckedAgent(Agent):
    """An agent that declares an identity, serves what it declares, and checks others honestly.

    ``weights`` names what it serves, as the measurements do. One that does not declare it (``declares``) is not
    checked, and checks no one.

    Attributes:
        spent_on_checks: the part of what it spent that went into scoring.
        transcripts: those of its own answers, by the digest of the answer.
    """

    available: int = 10 * CREDIT
    weights: str = HONEST
    declares: bool = True
    spent_on_checks: float = 0.0
    transcripts: dict[bytes, Transcript] = field(default_factory=dict)

    # As executor.

    def transcribe(self, market: CheckMarket, text: Text) -> Transcript | None:
        """The transcript to which it commits with an answer, if it does."""
        return self.make_transcript(market, text, self.weights)

    def hands_transcript(self, market: CheckMarket, case: CheckCase, reader: CheckedAgent) -> bool:
        """Whether it gives a checker the transcript of its answer."""
        return True

    # As checker.

    def report(self, market: CheckMarket, case: CheckCase) -> CheckReport | None:
        """Its report. It is asked in each block until it commits to one; None: not yet."""
        return self.score(market, case)

    def commit_report(self, market: CheckMarket, case: CheckCase, report: CheckReport) -> bytes:
        """What it commits to."""
        return compute_report_commitment(case.hold, self.public_key, self.make_report_salt(case.hold), report)

    def reveals_report(self, market: CheckMarket, case: CheckCase) -> bool:
        """Whether it shows its report; asked in each block until it does."""
        return True

    def make_report_salt(self, hold: bytes) -> bytes:
        return hash_bytes("test salt", self.public_key, hold)[:REPORT_SALT_BYTES]

    # What it can do, honestly.

    def make_transcript(
        self, market: CheckMarket, text: Text, weights: str, temperatures: tuple[float, ...] = (0.0, 1.0)
    ) -> Transcript:
        """A transcript of an answer by some weights."""
        measured = market.random.choice(load_measured(weights, temperatures))
        return Transcript(text.digest, measured, market.random.randbytes(32))

    def score(self, market: CheckMarket, case: CheckCase) -> CheckReport:
        """An honest report, at its cost."""
        transcript = case.transcript
        if transcript is None or transcript.answer != case.answer.digest:
            return CheckReport(NO_TRANSCRIPT)
        cost = SCORING_COST * case.check.amount / 1_000
        self.spend(cost)
        self.spent_on_checks += cost
        self.counts["scored"] += 1
        return make_measured_report(*transcript.measured.scored)


class CheckMarket(LedgerMarket):
    """A market of agents that check each other. All of them must be :class:`CheckedAgent`.

    Attributes:
        checks: the checks that are open, by hold.
        checked: how checks ended, in order.
    """

    def __init__(self, agents: Sequence[CheckedAgent], payers: Sequence[Payer] = (), **options: object) -> None:
        super().__init__(agents, payers, **options)  # type: ignore[arg-type]
        self.checks: dict[bytes, CheckCase] = {}
        self.checked: list[CheckSettled] = []
        self._reports: dict[tuple[bytes, bytes], CheckReport] = {}
        self._declare([agent for agent in agents if agent.declares], self.genesis.parameters)

    def _declare(self, agents: Sequence[CheckedAgent], parameters: Parameters) -> None:
        """Have these agents begin with an identity, and the deposit for it."""
        deposit = compute_models_deposit(parameters, (), None, IDENTITIES)
        totals = self.state.totals
        declared = {
            account_key(agent.public_key): replace(
                self.state.account(agent.public_key), identities=IDENTITIES, deposit=deposit
            )
            for agent in agents
        }
        totals = replace(totals, supply=totals.supply + deposit * len(agents))
        state = self.state.update({TOTALS_KEY: totals, **declared})
        self.state = state.update({table_key(0): compute_serving_table(state, parameters, self.genesis.beacon)})
        self._totals = {key: self.state.account(key).total for key in self._totals}

    @property
    def is_busy(self) -> bool:
        return bool(self.checks) or super().is_busy

    def find_checked_agent(self, public_key: bytes) -> CheckedAgent:
        """The agent with this key."""
        agent = self.agents[public_key]
        assert isinstance(agent, CheckedAgent)
        return agent

    def make_declaration(self, agent: CheckedAgent) -> Operation:
        """Declare the identity again, after it was lost."""
        account = self.state.account(agent.public_key)
        return Serve(account.nonce, account.models, JUDGE if agent.judges else None, IDENTITIES)

    def is_declared(self, agent: CheckedAgent) -> bool:
        """Whether an agent's account has an identity at this moment."""
        return bool(self.state.account(agent.public_key).identities)

    def commit_transcript(self, hold: bytes, agent: Agent, served: Served) -> bytes | None:
        assert isinstance(agent, CheckedAgent)
        transcript = agent.transcribe(self, served.text) if self.is_declared(agent) else None
        if transcript is None:
            return None
        agent.transcripts[served.text.digest] = transcript
        return transcript.digest

    def note_others(self, transition: Transition) -> None:
        for event in transition.check_events:
            if isinstance(event, CheckOpened):
                paid = self.paid[event.hold]
                executor = self.find_checked_agent(event.check.executor)
                transcript = executor.transcripts.get(paid.text.digest)
                self.checks[event.hold] = CheckCase(event.hold, event.check, paid.payer, paid.text, transcript)
            else:
                self.checked.append(event)
                del self.checks[event.hold]
                for seat in event.check.seats:
                    self._reports.pop((event.hold, seat.public_key), None)

    def do_all_duties(self) -> Iterator[SignedOperation]:
        yield from super().do_all_duties()
        for case in self.checks.values():
            yield from self._do_check_duties(case)

    def _do_check_duties(self, case: CheckCase) -> Iterator[SignedOperation]:
        """What the checkers of an answer do that have not done it yet."""
        check = self.state.model_check(case.hold)
        assert check is not None
        case.check = check
        executor = self.find_checked_agent(check.executor)
        for seat in check.seats:
            agent, place = self.find_checked_agent(seat.public_key), (case.hold, seat.public_key)
            if check.stage == CHECK_COMMIT:
                if seat.commitment is not None:
                    continue
                is_shown = executor.hands_transcript(self, case, agent)
                report = agent.report(self, case if is_shown else replace(case, transcript=None))
                if report is not None:
                    self._reports[place] = report
                    yield self.sign(agent.key, CheckCommit(case.hold, agent.commit_report(self, case, report)))
            elif seat.commitment is not None and seat.report is None and agent.reveals_report(self, case):
                salt = agent.make_report_salt(case.hold)
                yield self.sign(agent.key, CheckReveal(case.hold, self._reports[place], salt))
