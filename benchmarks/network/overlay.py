"""Membership under churn: how soon all nodes know of a change, and what that costs, as the network grows.

Networks of 50 to 400 nodes run the discovery service, in memory and under a clock that jumps. In ten minutes 30 % of
the nodes leave, 30 % join and 10 % change their address. Half of the leavers crash, and every other of these silently,
as a host that lost power: dials to it time out, and its connections end by keepalive. Every fourth node is private: it
cannot be dialled, and is reached through relays.

A change counts as known when 99 % of the nodes that live through it have it in their peer table. The bytes are all that
a node sends, counted as :mod:`p2p.simulation.traffic` says, with the keepalives of its connections, which detect
crashes. Without these the bytes cannot grow like a logarithm: every node hears of every change, and a network of eight
times the nodes has about four times as many changes.

The exit code is 1 if a target is missed: of the times at the 99th percentile, of the growth of the bytes, or if a peer
table is wrong at the end.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

import trio

from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run, get_percentile
from chain.crypto import KeyPair
from p2p.discovery.service import Discovery
from p2p.peers.table import Change, ChangeKind
from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from p2p.streams.exchanges import Streams

SIZES = (50, 100, 200, 400)
"""Nodes of the networks."""
CHAIN = hashlib.sha256(b"overlay").digest()
"""The chain id."""
MODEL = "Qwen/Qwen3-8B"
"""What every node announces."""
BOOTSTRAP_NODES = 3
"""Nodes whose addresses all others have from the start; they never leave."""
PRIVATE_EVERY = 4
"""One in this many nodes is private."""
MAX_RESERVATIONS = 16
"""Private nodes that one public node relays for."""
JOINING_S = 30.0
"""Simulated seconds over which the first nodes join."""
SETTLING_S = 70.0
"""Simulated seconds between that and the first change."""
LEAVE_RATE = 0.3 / 600
"""Nodes that leave, per node and second; half of them crash."""
JOIN_RATE = 0.3 / 600
"""Nodes that join, per node and second."""
MOVE_RATE = 0.1 / 600
"""Changes of address, per node and second."""
QUIET_S = 30.0
"""Simulated seconds without changes at the end, after which no dead node may be listed."""
POLL_S = 0.25
"""Simulated seconds between looks at the peer tables: the resolution of all times below."""
GIVE_UP_S = 120.0
"""Seconds after which a change that is not known counts as this late."""
KEEPALIVE_RATE = 2 * (30 + 40) / 3.0
"""Bytes per second that one end of a connection sends: a Yamux ping and a pong every 3 s, with Noise, TCP and IP."""
CIRCUIT_KEEPALIVE_RATE = 2 * KEEPALIVE_RATE * 3.0 / 20.0
"""The same on a circuit, every 20 s; its relay sends each of them once more."""
TARGETS_S = {"join": 5.0, "leave": 5.0, "crash": 20.0, "address": 5.0}
"""Most seconds until a change of a kind is known, at the 99th percentile."""


class Member:
    """One node: its network, and discovery on it."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.key = KeyPair(hashlib.sha256(f"{world.seed}/{number}".encode()).digest())
        self.is_private = number % PRIVATE_EVERY == PRIVATE_EVERY - 1 and number >= BOOTSTRAP_NODES
        self.network = SimulatedNetwork(
            world.hub,
            self.key.public_key,
            listen=not self.is_private,
            address=world.new_address(),
            max_reservations=MAX_RESERVATIONS,
        )
        self.streams = Streams(self.network)
        self.discovery = Discovery(
            self.network,
            self.streams,
            SimulatedRuntime(f"{world.seed}/{number}"),
            self.key,
            CHAIN,
            bootstrap=world.bootstrap,
            models=(MODEL,),
        )
        self.born = trio.current_time()
        self.scope = trio.CancelScope()
        self.alive = True

    @property
    def me(self) -> bytes:
        return self.key.public_key

    async def run(self) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                events = self.discovery.events()
                nursery.start_soon(self.streams.run)
                nursery.start_soon(self._watch, events)
                await self.discovery.run()
                await trio.sleep_forever()  # the rest of a node that leaves lives a little longer

    async def _watch(self, events: trio.MemoryReceiveChannel[Change]) -> None:
        async for change in events:
            if change.kind in (ChangeKind.CRASHED, ChangeKind.EXPIRED) and self.alive:
                subject = self.world.members.get(change.peer)
                if subject is not None and subject.alive:
                    self.world.outcome.false_positives += 1

    async def leave(self) -> None:
        self.alive = False
        await self.discovery.leave()
        self.world.hub.kill(self.me)
        self.scope.cancel()

    def crash(self, silently: bool) -> None:
        self.alive = False
        notice = self.world.random.uniform(5.0, 8.0) if silently else self.world.random.uniform(0.05, 0.5)
        self.world.hub.kill(self.me, notice, silent=silently)
        self.scope.cancel()


