"""A small market on a network in memory: real Nodes with scripted backends, under trio's mock clock.

Member 0 is the gateway: it votes alone (unless told otherwise), so that blocks cost little, and has no backend unless
given one. The others are executors, all of equal stake.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import trio

from chain.crypto import KeyPair
from chain.genesis import Genesis, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from chain.state.records import Account, OpenHold
from chain.state.state import compute_supply
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from chain.types.operations import Capture, CaptureItem, Operation
from consensus.engine import Settings
from consensus.voting.journal import Journal
from consensus.voting.vote_store import VoteStore
from consensus.voting.vote_support import VoteSupportStore
from node import Node
from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from serving.accounting.payment_history import MAX_ALLOWANCE
from serving.backends.backend import BackendError
from serving.offload.protocol import OFFLOAD_PROTOCOL
from serving.offload.settings import ExecutorSettings, OriginatorSettings
from serving.openai.answers import Answer
from serving.openai.errors import ApiError
from serving.openai.requests import CHAT_COMPLETIONS, Request, parse_request
from serving.quality.duels.backend_work import DuelJudgeSettings
from serving.quality.duels.table import DuelTable
from serving.quality.judging.ballot import ReplyForm
from serving.quality.judging.prompt import JudgePrompt, load_default_prompt
from serving.quality.same_model.identity import ModelIdentity
from serving.request_records import RequestRecord
from serving.scheduling.policy import PolicyParameters, ProbabilisticPolicy
from tests.support.market.scripted_backend import MODEL as MODEL
from tests.support.market.scripted_backend import Script, ScriptedBackend
from tests.support.memory_file import MemoryFile
from tests.support.waiting import eventually

Op = TypeVar("Op", bound=Operation)

PROMPT = "x" * 200
JUDGE = DuelJudgeSettings(JudgePrompt.parse(load_default_prompt()), form=ReplyForm.LETTER)
"""How members judge."""


@dataclass
class Member:
    """One node and what it stands on; stores and journal survive a restart."""

    number: int
    key: KeyPair
    backend: ScriptedBackend | None
    capacity: int = 4
    store: MemoryStore = field(default_factory=MemoryStore)
    journal: MemoryFile = field(default_factory=MemoryFile)
    duel_store: MemoryStore = field(default_factory=MemoryStore)
    second: ScriptedBackend | None = None
    """Its other backend of the model, if it has two."""
    starts: int = 0
    network: SimulatedNetwork | None = None
    scope: trio.CancelScope | None = None
    stopped: trio.Event = field(default_factory=trio.Event)
    current: Node | None = None

    @property
    def node(self) -> Node:
        assert self.current is not None, f"member {self.number} is not running"
        return self.current

    @property
    def public_key(self) -> bytes:
        return self.key.public_key


DRAWN = OriginatorSettings(choices=1, exploration=0.0, keeps_conversations=False)
"""Executors are asked as they are drawn."""


@dataclass
class Options:
    """What a test may choose."""

    executors: int = 2
    validators: tuple[int, ...] = (0,)
    gateways: tuple[int, ...] = (0,)
    """Members without stake in serving (and without backend, unless ``own_backend``)."""
    own_backend: bool = False
    two_backends: tuple[int, ...] = ()
    """Members with a second backend of the model."""
    available: dict[int, int] = field(default_factory=dict)
    """Micro-credits of a member, if not 1,000 credits."""
    bonded: dict[int, int] = field(default_factory=dict)
    """Those of its bond, if not 100 credits."""
    policy: PolicyParameters = field(
        default_factory=lambda: PolicyParameters(offload_frequency=1.0, accept_frequency=1.0, queue_frequency=1.0)
    )
    executor: ExecutorSettings = field(default_factory=ExecutorSettings)
    originator: OriginatorSettings = DRAWN
    parameters: dict[str, Any] = field(default_factory=dict)
    judges: tuple[int, ...] = ()
    """Members that judge duels."""
    identities: dict[int, ModelIdentity] = field(default_factory=dict)
    """What members are configured to declare of the model."""
    make_backend: Callable[[int], ScriptedBackend] = lambda number: ScriptedBackend(f"m{number}-")
    make_second: Callable[[int], ScriptedBackend] = lambda number: ScriptedBackend(f"m{number}b-")
    spacing: float = 0.25
    seed: int = 1
    capacity: int = 4


class World:
    """Nodes that share a genesis, a hub and a nursery."""

    def __init__(self, options: Options, nursery: trio.Nursery) -> None:
        self.options = options
        self.nursery = nursery
        self.hub = SimulatedInternet(options.seed)
        self.members: list[Member] = []
        count = max(options.gateways) + 1 + options.executors
        defaults = {
            "epoch_heights": 1_024,
            "min_validator_bond": 100 * CREDIT,
            "entry_fee": 0,
            "deposit_per_byte": 0,
        }
        parameters = Parameters(**{**defaults, **options.parameters})
        accounts = []
        for number in range(count):
            key = KeyPair(bytes([number + 1]) * 32)
            serves = number not in options.gateways
            backend = options.make_backend(number) if serves or options.own_backend else None
            member = Member(number, key, backend, options.capacity)
            if number in options.two_backends:
                member.second = options.make_second(number)
            self.members.append(member)
            available = options.available.get(number, 1_000 * CREDIT)
            models = (MODEL,) if serves else ()
            bonded = self.options.bonded.get(number, 100 * CREDIT)
            account = make_validator(key, bytes(32), parameters, available, bonded, models)
            accounts.append(account if number in options.validators else replace(account, commitment=None))
        self.genesis: Genesis = make_genesis("test", SimulatedRuntime.EPOCH_MS, bytes(32), accounts, parameters)

    # Life and death

    async def start(self, *numbers: int) -> None:
        """Start members (or start them again), connected with all that are alive."""
        for number in numbers:
            await self.nursery.start(self._run, self.members[number])
        self.hub.connect_all()

    async def _run(self, member: Member, task_status: Any) -> None:
        member.starts += 1
        runtime = SimulatedRuntime(f"{self.options.seed}/{member.number}/{member.starts}")
        network = member.network = SimulatedNetwork(self.hub, member.public_key)
        blocks = ChainStore(member.store, self.genesis)
        vote_store = None
        if member.number in self.options.validators:
            journal = Journal(member.journal, self.genesis.chain_id, member.public_key)
            vote_store = VoteStore(member.key, journal, VoteSupportStore(member.store))
        first = self.members[0]
        bootstrap = [(first.public_key, "/memory/0")] if member.number else []
        node = Node(
            genesis=self.genesis,
            key=member.key,
            network=network,
            blocks=blocks,
            runtime=runtime,
            policy=ProbabilisticPolicy(self.options.policy),
            backends=[(each, member.capacity) for each in (member.backend, member.second) if each is not None],
            vote_store=vote_store,
            bootstrap=bootstrap,
            store=member.store,
            settings=Settings(block_spacing_s=self.options.spacing),
            executor_settings=self.options.executor,
            originator_settings=self.options.originator,
            judge=JUDGE if member.number in self.options.judges else None,
            duel_table=DuelTable(member.key, member.duel_store, runtime.random),
            identities=[identity] if (identity := self.options.identities.get(member.number)) is not None else [],
        )
        member.stopped = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                member.scope = nursery.cancel_scope
                await nursery.start(node.run)
                member.current = node
                task_status.started()
        finally:
            member.current = None
            if network.alive:
                self.hub.kill(member.public_key)
            member.stopped.set()

    async def kill(self, number: int) -> None:
        """Crash a member: it is off the network at once, and its tasks end where they are."""
        member = self.members[number]
        assert member.scope is not None
        self.hub.kill(member.public_key)
        member.scope.cancel()
        await member.stopped.wait()

    async def wait_met(self) -> None:
        """Until every living member knows every other."""
        alive = [member for member in self.members if member.current is not None]

        def knows(one: Member, two: Member) -> bool:
            announcement = one.node.discovery.find(two.public_key)
            models = two.backend.models if two.backend is not None else ()
            return announcement is not None and announcement.models == models

        await eventually(lambda: all(one is two or knows(one, two) for one in alive for two in alive), 30)

    def introduce(self, paid: int = 0) -> None:
        """Have every executor know the gateways as payers with many payments, ``paid`` micro-credits in all."""
        for member in self.members:
            history = member.node.payments.payee.history
            for number in self.options.gateways:
                for amount in (paid, *[0] * MAX_ALLOWANCE):
                    history.note_payment(self.members[number].public_key, amount)

    # Requests and accounts

    @property
    def gateway(self) -> Node:
        return self.members[0].node

    def find(self, public_key: bytes) -> int:
        """The number of a member."""
        return next(member.number for member in self.members if member.public_key == public_key)

    def drawn(self, number: int = 0) -> list[Member]:
        """The executors in the order in which the next request of a gateway will ask them."""
        node = self.members[number].node
        first_round, seq = node.originator._context.first_round, node.payments.payer.next_seq
        request = make_request()
        expected = node.originator.predictor.expect(request)
        order = node.originator._order(request, expected, first_round, seq, 0, explores=False)
        by_key = {member.public_key: member for member in self.members}
        return [by_key[candidate.executor] for candidate, _ in order]

    def account(self, number: int) -> Account:
        """A member's account, as the gateway (or the first that is alive) sees it."""
        return self.state_node.engine.state.account(self.members[number].public_key)

    @property
    def state_node(self) -> Node:
        return next(member.node for member in self.members if member.current is not None)

    def open_holds(self) -> list[OpenHold]:
        """All holds that are not resolved."""
        state = self.state_node.engine.state
        return [leaf.record for leaf in state.entries() if isinstance(leaf.record, OpenHold)]

    def operations(self, kind: type[Op]) -> list[Op]:
        """Every final operation of one kind, in order."""
        store = self.state_node.engine._store
        blocks = [store.block(height) for height in range(1, store.height + 1)]
        found = [o.operation for block in blocks if block is not None for o in block.body.operations]
        return [operation for operation in found if isinstance(operation, kind)]

    @property
    def captured(self) -> list[CaptureItem]:
        """Every item of every final capture, in order."""
        return [item for capture in self.operations(Capture) for item in capture.items]

    async def settle(self, timeout: float = 120.0) -> None:
        """Until no hold is open and no request waits."""
        await eventually(self.is_idle, timeout, interval=0.5)  # minutes of simulated time are looked through

    def is_idle(self) -> bool:
        """No work, no slot taken, no hold open, nothing promised and nothing to be collected, anywhere."""
        return not self.find_busy()

    def find_busy(self) -> list[str]:
        """What is not idle, in words."""
        busy = [f"open hold of {hold.amount}" for hold in self.open_holds()]
        for member in self.members:
            for backend in (member.backend, member.second):
                if backend is not None and backend.running:
                    busy.append(f"backend {backend.name} runs {backend.running}")
            if member.current is None:
                continue
            node, name = member.current, f"member {member.number}"
            for admission in node.backend_pool.admissions:
                if admission.running or admission.total_waiting:
                    busy.append(f"{name}: {admission.running} running, {admission.total_waiting} waiting")
            if node.payments.payer._unconfirmed_holds:
                busy.append(f"{name}: {len(node.payments.payer._unconfirmed_holds)} holds not final")
            if node.payments.payee._uncaptured:
                busy.append(f"{name}: {len(node.payments.payee._uncaptured)} earnings not collected")
            if node.executor._credit_line.lent:
                busy.append(f"{name}: credit given")
            if node.payments.payee._served:
                busy.append(f"{name}: sessions under way")
            if any(protocol == OFFLOAD_PROTOCOL for _, protocol in node.streams._served):
                busy.append(f"{name}: offers being served")
            if any(stream.protocol == OFFLOAD_PROTOCOL and stream.exchange for stream in node.streams._pooled):
                busy.append(f"{name}: offers being made")
        return busy

    def check_conserved(self) -> None:
        """No credit was made or lost."""
        for member in self.members:
            if member.current is not None:
                state = member.current.engine.state
                assert compute_supply(state) == state.totals.supply == self.genesis.supply


