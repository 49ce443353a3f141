"""Membership under churn: how soon everybody knows what happened, and what knowing costs, as the network grows.

``python -m benchmarks.overlay`` runs the discovery service of 50 to 400 nodes on a network in memory under a clock that
jumps, for ten minutes in which 30 % of the nodes leave, half of them without goodbye (every other of those silently, as
a host that lost power: dials to it time out and its connections die by keepalive), 30 % join and 10 % change their
address. Every fourth node is private: it cannot be dialled, and holds slots at relays. A change counts as known when
99 % of the nodes that live through it have it in their view. Bytes are all that a node sends, counted as
:mod:`p2p.simulation.network` says: also the keepalives of its connections, which are the failure detector, and by which
crashes are noticed. The rows without them show what the rest costs. That cannot stay flat for good, since every node
has to hear of every change, and there are more of these in a larger network: in eight times the nodes about four times
as much news.

It exits with 1 if a target is missed: of the times at the 99th percentile, of the growth of the bytes, or if a view is
wrong at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import trio
from rich.console import Console
from rich.table import Table

from benchmarks.report import Claim, get_percentile, report
from chain.crypto import KeyPair
from p2p.discovery.service import Discovery
from p2p.peers.table import ChangeKind
from p2p.runtime import SimulatedRuntime, run_simulation
from p2p.simulation.network import MemoryHub, MemoryNetwork
from p2p.streams.exchanges import Streams

SIZES = (50, 100, 200, 400)
CHAIN = hashlib.sha256(b"overlay").digest()
MODEL = "Qwen/Qwen3-8B"
BOOTSTRAP = 3
"""Nodes that everybody knows from the start; they never leave."""
PRIVATE = 4
"""Every so many'th node is private."""
RELAY_SLOTS = 16
JOINING = 30.0
"""Simulated seconds over which the first nodes join."""
SETTLING = 70.0
"""Simulated seconds between that and the first change."""
LEAVE_RATE = JOIN_RATE = 0.3 / 600
MOVE_RATE = 0.1 / 600
"""Changes per node and second."""
QUIET = 30.0
"""Simulated seconds without changes at the end, after which no dead node may be listed."""
POLL = 0.25
"""Simulated seconds between looks at the views: the resolution of all times below."""
GIVE_UP = 120.0
"""Seconds after which a change that is not known counts as this late."""
KEEPALIVE = 2 * (30 + 40) / 3.0
CIRCUIT_KEEPALIVE = 2 * KEEPALIVE * 3.0 / 20.0
"""Bytes a second that one end of a connection sends: a Yamux ping and a pong each 3 s, with Noise, TCP and IP. On a
circuit they are seldom, and its relay sends them once more."""
TARGET = "target"
"""What is named so is compared with what must not be exceeded."""
TARGETS = {"join": 5.0, "leave": 5.0, "crash": 20.0, "address": 5.0}


