"""Schedulers without a market, for comparison. What each knows is what makes it strong or weak.

=============  =========================================================================================================
single         every node serves its own users
centralized    the paper's centre: a request stays at its node while less than 0.6 of the cache there is used, else it
               goes to the node with the least (cache usage, running + waiting), from pages that it reads at once
jsq            join the shortest queue, with perfect and instant knowledge of all counts
oracle         perfect knowledge of speeds and of all lengths: the node where a request ends first if none comes after
reference      the reference implementation's nodes, see :class:`Reference`
=============  =========================================================================================================
"""

from __future__ import annotations

import math
import pickle
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from benchmarks.evaluation.replay import MakeScheduler, serve
from benchmarks.evaluation.workloads import MAX_TOKENS, Request, Setting
from serving.backends.load_metrics import MetricsPage, parse_vllm
from serving.simulation.continuous_batch import ContinuousBatch, Progress
from serving.simulation.modelled_backend import ModelledBackend


def read_page(backend: ModelledBackend) -> MetricsPage:
    """The metrics page of a server, at this moment."""
    page = parse_vllm(backend.make_metrics_page())
    assert page is not None
    return page


class Single:
    """No sharing. Other schedulers that place a request once and for all override :meth:`choose`."""

    def __init__(self, setting: Setting, backends: Sequence[ModelledBackend], chance: random.Random) -> None:
        self.setting = setting
        self.backends = backends
        self.chance = chance
        self.in_flight = [0] * len(backends)

    def choose(self, request: Request) -> int:
        """The node that is to serve a request."""
        return request.node

    async def handle(self, request: Request) -> int:
        """See :meth:`benchmarks.evaluation.replay.Scheduler.handle`."""
        chosen = self.choose(request)
        self.in_flight[chosen] += 1
        try:
            await serve(self.backends[chosen], request)
        finally:
            self.in_flight[chosen] -= 1
            self.forget(chosen, request)
        return chosen

    def forget(self, chosen: int, request: Request) -> None:
        """A request is no longer served."""

    async def run(self) -> None:
        """See :meth:`benchmarks.evaluation.replay.Scheduler.run`."""


class Centralized(Single):
    """The paper's centre."""

    keep_below = 0.6

    def choose(self, request: Request) -> int:
        pages = [read_page(backend) for backend in self.backends]
        usages = [page.cache_usage or 0.0 for page in pages]
        if usages[request.node] < self.keep_below:
            return request.node
        return min(range(len(pages)), key=lambda node: (usages[node], pages[node].running + pages[node].waiting))


class ShortestQueue(Single):
    """Join the shortest queue; the own node wins ties, then chance."""

    def choose(self, request: Request) -> int:
        return min(
            range(len(self.backends)),
            key=lambda node: (self.in_flight[node], node != request.node, self.chance.random()),
        )


class Oracle(Single):
    """Least finish, by running a copy of every engine to the end of the request."""

    def __init__(self, setting: Setting, backends: Sequence[ModelledBackend], chance: random.Random) -> None:
        super().__init__(setting, backends, chance)
        self._engines = [ContinuousBatch(site.curve, report_interval=1e9) for site in setting.sites]

    def choose(self, request: Request) -> int:
        now = trio.current_time()
        order = sorted(range(len(self.backends)), key=lambda node: (node != request.node, node))
        chosen = min(order, key=lambda node: self._predict(node, now, request))
        self.submit(chosen, self._engines[chosen], now, request)
        return chosen

    def forget(self, chosen: int, request: Request) -> None:
        engine = self._engines[chosen]
        engine.advance(trio.current_time())
        engine.cancel(trio.current_time(), request.id)

    def submit(self, node: int, engine: ContinuousBatch, now: float, request: Request) -> None:
        """Give a request to the engine of a node.

        Raises:
            ValueError: it is too long for it.
        """
        engine.submit(now, request.id, request.prompt, min(request.output, MAX_TOKENS))

    def _predict(self, node: int, now: float, request: Request) -> float:
        self._engines[node].advance(now)
        engine: ContinuousBatch = pickle.loads(pickle.dumps(self._engines[node]))  # a copy, quicker than deepcopy's
        try:
            self.submit(node, engine, now, request)
        except ValueError:
            return math.inf
        while (event := engine.next_event()) is not None:
            for report in engine.advance(event):
                if report.id == request.id and self.is_over(report):
                    return report.time
        raise AssertionError("a request never ends")

    def is_over(self, report: Progress) -> bool:
        """Whether this is what the node is chosen by: the end. A subclass may be content with less."""
        return report.finished


@dataclass(eq=False, slots=True)
class _Job:
    """A request on its way through the nodes of the reference implementation."""

    request: Request
    route: list[int]
    done: trio.Event = field(default_factory=trio.Event)
    executor: int | None = None
    failed: BaseException | None = None