@dataclass
class Event:
    """A change that the other nodes have to learn."""

    kind: str
    subject: Member
    started: float
    is_known_to: Callable[[Member], bool]
    witnesses: list[Member]

    @property
    def is_void(self) -> bool:
        """Whether it cannot become known any more: the subject that came or moved has gone."""
        return self.kind in ("join", "address") and not self.subject.alive


@dataclass
class Outcome:
    """What one run measured; times in simulated seconds, traffic per node and second."""

    nodes: int
    seed: int
    times: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in TARGETS_S})
    false_positives: int = 0
    ghosts: int = 0
    missing: int = 0
    bytes: float = 0.0
    connect_bytes: float = 0.0
    keepalive_bytes: float = 0.0
    messages: float = 0.0
    degree: float = 0.0
    real: float = 0.0


@dataclass
class _Sums:
    """Of what was seen in each sample: nodes, and their connections."""

    samples: int = 0
    nodes: int = 0
    direct: int = 0
    relayed: int = 0


class World:
    """``count`` nodes under churn for ``duration`` simulated seconds."""

    def __init__(self, seed: int, count: int, duration: float) -> None:
        self.seed = seed
        self.count = count
        self.duration = duration
        self.random = random.Random(f"churn:{seed}:{count}")
        self.hub = SimulatedInternet(f"{seed}:{count}")
        self.members: dict[bytes, Member] = {}
        self.outcome = Outcome(count, seed)
        self.bootstrap: list[tuple[bytes, str]] = []
        self._started = 0
        self._open: list[Event] = []
        self._gone = [0, 0, 0]  # messages, bytes and bytes of connections that nodes now gone have sent

    def new_address(self) -> str:
        a, b, c = (self.random.randrange(1, 255) for _ in range(3))
        return f"/ip4/10.{a}.{b}.{c}/tcp/4001"

    def living(self) -> list[Member]:
        return [member for member in self.members.values() if member.alive]

    async def run(self) -> Outcome:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.hub.run)
            for number in range(self.count):
                member = self.start(nursery)
                if number < BOOTSTRAP_NODES:
                    self.bootstrap.append((member.me, member.network.listen_addresses[0]))
                await trio.sleep(JOINING_S / self.count)
            await trio.sleep(SETTLING_S)
            before, began = self._sent(), trio.current_time()
            sums = _Sums()
            with trio.move_on_after(self.duration):
                async with trio.open_nursery() as churn:
                    churn.start_soon(self._repeat, JOIN_RATE, lambda: self.join(nursery))
                    churn.start_soon(self._repeat, LEAVE_RATE / 2, lambda: self.leave(nursery))
                    churn.start_soon(self._repeat, LEAVE_RATE / 2, self.crash)
                    churn.start_soon(self._repeat, MOVE_RATE, self.move)
                    churn.start_soon(self._poll)
                    churn.start_soon(self._sample, sums)
            after, took = self._sent(), trio.current_time() - began
            mean = sums.nodes / sums.samples
            rates = [(late - early) / took / mean for early, late in zip(before, after, strict=True)]
            self.outcome.messages, self.outcome.bytes, self.outcome.connect_bytes = rates
            self.outcome.degree = (sums.direct + sums.relayed) / sums.nodes
            self.outcome.keepalive_bytes = (
                sums.direct * KEEPALIVE_RATE + sums.relayed * CIRCUIT_KEEPALIVE_RATE
            ) / sums.nodes
            with trio.move_on_after(QUIET_S):
                await self._poll()
            self._close_events()
            alive = {member.me for member in self.living()}
            for member in self.living():
                listed = {known.peer for known in member.discovery.table.present()}
                self.outcome.ghosts += len(listed - alive)
                self.outcome.missing += len(alive - listed - {member.me})
            nursery.cancel_scope.cancel()
        return self.outcome

    def start(self, nursery: trio.Nursery) -> Member:
        member = Member(self, self._started)
        self._started += 1
        self.members[member.me] = member
        nursery.start_soon(member.run)
        return member

    def join(self, nursery: trio.Nursery) -> None:
        member = self.start(nursery)
        self._expect("join", member, lambda one: one.discovery.find(member.me) is not None)

    def leave(self, nursery: trio.Nursery) -> None:
        leaver = self._draw()
        nursery.start_soon(self._leave, leaver)
        self._expect("leave", leaver, lambda one: one.discovery.find(leaver.me) is None)

    async def _leave(self, leaver: Member) -> None:
        await leaver.leave()
        self._count_leaver(leaver)

    def crash(self) -> None:
        victim = self._draw()
        victim.crash(silently=self.random.random() < 0.5)
        self._count_leaver(victim)
        self._expect("crash", victim, lambda one: one.discovery.find(victim.me) is None)

    def move(self) -> None:
        mover, address = self._draw(public=True), self.new_address()
        self.hub.move(mover.me, address)

        def is_known(one: Member) -> bool:
            announcement = one.discovery.find(mover.me)
            return announcement is not None and announcement.addresses == (address,)

        self._expect("address", mover, is_known)

    def _draw(self, public: bool = False) -> Member:
        """A node that has been there for a minute, so that joining and leaving stand apart."""
        now = trio.current_time()
        settled = [one for one in self.living()[BOOTSTRAP_NODES:] if now - one.born > 60.0]
        return self.random.choice([one for one in settled if not (public and one.is_private)])

    def _count_leaver(self, member: Member) -> None:
        traffic = member.network.traffic
        for index, value in enumerate((traffic.messages, traffic.bytes, traffic.connect_bytes)):
            self._gone[index] += value
        del self.members[member.me]

    def _expect(self, kind: str, subject: Member, is_known_to: Callable[[Member], bool]) -> None:
        # A node that has just joined is still fetching the peer table: it is a witness of later changes only.
        now = trio.current_time()
        witnesses = [one for one in self.living() if one is not subject and now - one.born > 10.0]
        self._open.append(Event(kind, subject, now, is_known_to, witnesses))

    async def _repeat(self, rate: float, action: Callable[[], None]) -> None:
        while True:
            await trio.sleep(self.random.expovariate(rate * self.count))
            action()

    async def _poll(self) -> None:
        while True:
            now = trio.current_time()
            still = []
            for event in [event for event in self._open if not event.is_void]:
                event.witnesses = [one for one in event.witnesses if one.alive]
                # No node forgets a change within the minute: those that know it need not be asked again.
                unaware = [one for one in event.witnesses if not event.is_known_to(one)]
                if len(unaware) <= len(event.witnesses) // 100 or now - event.started >= GIVE_UP_S:
                    self.outcome.times[event.kind].append(now - event.started)
                else:
                    still.append(event)
            self._open = still
            await trio.sleep(POLL_S)

    def _close_events(self) -> None:
        for event in self._open:
            self.outcome.times[event.kind].append(GIVE_UP_S)

    async def _sample(self, sums: _Sums) -> None:
        while True:
            living = self.living()
            for one in living:
                peers = one.network.peers()
                relayed = sum(one.network.is_relayed(peer) for peer in peers)
                sums.relayed += relayed
                sums.direct += len(peers) - relayed
            sums.nodes += len(living)
            sums.samples += 1
            await trio.sleep(5.0)

    def _sent(self) -> list[int]:
        totals = list(self._gone)
        for member in self.members.values():
            traffic = member.network.traffic
            for index, value in enumerate((traffic.messages, traffic.bytes, traffic.connect_bytes)):
                totals[index] += value
        return totals