class Member:
    """One node: its network, and discovery on it."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.key = KeyPair(hashlib.sha256(f"{world.seed}/{number}".encode()).digest())
        self.is_private = number % PRIVATE == PRIVATE - 1 and number >= BOOTSTRAP
        self.network = MemoryNetwork(
            world.hub,
            self.key.public_key,
            listen=not self.is_private,
            address=world.new_address(),
            relay_slots=RELAY_SLOTS,
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

    async def _watch(self, events: trio.MemoryReceiveChannel) -> None:
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
    """Something that the others have to learn."""

    kind: str
    subject: Member
    started: float
    is_known_to: Callable[[Member], bool]
    witnesses: list[Member]

    @property
    def is_over(self) -> bool:
        """Nobody can learn any more that it came, or where it is: it has gone meanwhile."""
        return self.kind in ("join", "address") and not self.subject.alive


@dataclass
class Outcome:
    """What one run measured; times in simulated seconds, traffic per node and second."""

    nodes: int
    seed: int
    times: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in TARGETS})
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
        self.hub = MemoryHub(f"{seed}:{count}")
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
                if number < BOOTSTRAP:
                    self.bootstrap.append((member.me, member.network.listen_addresses[0]))
                await trio.sleep(JOINING / self.count)
            await trio.sleep(SETTLING)
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
            self.outcome.keepalive_bytes = (sums.direct * KEEPALIVE + sums.relayed * CIRCUIT_KEEPALIVE) / sums.nodes
            with trio.move_on_after(QUIET):
                await self._poll()
            self._close_events()
            alive = {member.me for member in self.living()}
            for member in self.living():
                listed = {known.peer for known in member.discovery.view.present()}
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
        self._bury(leaver)

    def crash(self) -> None:
        victim = self._draw()
        victim.crash(silently=self.random.random() < 0.5)
        self._bury(victim)
        self._expect("crash", victim, lambda one: one.discovery.find(victim.me) is None)

    def move(self) -> None:
        mover, address = self._draw(public=True), self.new_address()
        self.hub.move(mover.me, address)

        def is_known(one: Member) -> bool:
            announcement = one.discovery.find(mover.me)
            return announcement is not None and announcement.addresses == (address,)

        self._expect("address", mover, is_known)

    def _draw(self, public: bool = False) -> Member:
        """Somebody who has been there for a while, so that joining and leaving stand apart."""
        now = trio.current_time()
        settled = [one for one in self.living()[BOOTSTRAP:] if now - one.born > 60.0]
        return self.random.choice([one for one in settled if not (public and one.is_private)])

    def _bury(self, member: Member) -> None:
        traffic = member.network.traffic
        for index, value in enumerate((traffic.messages, traffic.bytes, traffic.connect_bytes)):
            self._gone[index] += value
        del self.members[member.me]

    def _expect(self, kind: str, subject: Member, is_known_to: Callable[[Member], bool]) -> None:
        # Whoever has just come is still fetching the rest of the view: it is a witness of later changes.
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
            for event in [event for event in self._open if not event.is_over]:
                event.witnesses = [one for one in event.witnesses if one.alive]
                # Nobody forgets what it knows within the minute, so whoever knows need not be asked again.
                unaware = [one for one in event.witnesses if not event.is_known_to(one)]
                if len(unaware) <= len(event.witnesses) // 100 or now - event.started >= GIVE_UP:
                    self.outcome.times[event.kind].append(now - event.started)
                else:
                    still.append(event)
            self._open = still
            await trio.sleep(POLL)

    def _close_events(self) -> None:
        for event in self._open:
            self.outcome.times[event.kind].append(GIVE_UP)

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


def get_claims(outcomes: Sequence[Outcome]) -> list[Claim]:
    """The figures of all runs, by size of the network; what grows with it as multiples of the smallest."""
    sizes = sorted({outcome.nodes for outcome in outcomes})
    claims, bytes_of, all_of = [], {}, {}
    for size in sizes:
        runs = [outcome for outcome in outcomes if outcome.nodes == size]
        for kind, target in TARGETS.items():
            times = [seconds for run in runs for seconds in run.times[kind]]
            for percent in (50, 99) if times else ():
                name = f"{kind} known to 99 %, p{percent}, n={size}"
                against = f"{TARGET if percent == 99 else 'the same'}; {len(times)} changes"
                claims.append(Claim(name, get_percentile(times, percent), "s", target, against))
        claims.append(Claim(f"false positives, n={size}", sum(run.false_positives for run in runs), "views"))
        claims.append(Claim(f"ghosts at the end, n={size}", sum(run.ghosts for run in runs), "views", 0, TARGET))
        claims.append(Claim(f"missing at the end, n={size}", sum(run.missing for run in runs), "views", 0, TARGET))
        claims.append(Claim(f"messages, n={size}", _mean([run.messages for run in runs]), "/node/s"))
        bytes_of[size] = _mean([run.bytes for run in runs])
        all_of[size] = bytes_of[size] + _mean([run.keepalive_bytes for run in runs])
        claims.append(Claim(f"bytes, n={size}", all_of[size], "B/node/s", all_of[sizes[0]], f"n={sizes[0]}"))
        name = f"bytes without keepalives, n={size}"
        claims.append(Claim(name, bytes_of[size], "B/node/s", bytes_of[sizes[0]], f"n={sizes[0]}"))
    if len(sizes) > 1:
        limit, sized = math.log(sizes[-1]) / math.log(sizes[0]), f"n={sizes[-1]} over n={sizes[0]}"
        ratio, rest = (values[sizes[-1]] / values[sizes[0]] for values in (all_of, bytes_of))
        claims.append(Claim(f"bytes, {sized}", ratio, "", limit, f"{TARGET}: ratio of logs"))
        claims.append(Claim(f"bytes without keepalives, {sized}", rest, "", sizes[-1] / sizes[0], "ratio of sizes"))
    return claims


def find_missed(claims: Sequence[Claim]) -> list[Claim]:
    """The targets that were not met."""
    return [
        claim
        for claim in claims
        if claim.against.startswith(TARGET) and claim.reference is not None and claim.value > claim.reference
    ]


def print_table(outcomes: Sequence[Outcome]) -> None:
    """One row per size: what a person wants to see first."""
    table = Table(title="membership under churn (seconds until 99 % of the nodes know: p50 / p99)", box=None)
    for heading in ("nodes", *TARGETS, "false +", "ghosts", "msg/node/s", "B/node/s", "of these keepalive", "connect"):
        table.add_column(heading, justify="right")
    for size in sorted({outcome.nodes for outcome in outcomes}):
        runs = [outcome for outcome in outcomes if outcome.nodes == size]
        row = [str(size)]
        for kind in TARGETS:
            times = [seconds for run in runs for seconds in run.times[kind]]
            row.append(f"{get_percentile(times, 50):.1f} / {get_percentile(times, 99):.1f}" if times else "-")
        row += [str(sum(run.false_positives for run in runs)), str(sum(run.ghosts + run.missing for run in runs))]
        row.append(f"{_mean([run.messages for run in runs]):.1f}")
        keepalive = _mean([run.keepalive_bytes for run in runs])
        row += [f"{_mean([run.bytes for run in runs]) + keepalive:,.0f}", f"{keepalive:,.0f}"]
        row.append(f"{_mean([run.connect_bytes for run in runs]):,.0f}")
        table.add_row(*row)
    Console(width=150).print(table)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1, help="networks of each size")
    parser.add_argument("--minutes", type=float, default=10.0, help="simulated minutes of churn")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="networks that run at the same time")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    options = parser.parse_args()
    sizes, seeds, minutes = (SIZES[:1], 1, 1.0) if options.quick else (options.sizes, options.seeds, options.minutes)
    outcomes = []
    with ProcessPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(measure, seed, size, 60 * minutes) for seed in range(seeds) for size in sizes]
        for run in as_completed(runs):
            outcomes.append(outcome := run.result())
            rate = f"{outcome.bytes:,.0f} + {outcome.keepalive_bytes:,.0f} B/node/s"
            print(f"n={outcome.nodes} seed={outcome.seed}: {rate}, {outcome.real:.0f} s", flush=True)
    outcomes.sort(key=lambda outcome: (outcome.nodes, outcome.seed))
    claims = get_claims(outcomes)
    report("overlay", claims, options.json)
    print_table(outcomes)
    missed = find_missed(claims)
    for claim in missed:
        print(f"missed: {claim.name} is {claim.value:.3g} {claim.unit}, above {claim.reference:.3g}", file=sys.stderr)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