@dataclass(eq=False, slots=True)
class _ReferenceNode:
    """What one node of the reference implementation knows: its queues, its stake, and its load of some time ago."""

    usage: float = 0.0
    waiting: int = 0
    stake: int = 0
    own: deque[_Job] = field(default_factory=deque)
    delegated: deque[_Job] = field(default_factory=deque)
    work: trio.Event = field(default_factory=trio.Event)


class Reference:
    """The reference implementation's behaviour, from its published code, with duels off.

    A node takes one request from its queues every 0.5 s, users' before delegated ones. Below 0.7 of cache usage, which
    it reads every 3 s, it serves the request itself. Else, with probability 0.8, three executors are drawn by stake,
    and the first that accepts gets it: one accepts with probability 0.8 if its users do not wait and its usage is below
    0.7. Else, with probability 0.2, the request is given to the own server, and otherwise put back. A delegated request
    is treated alike by its executor, but does not return to a node that had it. Stakes follow idleness every second.
    """

    DISPATCH_S = 0.5
    LOAD_S = 3.0
    STAKE_S = 1.0
    MAX_STAKE = 4
    STAKE_STEP = 2
    TARGET = 0.7
    OFFLOAD, ACCEPT, QUEUE = 0.8, 0.8, 0.2
    DRAWN = 3
    HOP_S = 0.03

    def __init__(self, setting: Setting, backends: Sequence[ModelledBackend], chance: random.Random) -> None:
        self._backends = backends
        self._chance = chance
        self._nodes = [_ReferenceNode() for _ in backends]
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Run the loops of all nodes."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for number in range(len(self._nodes)):
                nursery.start_soon(self._dispatch, number)
                nursery.start_soon(self._read_load, number)
                nursery.start_soon(self._adjust_stake, number)

    async def handle(self, request: Request) -> int:
        """See :meth:`benchmarks.evaluation.replay.Scheduler.handle`."""
        job = _Job(request, [request.node])
        node = self._nodes[request.node]
        node.own.append(job)
        node.work.set()
        await job.done.wait()
        if job.failed is not None:
            raise job.failed
        assert job.executor is not None
        return job.executor

    async def _dispatch(self, number: int) -> None:
        node = self._nodes[number]
        while True:
            await trio.sleep(self.DISPATCH_S)
            while not node.own and not node.delegated:
                node.work = trio.Event()
                await node.work.wait()
            queue = node.own or node.delegated
            job = queue.popleft()
            chosen = self._choose(number, job)
            assert self._nursery is not None
            if chosen is None:
                queue.appendleft(job)
            elif chosen == number:
                self._nursery.start_soon(self._serve, number, job)
            else:
                job.route.append(chosen)
                self._nursery.start_soon(self._delegate, chosen, job)

    def _choose(self, number: int, job: _Job) -> int | None:
        if self._nodes[number].usage < self.TARGET:
            return number
        if self._chance.random() < self.OFFLOAD:
            for candidate in self._draw(job.route):
                other = self._nodes[candidate]
                if self._chance.random() < self.ACCEPT and not other.own and other.usage < self.TARGET:
                    return candidate
        return number if self._chance.random() < self.QUEUE else None

    def _draw(self, route: Sequence[int]) -> list[int]:
        """Up to three nodes with stake that have not had the request, drawn by stake without replacement."""
        stakes = {number: node.stake for number, node in enumerate(self._nodes) if node.stake and number not in route}
        drawn: list[int] = []
        while stakes and len(drawn) < self.DRAWN:
            (chosen,) = self._chance.choices(list(stakes), list(stakes.values()))
            drawn.append(chosen)
            del stakes[chosen]
        return drawn

    async def _serve(self, number: int, job: _Job) -> None:
        try:
            await serve(self._backends[number], job.request)
            job.executor = number
        except Exception as error:
            job.failed = error
        job.done.set()

    async def _delegate(self, chosen: int, job: _Job) -> None:
        await trio.sleep(self.HOP_S)
        self._nodes[chosen].delegated.append(job)
        self._nodes[chosen].work.set()

    async def _read_load(self, number: int) -> None:
        node = self._nodes[number]
        while True:
            page = read_page(self._backends[number])
            node.usage, node.waiting = page.cache_usage or 0.0, page.waiting
            await trio.sleep(self.LOAD_S)

    async def _adjust_stake(self, number: int) -> None:
        node = self._nodes[number]
        while True:
            score = 0
            if not node.waiting and node.usage <= self.TARGET:
                score = self.MAX_STAKE - min(self.MAX_STAKE - 1, int(4 * node.usage / self.TARGET))
            target = max(0, score - (2 if node.own or node.delegated else 0))
            node.stake += max(-self.STAKE_STEP, min(self.STAKE_STEP, target - node.stake))
            await trio.sleep(self.STAKE_S)


BASELINES: dict[str, MakeScheduler] = {
    "single": Single,
    "centralized": Centralized,
    "jsq": ShortestQueue,
    "oracle": Oracle,
    "reference": Reference,
}
"""By name, in the order in which they are shown."""