def measure(seed: int, nodes: int, duration: float) -> Outcome:
    """Run one network."""
    started = time.perf_counter()
    outcome = run_simulation(f"{seed}:{nodes}", World(seed, nodes, duration).run)
    outcome.real = time.perf_counter() - started
    return outcome


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def get_figures(outcomes: Sequence[Outcome]) -> list[Figure]:
    """The figures of all runs, by size of the network; what grows with it as multiples of the smallest."""
    sizes = sorted({outcome.nodes for outcome in outcomes})
    figures, bytes_of, all_of = [], {}, {}
    for size in sizes:
        runs = [outcome for outcome in outcomes if outcome.nodes == size]
        is_largest = size == sizes[-1]
        for kind, target in TARGETS_S.items():
            times = [seconds for run in runs for seconds in run.times[kind]]
            name = f"{kind} known to 99 %"
            for percent in (50, 99) if times else ():
                figures.append(
                    Figure(
                        f"{name}, p{percent}, n={size}",
                        get_percentile(times, percent),
                        "s",
                        target if percent == 99 else None,
                        "the target" if percent == 99 else f"{len(times)} changes",
                        limit=target if percent == 99 else None,
                        headline=f"{size} simulated nodes: {name}, p99" if percent == 99 and is_largest else "",
                    )
                )
        figures.append(Figure(f"false positives, n={size}", sum(run.false_positives for run in runs), "entries"))
        figures.append(Figure(f"ghosts at the end, n={size}", sum(run.ghosts for run in runs), "entries", limit=0))
        figures.append(Figure(f"missing at the end, n={size}", sum(run.missing for run in runs), "entries", limit=0))
        figures.append(Figure(f"messages, n={size}", _mean([run.messages for run in runs]), "/node/s"))
        bytes_of[size] = _mean([run.bytes for run in runs])
        all_of[size] = bytes_of[size] + _mean([run.keepalive_bytes for run in runs])
        headline = f"{size} simulated nodes: sent by each, keepalives included" if is_largest else ""
        for name, values in (("bytes", all_of), ("bytes without keepalives", bytes_of)):
            shown = headline if values is all_of else ""
            reference, against = values[sizes[0]], f"n={sizes[0]}"
            figures.append(Figure(f"{name}, n={size}", values[size], "B/s", reference, against, headline=shown))
    if len(sizes) > 1:
        limit, sized = math.log(sizes[-1]) / math.log(sizes[0]), f"n={sizes[-1]} over n={sizes[0]}"
        ratio, rest = (values[sizes[-1]] / values[sizes[0]] for values in (all_of, bytes_of))
        figures.append(Figure(f"bytes, {sized}", ratio, "", limit, "ratio of the sizes' logarithms", limit=limit))
        figures.append(
            Figure(f"bytes without keepalives, {sized}", rest, "", sizes[-1] / sizes[0], "ratio of the sizes")
        )
    return figures