class _Failures(logging.Handler):
    """Collects tracebacks that a stream handler left behind."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def simulate(play: Callable[[World], Awaitable[None]], options: Options | None = None, real_time: bool = False) -> None:
    """Run ``play`` in a new world whose members have met; afterwards credits must add up and nothing have crashed.

    ``real_time``: under the real clock, for what talks over real sockets.
    """

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World(options or Options(), nursery)
            await nursery.start(world.hub.run)
            await world.start(*range(len(world.members)))
            await world.wait_met()
            await play(world)
            world.check_conserved()
            assert not world.hub.errors, list(world.hub.errors)
            nursery.cancel_scope.cancel()

    failures = _Failures()
    logger = logging.getLogger("p2p.streams.exchanges")
    logger.addHandler(failures)
    try:
        if real_time:
            trio.run(main)
        else:
            run_simulation((options or Options()).seed, main)
    finally:
        logger.removeHandler(failures)
    assert not failures.records, [record.exc_info for record in failures.records]


# Users.


def make_body(**fields: Any) -> bytes:
    """The body of a chat completion."""
    content = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 100, **fields}
    return json.dumps(content).encode()


def make_request(stream: bool = True, local_only: bool = False, **fields: Any) -> Request:
    """A request as the API hands it to the dispatcher; of a stream the user wants every byte, its usage included."""
    if stream:
        fields = {"stream_options": {"include_usage": True}, **fields}
    return parse_request(CHAT_COMPLETIONS, make_body(stream=stream, **fields), 4096, local_only)


@dataclass
class Result:
    """What a user got: ``error`` if it was refused, ``broken`` if the answer broke off."""

    body: bytes = b""
    status: int = 0
    record: RequestRecord | None = None
    error: ApiError | None = None
    broken: BackendError | None = None

    @property
    def executor(self) -> bytes | None:
        assert self.record is not None
        return self.record.executor


async def ask(node: Node, request: Request | None = None, leave_after: int | None = None) -> Result:
    """Send a request; ``leave_after``: leave once so many bytes have come."""
    result = Result()
    try:
        async with node.dispatcher.complete(request or make_request()) as (answer, result.record):
            result.status = answer.status
            await _read(answer, result, leave_after)
    except ApiError as error:
        result.error = error
    return result


async def _read(answer: Answer, result: Result, leave_after: int | None) -> None:
    try:
        async for chunk in answer.body:
            result.body += chunk
            if leave_after is not None and len(result.body) >= leave_after:
                return
    except BackendError as error:
        result.broken = error


def get_script(member: Member) -> Script:
    assert member.backend is not None
    return member.backend.script


def get_name(member: Member) -> str:
    assert member.backend is not None
    return member.backend.name


def get_cancelled(member: Member) -> int:
    assert member.backend is not None
    return member.backend.cancelled
