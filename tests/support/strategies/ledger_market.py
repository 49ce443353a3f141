"""A market on the ledger alone: agents and payers whose operations go into blocks of the real state machine.

There are no nodes, sockets or clocks: in each block payers make holds for the executors that the lottery draws, what
was held for in the block before is captured, and whoever a duel has drawn does its part. Draws, exposure, levy,
verdicts and payments are those of :mod:`chain.transition`. One seed gives one history.

What an agent gains is what its account grew by, less what its work has cost (:meth:`LedgerMarket.gain`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from chain.crypto import KeyPair, hash_bytes
from chain.genesis import Genesis, GenesisAccount, compute_serving_table, make_genesis, make_validator
from chain.parameters.checks import CheckParameters
from chain.parameters.duels import MAX_DRAW_HEIGHTS, DuelParameters
from chain.parameters.parameters import CREDIT, Parameters, choose_parameters
from chain.state.duel_records import ANSWER, REVEAL, JudgeSeat
from chain.state.keys import TOTALS_KEY, account_key, rating_key, table_key
from chain.state.ratings import ExecutorRating
from chain.state.records import Totals
from chain.state.state import State, compute_supply
from chain.transition.block import Transition, build_block, state_transition
from chain.transition.duels.events import (
    ChallengerReplaced,
    DuelEvent,
    DuelOpened,
    DuelSettled,
    ExecutorAccused,
    VotesRepeated,
)
from chain.transition.epochs import get_next_epoch
from chain.transition.payments import get_executor
from chain.types.blocks import Block, Header
from chain.types.duels import DuelAnswer, DuelBallot, DuelCommit, DuelReveal
from chain.types.operations import (
    MAX_CAPTURE_ITEMS,
    Capture,
    CaptureItem,
    Delivery,
    Hold,
    Operation,
    SignedOperation,
    Usage,
    compute_hold_id,
    sign_operation,
)
from chain.types.votes import NO_BLOCK, Certificate, Vote, VoteKind, make_certificate, sign_vote
from tests.support.chain_builder import MODEL, START, find_reveal
from tests.support.chains.duel_chain import JUDGE
from tests.support.keys import make_key
from tests.support.strategies.market_agents import Agent, Case, Payer, Request, Served, Text

BLOCK_MS = 250
"""Milliseconds from block to block."""
DUEL_RATE = 24
"""At this rate verification, checks of the model included, costs less than 8 % of what is verified."""
SHORT_STAGES = DuelParameters(answer_ms=1_000, commit_ms=1_000, reveal_ms=1_000)
MARKET_PARAMETERS = choose_parameters(
    DUEL_RATE,
    Parameters(
        epoch_heights=2_048,
        capture_grace_ms=3_000,
        max_hold_time_ms=600_000,
        duels=SHORT_STAGES,
        checks=CheckParameters(checkers=0),
    ),
)
"""Amounts and shares as a public chain begins with them; times short, so that silence costs few blocks. Agents declare
no identity, so that no model is checked."""
AVERAGE_USAGE = Usage(4_620, 844)
"""Bytes of the average request and answer of the Azure conversation trace, at four to a token."""
HOLD_TIME_MS = 60_000
"""Lifetime of a hold."""
REQUESTS_PER_BLOCK = 32
"""Requests in a block unless told otherwise."""
CLOCK_BOND = 1_000 * CREDIT
"""Bond of the validator that makes the blocks where no agent does."""
MAX_LEFT_OUT = 255
"""Hold numbers that a payer leaves out in a row at most."""
MAX_SKIPPED = 8
"""Leads that are withheld in a row at most."""
MAX_CLOSING_BLOCKS = 10_000
"""Blocks in which all duels have ended, once no more requests come."""
NO_SIGNATURE = bytes(64)


def draw_average(random: Random) -> Usage:
    """Every request is the average one."""
    return AVERAGE_USAGE


def subtract_scores(first: Text, second: Text) -> float:
    """By how much the first answer is better."""
    return first.score - second.score


@dataclass(slots=True)
class Paid:
    """What is remembered of an answer as long as a duel about it may open."""

    height: int
    payer: Payer
    request: Request
    text: Text


class LedgerMarket:
    """Agents and payers on one chain.

    ``compare`` says by how much one of two answers is better, before judges add what they see wrong; ``draw_usage`` how
    large a request is. ``treasury`` is what the treasury begins with. A market that ``is_checked`` signs everything,
    and has each block checked as by another node: it is slower.

    Attributes:
        agents: by public key.
        random: all that is drawn, but for what the beacon draws.
        cases: the duels that are open, by hold.
        paid: the answers about which something may open yet, by hold.
        settled: how duels ended, in order.
        accused: the first verdicts that led to a second panel.
        replaced: challengers that gave no answer.
        repeated: duels in which votes were repeated.
        refused: operations that the ledger did not take, each with the reason.
        unserved: requests that no agent accepted.
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        payers: Sequence[Payer] = (),
        *,
        seed: int = 0,
        parameters: Parameters = MARKET_PARAMETERS,
        treasury: int = 0,
        draw_usage: Callable[[Random], Usage] = draw_average,
        compare: Callable[[Text, Text], float] = subtract_scores,
        is_checked: bool = False,
    ) -> None:
        self.random = Random(f"market {seed}")
        self.agents = {agent.public_key: agent for agent in agents}
        self.payers = list(payers) or [Payer(f"user {number}") for number in range(12)]
        self.compare = compare
        self._draw_usage = draw_usage
        self._is_checked = is_checked
        clock = make_key("market clock")
        keys = [*(agent.key for agent in agents), *(payer.key for payer in self.payers), clock]
        self._keys = {key.public_key: key for key in keys}
        self.genesis = _make_genesis(clock, agents, self.payers, parameters, seed)
        self.head: Header = self.genesis.header
        self.state: State = _begin(self.genesis, agents, treasury)
        self._totals = {key: self.state.account(key).total for key in self._keys}
        self.cases: dict[bytes, Case] = {}
        self.settled: list[DuelSettled] = []
        self.accused: list[ExecutorAccused] = []
        self.replaced: list[ChallengerReplaced] = []
        self.repeated: list[VotesRepeated] = []
        self.refused: list[tuple[SignedOperation, str]] = []
        self.unserved = 0
        self._held: list[tuple[bytes, Agent, Payer, Request]] = []
        self.paid: dict[bytes, Paid] = {}
        self._paid_order: deque[bytes] = deque()
        self._ballots: dict[tuple[bytes, bytes], DuelBallot] = {}

    # What an agent has.

    def gain(self, owner: str) -> float:
        """What the accounts of an owner have grown by, less what their work has cost, in micro-credits."""
        agents = [agent for agent in self.agents.values() if agent.owner == owner]
        accounts = [agent.public_key for agent in agents]
        accounts += [payer.key.public_key for payer in self.payers if payer.owner == owner]
        grown = sum(self.state.account(key).total - self._totals.get(key, 0) for key in accounts)
        return grown - sum(agent.spent for agent in agents)

    def stake(self, agent: Agent) -> int:
        """The bond of an agent, in micro-credits."""
        return self.state.account(agent.public_key).bonded

    def is_on_probation(self, agent: Agent) -> bool:
        """Whether an average answer of an agent is drawn more often."""
        rating, parameters = self.state.rating(agent.public_key), self.genesis.parameters
        average = parameters.get_price(MODEL).compute(AVERAGE_USAGE)
        return rating.is_on_probation(parameters.duels.probation_duels, average)

    def compute_price(self, request: Request) -> int:
        """What a request costs with an answer of full length, in micro-credits."""
        return self.genesis.parameters.get_price(MODEL).compute(request.usage)

    # What a market with more than duels adds.

    @property
    def is_busy(self) -> bool:
        """Whether something is open that has to come to its end."""
        return bool(self.cases)

    def do_all_duties(self) -> Iterator[SignedOperation]:
        """What all those do that have a part in something open."""
        for case in self.cases.values():
            yield from self._do_duties(case)

    def note_others(self, transition: Transition) -> None:
        """Take note of what a block did beside duels."""

    def commit_transcript(self, hold: bytes, agent: Agent, served: Served) -> bytes | None:
        """The digest of a transcript to which an executor commits with an answer, if it does."""
        return None

    # Blocks.

    def run(self, requests: int, per_block: int = REQUESTS_PER_BLOCK) -> None:
        """Have this number of requests served, and all of their duels settled."""
        for start in range(0, requests, per_block):
            self.step(min(per_block, requests - start))
        self.close()

    def close(self) -> None:
        """Append blocks without requests until nothing is open. Credit must add up then."""
        grace = -(-self.genesis.parameters.capture_grace_ms // BLOCK_MS)
        for _ in range(1 + grace + MAX_DRAW_HEIGHTS):
            self.step(0)
        for _ in range(MAX_CLOSING_BLOCKS):
            if not self.is_busy:
                break
            self.step(0)
        assert not self.is_busy, "a duel or a check has not ended"
        assert compute_supply(self.state) == self.state.totals.supply, "credit was made or lost"

    def step(self, requests: int = REQUESTS_PER_BLOCK) -> Transition:
        """Append one block, with this number of new requests and all that is to be done about earlier ones."""
        captures = list(self._capture())
        duties = list(self.do_all_duties())
        actions = [
            self.sign(agent.key, operation) for agent in list(self.agents.values()) for operation in agent.act(self)
        ]
        holds = [self._make_hold(self.payers[number % len(self.payers)]) for number in range(requests)]
        transition, rejected = self._append([*captures, *duties, *actions, *(hold for hold in holds if hold)])
        self.refused += rejected
        refused = {operation.id for operation, _ in rejected}
        self._held = [each for each in self._held if each[0] not in refused]
        for event in transition.duel_events:
            self._note(event)
        self.note_others(transition)
        self._forget()
        return transition

    def _append(self, operations: Sequence[SignedOperation]) -> tuple[Transition, list[tuple[SignedOperation, str]]]:
        epoch = get_next_epoch(self.genesis, self.state)
        is_first = not self.head.height or self.head.epoch != epoch.number
        first = 1 if is_first else self.head.view + 1
        for view in range(first, first + MAX_SKIPPED + 1):
            leader = self._keys[epoch.compute_leader(view)]
            block, transition, rejected = build_block(
                self.genesis,
                leader,
                self.head,
                self.state,
                operations,
                view=view,
                timestamp=self.head.timestamp + BLOCK_MS,
                reveal=find_reveal(leader, self.genesis, self.state),
                parent_certificate=self._certify_parent(),
                nullifications=[
                    self._certify(VoteKind.NULLIFY, epoch.number, skipped, NO_BLOCK) for skipped in range(first, view)
                ],
            )
            agent = self.agents.get(leader.public_key)
            if agent is None or view == first + MAX_SKIPPED or not agent.withholds(self, transition):
                break
        if self._is_checked:
            received = Block.decode(block.encoded)
            assert state_transition(self.genesis, self.head, self.state, received).state.root == transition.state.root
        self.head, self.state = block.header, transition.state
        return transition, rejected

    def _certify_parent(self) -> Certificate | None:
        if not self.head.height:
            return None
        is_same_epoch = self.head.epoch == get_next_epoch(self.genesis, self.state).number
        kind = VoteKind.NOTARIZE if is_same_epoch else VoteKind.FINALIZE
        return self._certify(kind, self.head.epoch, self.head.view, self.head.id)

    def _certify(self, kind: VoteKind, epoch: int, view: int, block_id: bytes) -> Certificate:
        """The votes of all validators."""
        validators = get_next_epoch(self.genesis, self.state).find_validators(epoch)
        assert validators is not None
        keys = [self._keys[key] for key in validators.positions]
        chain_id = self.genesis.chain_id
        if self._is_checked:
            votes = [sign_vote(key, chain_id, kind, epoch, view, block_id) for key in keys]
        else:
            votes = [Vote(int(kind), epoch, view, block_id, key.public_key, NO_SIGNATURE) for key in keys]
        return make_certificate(votes, validators)

    def sign(self, key: KeyPair, operation: Operation) -> SignedOperation:
        """Signed; but where nobody checks it, by an empty signature, which has the length of one."""
        if self._is_checked:
            return sign_operation(key, self.genesis.chain_id, operation)
        return SignedOperation(operation, key.public_key, NO_SIGNATURE)

    # Requests and payments.

    def _make_hold(self, payer: Payer) -> SignedOperation | None:
        """The hold of a payer's next request, for the first of the drawn agents that accepts it."""
        request = Request(payer.usage or self._draw_usage(self.random), payer.insider)
        first_round = self.state.serving_periods.current.first_round
        public_key = payer.key.public_key
        for _ in range(MAX_LEFT_OUT):
            payee = get_executor(self.state, first_round, public_key, payer.next_seq, 0, MODEL)
            if payee is None or payer.uses(self, payer.next_seq, payee):
                break
            payer.next_seq += 1
        seq = payer.next_seq
        payer.next_seq += 1
        for attempt in range(self.genesis.parameters.max_attempts):
            payee = get_executor(self.state, first_round, public_key, seq, attempt, MODEL)
            if payee is None:
                break
            agent = self.agents[payee]
            agent.counts["offers"] += 1
            if not agent.accepts(self, request):
                continue
            deadline = self.head.chain_time + HOLD_TIME_MS
            digest = self.random.randbytes(32)
            hold = Hold(payee, self.compute_price(request), first_round, seq, attempt, MODEL, digest, deadline)
            self._held.append((compute_hold_id(public_key, hold), agent, payer, request))
            return self.sign(payer.key, hold)
        self.unserved += 1
        return None

    def _capture(self) -> Iterator[SignedOperation]:
        """Captures of all that was held for in the last block, those with receipts apart from the others."""
        held, self._held = self._held, []
        items: dict[tuple[bytes, bool], list[CaptureItem]] = {}
        for hold_id, agent, payer, request in held:
            served = agent.serve(self, request)
            usage = Usage(request.usage.prompt_bytes, served.text.completion_bytes)
            amount = self.genesis.parameters.get_price(MODEL).compute(usage)
            transcript = self.commit_transcript(hold_id, agent, served)
            delivery = Delivery(hold_id, amount, served.text.digest, usage, served.finish_reason, transcript)
            receipt = None
            if served.is_receipted and payer.accepts(self, request, served):
                receipt = payer.key.sign("receipt", self.genesis.chain_id, delivery.encode())
            items.setdefault((agent.public_key, receipt is None), []).append(CaptureItem(delivery, receipt))
            agent.counts["served"] += 1
            self.paid[hold_id] = Paid(self.head.height, payer, request, served.text)
            self._paid_order.append(hold_id)
        for (payee, _), parts in items.items():
            for start in range(0, len(parts), MAX_CAPTURE_ITEMS):
                yield self.sign(self._keys[payee], Capture(tuple(parts[start : start + MAX_CAPTURE_ITEMS])))

    def _forget(self) -> None:
        """Forget answers about which no duel can open any more."""
        grace = -(-self.genesis.parameters.capture_grace_ms // BLOCK_MS)
        before = self.head.height - MAX_DRAW_HEIGHTS - grace - 2
        while self._paid_order and self.paid[self._paid_order[0]].height < before:
            del self.paid[self._paid_order.popleft()]

    # Duels.

    def _note(self, event: DuelEvent) -> None:
        if isinstance(event, DuelOpened):
            paid = self.paid[event.hold]
            self.cases[event.hold] = Case(event.hold, event.duel, paid.payer, paid.request, paid.text)
        elif isinstance(event, ChallengerReplaced):
            self.replaced.append(event)
            self.cases[event.hold].challenge = None
        elif isinstance(event, ExecutorAccused):
            self.accused.append(event)
        elif isinstance(event, DuelSettled):
            self.settled.append(event)
            del self.cases[event.hold]
            for seat in event.duel.all_seats:
                self._ballots.pop((event.hold, seat.public_key), None)
        else:
            self.repeated.append(event)

    def _do_duties(self, case: Case) -> Iterator[SignedOperation]:
        """What those do who have a part in a duel and have not done it yet."""
        duel = self.state.duel(case.hold)
        assert duel is not None
        case.duel = duel
        if duel.stage == ANSWER:
            assert duel.challenger is not None
            agent = self.agents[duel.challenger]
            text = agent.challenge(self, case) if self._has_request(case, agent) else None
            if text is not None:
                case.challenge = text
                agent.counts["challenges"] += 1
                yield self.sign(agent.key, DuelAnswer(case.hold, text.digest))
            return
        for seat in duel.all_seats:
            agent = self.agents[seat.public_key]
            place = (case.hold, seat.public_key)
            if duel.stage == seat.commit_stage and seat.commitment is None:
                seen = self._show(case, agent)
                ballot = agent.vote(self, seen, seat)
                if ballot is not None:
                    self._ballots[place] = ballot
                    yield self.sign(agent.key, DuelCommit(case.hold, agent.commit(self, seen, ballot)))
            elif duel.stage == REVEAL and _is_unrevealed(seat) and agent.reveals(self, case):
                reveal = DuelReveal(case.hold, self._ballots[place], agent.make_salt(case))
                yield self.sign(agent.key, reveal)

    def _has_request(self, case: Case, reader: Agent) -> bool:
        """Whether payer or executor gives a reader the request."""
        executor = self.agents[case.duel.executor]
        return any(holder.hands_over(self, case, reader) for holder in (case.payer, executor))

    def _show(self, case: Case, reader: Agent) -> Case:
        """The case as a judge gets it. Payer and executor have the executor's answer, its author the challenger's."""
        author = None if case.challenge is None else self.agents[case.challenge.author]
        return replace(
            case,
            answer=case.answer if self._has_request(case, reader) else None,
            challenge=case.challenge if author is not None and author.hands_over(self, case, reader) else None,
        )


def _is_unrevealed(seat: JudgeSeat) -> bool:
    return seat.commitment is not None and seat.ballot is None


def _make_genesis(
    clock: KeyPair, agents: Sequence[Agent], payers: Sequence[Payer], parameters: Parameters, seed: int
) -> Genesis:
    """A genesis in which the agents that are validators vote; a clock does if none is."""
    beacon = hash_bytes("test beacon", str(seed).encode())
    models = {True: (MODEL,), False: ()}
    accounts = [
        make_validator(each.key, beacon, parameters, each.available, each.bonded, models[each.serves])
        if each.is_validator
        else GenesisAccount(each.public_key, each.available, each.bonded, models[each.serves], None)
        for each in agents
    ]
    accounts += [GenesisAccount(payer.key.public_key, payer.available, 0, (), None) for payer in payers]
    if not any(agent.is_validator for agent in agents):
        accounts.append(make_validator(clock, beacon, parameters, 0, CLOCK_BOND))
    return make_genesis("market", START, beacon, accounts, parameters)


def _begin(genesis: Genesis, agents: Iterable[Agent], treasury: int) -> State:
    """The state from which a market begins: the agents have declared how they judge, and have been in duels before."""
    state = genesis.state
    state = state.update(
        {
            TOTALS_KEY: Totals(treasury, state.totals.supply + treasury),
            **{
                account_key(agent.public_key): replace(state.account(agent.public_key), judge=JUDGE)
                for agent in agents
                if agent.judges
            },
            **{rating_key(agent.public_key): ExecutorRating(agent.duels_before) for agent in agents},
        }
    )
    return state.update({table_key(0): compute_serving_table(state, genesis.parameters, genesis.beacon)})