def make_charts(outcomes: Sequence[Outcome]) -> list[Chart]:
    """How times and traffic grow with the network."""
    sizes = tuple(sorted({outcome.nodes for outcome in outcomes}))
    runs = {size: [outcome for outcome in outcomes if outcome.nodes == size] for size in sizes}
    times = []
    for kind in TARGETS_S:
        found = {size: [seconds for run in runs[size] for seconds in run.times[kind]] for size in sizes}
        places = tuple(size for size in sizes if found[size])
        times.append(Series(kind, places, tuple(get_percentile(found[size], 99) for size in places)))
    rest = tuple(_mean([run.bytes for run in runs[size]]) for size in sizes)
    keepalive = tuple(_mean([run.keepalive_bytes for run in runs[size]]) for size in sizes)
    every = tuple(map(sum, zip(rest, keepalive, strict=True)))
    limit = tuple(every[0] * math.log(size) / math.log(sizes[0]) for size in sizes)
    traffic = (
        Series("all", sizes, every),
        Series("without keepalives", sizes, rest),
        Series("target: as the logarithm", sizes, limit, is_limit=True),
    )
    return [
        Chart("A change is known to 99 % of the nodes, p99", "nodes", "seconds", tuple(times), x_scale="log"),
        Chart("Sent by each node", "nodes", "bytes per second", traffic, x_scale="log"),
    ]


def main() -> None:
    """Command line."""
    run = Run(
        "overlay",
        __doc__,
        Option("sizes", SIZES, SIZES[:1], "nodes of the networks"),
        Option("networks", 1, 1, "networks of each size, with successive seeds"),
        Option("minutes", 10.0, 1.0, "simulated minutes of churn"),
        Option("jobs", os.cpu_count() or 1, os.cpu_count() or 1, "networks that run at the same time"),
        is_timed=False,
    )
    outcomes = []
    with ProcessPoolExecutor(run.values["jobs"]) as pool:
        seeds = range(run.seed, run.seed + run.values["networks"])
        sizes = sorted(run.values["sizes"], reverse=True)  # the longest first
        duration = 60 * run.values["minutes"]
        futures = [pool.submit(measure, seed, size, duration) for size in sizes for seed in seeds]
        for future in as_completed(futures):
            outcomes.append(outcome := future.result())
            rate = f"{outcome.bytes:,.0f} + {outcome.keepalive_bytes:,.0f} B/s a node"
            print(f"n={outcome.nodes} seed={outcome.seed}: {rate}, {outcome.real:.0f} s", flush=True)
    outcomes.sort(key=lambda outcome: (outcome.nodes, outcome.seed))
    run.finish(get_figures(outcomes), make_charts(outcomes))


if __name__ == "__main__":
    main()
