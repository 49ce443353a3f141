"""The market on the ledger in which strategies are compared: its blocks are valid, and each kind of them is played."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chain.parameters.parameters import CREDIT
from chain.state.duel_records import JudgeSeat
from chain.transition.block import Transition
from chain.transition.checks.finding import CheckOutcome
from chain.transition.duels.events import DuelSettled
from chain.transition.duels.verdict import DuelVerdict
from chain.types.duels import A, DuelBallot
from chain.types.operations import FINISH_CANCELLED, Operation, Unbond
from tests.adversarial.duels.substitutes import CHECKS
from tests.support.strategies.check_market import CheckedAgent, CheckMarket
from tests.support.strategies.ledger_market import AVERAGE_USAGE, MARKET_PARAMETERS, LedgerMarket
from tests.support.strategies.market_agents import RUBBISH, Agent, Case, Payer, Request, Served, Text

OFTEN = replace(MARKET_PARAMETERS, duels=replace(MARKET_PARAMETERS.duels, rate=500))
"""Every second answer becomes a duel."""
FULL = 1_000 * CREDIT
"""A treasury that can pay for duels from the beginning."""


class LongRubbish(Agent):
    """Answers with a text of the length that was asked for, for nothing."""

    def write(self, market: LedgerMarket, request: Request) -> Text:
        return self.make_text(market, request, RUBBISH)


class Withdrawn(LongRubbish):
    """Calls each of its answers broken off, and shows no receipt."""

    def serve(self, market: LedgerMarket, request: Request) -> Served:
        return Served(self.write(market, request), FINISH_CANCELLED, is_receipted=False)


class Silent(Agent):
    """Answers no challenge."""

    def challenge(self, market: LedgerMarket, case: Case) -> Text | None:
        return None


class FirstIsBetter(Agent):
    """Votes without a look."""

    def vote(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot | None:
        return DuelBallot(A)


class Unrevealed(Agent):
    """Commits to ballots, and keeps them back."""

    def reveals(self, market: LedgerMarket, case: Case) -> bool:
        return False


class Copyist(Agent):
    """Hands in the executor's answer as its own."""

    def challenge(self, market: LedgerMarket, case: Case) -> Text | None:
        assert case.answer is not None
        return replace(case.answer, author=self.public_key)


class Busy(Agent):
    """Takes no requests."""

    def accepts(self, market: LedgerMarket, request: Request) -> bool:
        return False


class Leaver(Agent):
    """Takes its bond back once it has been paid."""

    def act(self, market: LedgerMarket) -> list[Operation]:
        account = market.state.account(self.public_key)
        if not self.counts["served"] or not account.free_bond:
            return []
        return [Unbond(account.nonce, account.free_bond)]


class Withholder(Agent):
    """Leaves out the blocks that open duels."""

    def withholds(self, market: LedgerMarket, transition: Transition) -> bool:
        return bool(transition.duel_events)


class Chooser(Payer):
    """Leaves out every number that draws another than its favourite."""

    favourite: bytes = b""

    def uses(self, market: LedgerMarket, seq: int, payee: bytes) -> bool:
        return payee == self.favourite


class Withholding(Payer):
    """Gives no one the texts of duels."""

    def hands_over(self, market: LedgerMarket, case: Case, reader: Agent) -> bool:
        return False


def make_others(count: int = 11) -> list[Agent]:
    return [Agent(f"honest {number}") for number in range(count)]


def play(agent: Agent, requests: int = 400, **options: object) -> LedgerMarket:
    """A market of one agent among eleven honest ones."""
    market = LedgerMarket([agent, *make_others()], parameters=OFTEN, treasury=FULL, **options)  # type: ignore[arg-type]
    market.run(requests)
    return market


def count_roles(market: LedgerMarket, agent: Agent) -> list[DuelSettled]:
    """The duels in which an agent was the executor."""
    return [event for event in market.settled if event.duel.executor == agent.public_key]


def compute_gain(agent: Agent, **options: object) -> float:
    """What a strategy gains beyond honesty, on the same requests, in micro-credits."""
    honest = Agent(agent.name)
    expected = play(honest, **options).gain(honest.owner)  # type: ignore[arg-type]
    return play(agent, **options).gain(agent.owner) - expected  # type: ignore[arg-type]


def test_its_blocks_are_valid_to_others_and_one_seed_gives_one_history() -> None:
    checked = LedgerMarket(make_others(8), parameters=OFTEN, treasury=FULL, seed=5, is_checked=True)
    plain = LedgerMarket(make_others(8), parameters=OFTEN, treasury=FULL, seed=5)
    for market in (checked, plain):
        market.run(60)
    assert not plain.refused and plain.settled and plain.settled == checked.settled
    assert dict(plain.state.accounts()) == dict(checked.state.accounts())
    other = LedgerMarket(make_others(8), parameters=OFTEN, treasury=FULL, seed=6)
    other.run(60)
    assert dict(other.state.accounts()) != dict(plain.state.accounts())


def test_its_checks_are_valid_to_others_and_honest_executors_pass_them() -> None:
    parameters = replace(OFTEN, checks=CHECKS)
    agents = [CheckedAgent(f"honest {number}") for number in range(6)]
    market = CheckMarket(agents, parameters=parameters, treasury=FULL, is_checked=True)
    market.run(24)
    assert market.checked and not market.refused
    assert all(len(event.check.seats) == 3 and len(event.finding.agreed) == 3 for event in market.checked)
    assert {event.finding.outcome for event in market.checked} == {CheckOutcome.PASSED}


