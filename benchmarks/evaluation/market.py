"""Whole nodes of this project as the scheduler: overlay, ledger, payments, policies, on the same servers and requests.

A user asks the node that the workload names, once, and takes what comes: a refusal is a miss. Nodes have equal stakes,
and credit enough to pay for everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import trio

from benchmarks.evaluation.replay import Result, Servers, make_body, send_all
from benchmarks.evaluation.workloads import MAX_TOKENS, MODEL, Request, Setting
from benchmarks.network.shared_ledger import run_nodes
from benchmarks.network.simulation import Simulation
from p2p.simulation.runtime import SimulatedRuntime
from serving.backends.backend import Backend, BackendError
from serving.offload.settings import OriginatorSettings
from serving.openai.errors import ApiError
from serving.openai.requests import CHAT_COMPLETIONS, parse_request
from serving.scheduling.policy import DEFAULT_POLICY, Policy, PolicyParameters, load_policy

BLOCK_SPACING_S = 1.0
"""Of the simulated ledger."""
CAPACITY = 32
"""Requests that a node gives its backend at a time, if its cache does not hold more: the default of a node."""
TOKENS_PER_SLOT = 3000
"""Tokens of cache that a node counts for one running request: a prompt and half of a typical answer."""


@dataclass(frozen=True, slots=True)
class MarketKind:
    """What may be switched of the nodes: the owners' policy, and how a node chooses executors."""

    policy: str = DEFAULT_POLICY
    originator: OriginatorSettings = field(default_factory=OriginatorSettings)


@dataclass(frozen=True, slots=True)
class MarketRun:
    """What a market did: results, and a hash of every event."""

    results: tuple[Result, ...]
    trace: str


class Market(Simulation):
    """The nodes of a setting."""

    model = MODEL

    def __init__(self, setting: Setting, requests: Sequence[Request], seed: int, kind: MarketKind) -> None:
        self.kind = kind
        self.setting = setting
        self.requests = requests
        self.servers = Servers(setting, requests)
        self.originator_settings = kind.originator
        self.first_tokens: dict[int, float] = {}
        """Seconds until the first token of each stream that began, by request."""
        super().__init__(seed, len(setting.sites), 0.0, 0.0, 0, BLOCK_SPACING_S)
        self._numbers = {node.key.public_key: number for number, node in enumerate(self.nodes)}

    def make_policy(self, number: int) -> Policy:
        """The policy of the kind, for answers as long as the workload's."""
        return load_policy(self.kind.policy, PolicyParameters(max_tokens=MAX_TOKENS))

    def get_capacity(self, number: int, capacity: int) -> int:
        """As many requests as the cache holds, and at least as many as an owner gets who sets no number."""
        curve = self.setting.sites[number].curve
        return min(curve.max_running, max(CAPACITY, curve.kv_capacity // TOKENS_PER_SLOT))

    def make_backend(self, number: int, runtime: SimulatedRuntime, capacity: int) -> Backend:
        """The GPU of a node."""
        return self.servers.make_backend(number, runtime, capacity)

    def make_body(self, request: Request) -> bytes:
        """The request as its user sends it."""
        return make_body(request)

    async def run_market(self) -> MarketRun:
        """Let the nodes meet, then send all requests and wait for the last."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.hub.run)
            for node in self.nodes:
                await nursery.start(node.run)
            await trio.sleep(self.warm_up_s)
            results = [
                replace(result, first_token=self.first_tokens.get(result.id)) for result in await self.send_requests()
            ]
            nursery.cancel_scope.cancel()
        trace = hashlib.sha256(repr(results).encode()).hexdigest()[:16]
        return MarketRun(tuple(results), trace)

    async def send_requests(self) -> list[Result]:
        """Send all requests and wait; a subclass may do more meanwhile."""
        return await send_all(self.requests, self.handle)

    async def handle(self, request: Request) -> int:
        """See :meth:`benchmarks.evaluation.replay.Scheduler.handle`."""
        node = self.nodes[request.node]
        parsed = parse_request(CHAT_COMPLETIONS, self.make_body(request), node.policy.parameters.max_tokens)
        sent_at = trio.current_time()
        try:
            async with node.dispatcher.complete(parsed) as (answer, record):
                async for _ in answer.body:
                    if request.stream:
                        self.first_tokens.setdefault(request.id, trio.current_time() - sent_at)
        except ApiError as error:
            raise BackendError(f"{error.status}: {error}") from error
        if record.outcome != "completed":
            raise BackendError(record.outcome)
        return request.node if record.executor is None else self._numbers[record.executor]


def run_market(setting: Setting, requests: Sequence[Request], seed: int, kind: MarketKind) -> MarketRun:
    """Run the nodes of a setting over requests."""
    market = Market(setting, requests, seed, kind)
    return run_nodes(f"{setting.name}:{seed}", market.run_market)