def test_better_agents_win_and_all_do_their_part() -> None:
    agents = [Agent(f"good {number}", quality=1.0) for number in range(6)]
    agents += [Agent(f"bad {number}", quality=-1.0) for number in range(6)]
    market = LedgerMarket(agents, parameters=OFTEN, treasury=FULL)
    market.run(400)
    good = {agent.public_key for agent in agents if agent.quality > 0}
    mixed = [event for event in market.settled if (event.duel.executor in good) != (event.duel.challenger in good)]
    won = [event for event in mixed if (event.verdict is DuelVerdict.EXECUTOR_WON) == (event.duel.executor in good)]
    assert len(mixed) > 50 and len(won) > 0.7 * len(mixed)
    assert sum(agent.counts["served"] for agent in agents) == 400 and not market.refused
    assert sum(agent.counts["challenges"] for agent in agents) == len(market.settled)
    panels = 3 * len(market.settled) + 5 * len(market.accused) + sum(len(each.duel.repeats) for each in market.repeated)
    assert sum(agent.counts["ballots"] for agent in agents) == panels


def test_rubbish_is_found_and_loses() -> None:
    agent = LongRubbish("rubbish")
    assert compute_gain(agent) < 0
    assert {each.duel.executor for each in play(LongRubbish("rubbish")).accused} == {agent.public_key}


def test_an_answer_that_is_called_broken_off_is_compared_all_the_same() -> None:
    agent = Withdrawn("withdrawn")
    market = play(agent)
    assert (
        any(event.verdict is DuelVerdict.FRAUD for event in count_roles(market, agent)) and market.gain("withdrawn") < 0
    )


def test_silence_and_votes_kept_back_cost_their_authors() -> None:
    assert compute_gain(Silent("silent")) < 0
    market = play(Silent("silent"))
    assert market.replaced and all(each.fine.amount < 0 for each in market.replaced)
    assert compute_gain(Unrevealed("unrevealed")) < 0


def test_a_vote_without_a_look_is_paid_less_often_than_an_honest_one() -> None:
    def count_paid(agent: Agent) -> float:
        key = agent.public_key
        market = play(agent, requests=1_500)
        seats = [event for event in market.settled if any(seat.public_key == key for seat in event.duel.seats)]
        paid = [event for event in seats if any(move.public_key == key for move in event.movements)]
        return len(paid) / len(seats)

    assert count_paid(FirstIsBetter("judge")) < 0.76 < count_paid(Agent("judge"))


def test_a_copy_is_no_work() -> None:
    agent = Copyist("copyist")
    market = play(agent)
    copies = [event for event in market.settled if event.duel.challenger == agent.public_key]
    assert copies and {event.verdict for event in copies} == {DuelVerdict.IDENTICAL}


def test_a_request_goes_to_the_next_that_accepts_it() -> None:
    market = play(Busy("busy"))
    busy = next(agent for agent in market.agents.values() if agent.name == "busy")
    assert busy.counts["offers"] > 10 and not busy.counts["served"]
    assert sum(agent.counts["served"] for agent in market.agents.values()) == 400 and not market.unserved


def test_a_bond_that_leaves_is_reached() -> None:
    agent = Leaver("leaver", available=10**9)
    market = play(agent)
    account = market.state.account(agent.public_key)
    assert account.unbonding and account.bonded == account.locked == 0
    lost = [event for event in count_roles(market, agent) if event.verdict is DuelVerdict.EXECUTOR_LOST]
    assert all(any(move.public_key == agent.public_key and move.amount < 0 for move in each.movements) for each in lost)


def test_a_lead_that_is_withheld_costs_a_fee_and_changes_the_draw() -> None:
    def lead(kind: type[Agent]) -> LedgerMarket:
        agents = [Agent(f"honest {number}", is_validator=True) for number in range(8)]
        market = LedgerMarket([*agents, kind("leader", is_validator=True)], parameters=OFTEN, treasury=FULL)
        market.run(200, 8)
        return market

    honest, withheld = lead(Agent), lead(Withholder)
    assert withheld.head.view > withheld.head.height == honest.head.height == honest.head.view
    assert withheld.state.root != honest.state.root


def test_numbers_that_a_payer_leaves_out_are_paid_for() -> None:
    friend = Agent("friend")
    chooser = Chooser("chooser")
    chooser.favourite = friend.public_key
    market = LedgerMarket([friend, *make_others()], [chooser], parameters=OFTEN, treasury=FULL)
    market.run(100, 4)
    assert friend.counts["served"] == 100
    spent = -market.gain("chooser")
    assert spent > 100 * market.compute_price(Request(AVERAGE_USAGE))


@pytest.mark.parametrize("both", [False, True], ids=["payer", "payer and executor"])
def test_texts_that_are_withheld_count_against_the_executor(both: bool) -> None:
    class Accomplice(Agent):
        def hands_over(self, market: LedgerMarket, case: Case, reader: Agent) -> bool:
            return not both or case.duel.executor != self.public_key

    agents = [Accomplice(f"accomplice {number}") for number in range(12)]
    market = LedgerMarket(agents, [Withholding("payer")], parameters=OFTEN, treasury=FULL)
    market.run(100)
    verdicts = {event.verdict for event in market.settled}
    assert (verdicts == {DuelVerdict.UNANSWERED}) == both


def test_a_newcomer_serves_without_a_bond() -> None:
    newcomer = Agent("newcomer", bonded=0, duels_before=0, judges=False)
    market = play(newcomer, requests=800)
    assert newcomer.counts["served"] and count_roles(market, newcomer)
    assert market.gain("newcomer") != 0
