"""Twins: faulty validators that run twice under one key, against scripted leaders and partitions, then synchrony.

The idea is that of Bano et al. (Twins: BFT Systems Made Robust, 2021). A schedule says for the first views who leads,
and who hears whom: a view may be cut differently for proposals, each kind of vote, and certificates. Both halves of a
pair follow the protocol, so that all they say is well formed. Afterwards everything arrives, and the chain must go on.
One number gives one schedule: ``make twins N=100000`` runs that many, ``make twins SEED=4711`` one.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chain import crypto
from chain.crypto import KeyPair, hash_bytes
from chain.transition import justification
from chain.types.blocks import MAX_NULLIFICATIONS, Block
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate, Vote, VoteKind, is_slashable
from consensus.simplex.core import Simplex
from consensus.simplex.messages import Message, Propose, Repropose
from consensus.simplex.validation import get_parent_certificate
from tests.adversarial.voters.flip_flopper import Rewinder
from tests.support.agreement.agreement import Network, Node, Runaway, Simulation

KEYS = [KeyPair(hash_bytes("twins", bytes([number]))) for number in range(9)]

SCRIPTED = 10.0
"""Seconds that the script may take; the rest of it lapses then."""

HEALED = 300.0
"""Seconds within which the chain must go on."""

Groups = tuple[frozenset[int], ...]
Cuts = dict[tuple[int, int, str], Groups]
"""By epoch, view and kind of message, which nodes hear one another."""

SIZES = (4, 4, 4, 5, 5, 7)
KINDS = ("proposal", "notarize", "nullify", "finalize", "certificate")


class ScriptedSet(ValidatorSet):
    """A committee whose first leaders are scripted."""

    script: dict[int, bytes]

    def compute_leader(self, beacon: bytes, view: int) -> bytes:
        return self.script.get(view) or super().compute_leader(beacon, view)


class ScriptedMajority(ScriptedSet):
    """The same with a quorum of more than half: what the 2/3 rule is measured against."""

    def is_quorum(self, signers: Iterable[bytes]) -> bool:
        return 2 * self.get_stake(signers) > self.total_stake


class TwinsSimulation(Simulation):
    """Without checks of signatures: everybody runs code that signs honestly, so they would cost time alone."""

    max_events = 60_000

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.said: set[Vote] = set()
        """The votes that twins sent while the script ran."""
        self.seen: Counter[str] = Counter()
        """What happened, by name, 1 each."""

    def verify(self, claims: Iterable[crypto.SignatureCheck]) -> bool:
        return True


class Stingy(Simplex):
    """Answers no request for its blocks."""

    def hand_out(self, block: Block) -> Block | None:
        return None


class Falsifier(Simplex):
    """Gives something else under the header that was asked for."""

    def hand_out(self, block: Block) -> Block | None:
        return replace(block, body=replace(block.body, removed=(self._me,)))


HANDS: dict[str, tuple[type[Simplex], ...]] = {"blocks": (), "nothing": (Stingy,), "altered blocks": (Falsifier,)}


@dataclass(frozen=True)
class Schedule:
    """What happens. Nodes are numbered: first one for each key, then the second halves of ``twins``."""

    seed: int
    stakes: tuple[int, ...]
    twins: tuple[int, ...]
    """Validators that run twice."""
    views: int
    """Scripted views of each epoch."""
    epoch_heights: int
    committees: tuple[tuple[int, ...], ...]
    """Members by epoch; the last stays."""
    leaders: tuple[tuple[int, ...], ...]
    """By epoch and view."""
    cuts: Cuts
    phases: tuple[tuple[float, Groups], ...]
    """Partitions by time, on top of those by view: seconds, groups."""
    crash: tuple[int, float] | None
    """An honest node that loses power, and when."""
    are_strangers: bool
    """Whether the halves of a pair hear nothing of each other, and so never notice what the other said."""
    proven: int
    """Nullifications that a body carries at most: fewer than in earnest, so that a few views are a long halt."""
    are_rewinders: bool
    """Whether twins that lead ignore what was notarized since the last final block, where a body does not show it."""
    hands_out: str = "blocks"
    """What twins give to who fetches a block from them: see ``HANDS``."""
    twist: str = ""
    """What is hard about it on purpose: see :func:`harden`."""
    dies: tuple[int, int, int] | None = None
    """An honest node that loses power once it sent finalize in an epoch and view."""

    def describe(self) -> str:
        return "\n".join(
            [
                f"seed {self.seed}: {self.twist or 'as drawn'}",
                f"  stakes {self.stakes}, twins {self.twins}, epochs of {self.epoch_heights}",
                f"  committees {self.committees}, leaders {self.leaders}, proven {self.proven}",
                f"  strangers {self.are_strangers}, rewinders {self.are_rewinders}, hand out {self.hands_out}",
                f"  phases {[(seconds, [sorted(group) for group in groups]) for seconds, groups in self.phases]}",
                f"  crash {self.crash}, dies {self.dies}",
                *(f"  {place}: {[sorted(group) for group in groups]}" for place, groups in sorted(self.cuts.items())),
            ]
        )


def make_schedule(seed: int, sizes: Sequence[int] = SIZES, *, third: bool = False) -> Schedule:
    """The schedule of ``seed``, with a number of validators from ``sizes``.

    Args:
        third: the twins hold exactly a third of the stake instead of less.
    """
    schedule, rng = draw_schedule(seed, sizes, third=third), random.Random(f"twist {seed}")
    return schedule if third or rng.random() < 0.7 else harden(schedule, rng)


def harden(schedule: Schedule, rng: random.Random) -> Schedule:
    """Have happen what chance hardly ever brings about.

    * ``finalization`` or ``notarization known to one`` (``later``: in another epoch than the first): of a block of an
      honest leader; a twin leads next, and builds as if it were nothing. Sometimes a node dies after its finalize.
    * ``last block withheld``: the only block of an epoch is notarized, but a twin alone knows, and shows it to the next
      committee, in which it sits too, while the epoch's own goes on and makes another one final.
    """
    if len(schedule.committees[0]) == 4 and rng.random() < 0.3:
        return _withhold_last(schedule, rng)
    return _hide(schedule, rng, rng.choice(("finalize", "finalize", "notarize")))


def _hide(schedule: Schedule, rng: random.Random, kind: str) -> Schedule:
    epoch = rng.randrange(len(schedule.committees))
    members, nodes = schedule.committees[epoch], range(len(schedule.stakes) + len(schedule.twins))
    honest = [member for member in members if member not in schedule.twins]
    faulty = [member for member in members if member in schedule.twins]
    keeper, view = rng.choice(honest), rng.randint(1, schedule.views - 1)
    cuts = {place: groups for place, groups in schedule.cuts.items() if place[0] >= epoch}
    cuts = {place: groups for place, groups in cuts.items() if place[0] > epoch or place[1] not in (view, view + 1)}
    cuts[epoch, view, kind] = tuple(frozenset({node, keeper}) for node in nodes if node != keeper)
    cuts[epoch, view, "certificate"] = (frozenset(),)
    if faulty and rng.random() < 0.7:  # from one half of the pair alone
        cuts[epoch, view + 1, "proposal"] = (frozenset(range(len(schedule.stakes))),)
    leaders = [list(each) for each in schedule.leaders]
    leaders[epoch][view - 1 : view + 1] = [rng.choice(honest), rng.choice(faulty or honest)]
    what = "finalization" if kind == "finalize" else "notarization"
    return replace(
        schedule,
        leaders=tuple(map(tuple, leaders)),
        cuts=cuts,
        phases=(),
        proven=rng.choice((0, 0, 1)),
        are_rewinders=True,
        twist=f"{what} known to one{' later' if epoch else ''}",
        dies=(rng.choice(honest), epoch, view) if rng.random() < 0.5 else None,
    )


def _withhold_last(schedule: Schedule, rng: random.Random) -> Schedule:
    one, two, three, twin, *outside = rng.sample(range(6), 6)
    half, other = rng.sample((twin, 6), 2)  # which of the pair does it
    ours, theirs = frozenset((one, two, three, other)), frozenset((*outside, half))
    cuts = {
        (epoch, view, kind): (group,) for epoch, group in ((0, ours), (1, theirs)) for view in (1, 2) for kind in KINDS
    }
    cuts[0, 1, "proposal"] = (frozenset((one, two, half)),)
    cuts[0, 1, "notarize"] = (frozenset((one, half)), frozenset((two, half)))
    cuts[0, 1, "certificate"] = (theirs,)
    committees = ((one, two, three, twin), (*outside, twin, rng.choice((one, two, three))))
    return replace(
        schedule,
        stakes=(1000,) * 6,
        twins=(twin,),
        views=2,
        epoch_heights=1,
        committees=tuple(tuple(sorted(members)) for members in committees),
        leaders=((one, two), tuple(outside)),
        cuts=cuts,
        phases=(),
        crash=(three, rng.uniform(0.0, 6.0)) if rng.random() < 0.3 else None,
        twist="last block withheld",
    )


def draw_schedule(seed: int, sizes: Sequence[int] = SIZES, *, third: bool = False) -> Schedule:
    """The schedule of ``seed`` without a twist."""
    rng = random.Random(seed)
    size = rng.choice(sizes)
    has_epochs = not third and rng.random() < 0.25
    keys = min(len(KEYS), size + 2) if has_epochs else size
    stakes, twins = _draw_stakes(rng, keys, third)
    if third:
        keys = size = len(stakes)
    committees = _draw_committees(rng, size, stakes, twins) if has_epochs else (tuple(range(size)),)
    nodes, views = keys + len(twins), rng.randint(3, 4)
    leaders, cuts = [], {}
    for epoch, members in enumerate(committees):
        faulty = [member for member in members if member in twins]
        leaders.append(tuple(rng.choice(faulty or members if rng.random() < 0.5 else members) for _ in range(views)))
        for view in range(1, views + 1):
            whole = _draw_groups(rng, nodes, stakes, twins)
            is_mixed = rng.random() < 0.5
            for kind in KINDS:
                if rng.random() < 0.9:
                    groups = _draw_groups(rng, nodes, stakes, twins) if is_mixed and rng.random() < 0.4 else whole
                    cuts[epoch, view, kind] = groups
    by_time = rng.random() < 0.3
    phases = [(rng.uniform(0.1, 3.0), _draw_groups(rng, nodes, stakes, twins)) for _ in range(rng.randint(1, 4))]
    honest = [number for number in range(keys) if number not in twins]
    return Schedule(
        seed,
        stakes,
        twins,
        views,
        rng.choice((1, 2, 3)) if has_epochs else 1000,
        committees,
        tuple(leaders),
        {} if by_time and rng.random() < 0.5 else cuts,
        tuple(phases) if by_time else (),
        (rng.choice(honest), rng.uniform(0.0, 6.0)) if rng.random() < 0.2 else None,
        rng.random() < 0.7,
        rng.choice((0, 1, MAX_NULLIFICATIONS)),
        rng.random() < 0.4,
        rng.choice(("blocks", "blocks", "nothing", "altered blocks")),
    )


def _draw_stakes(rng: random.Random, keys: int, third: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Stakes, and the largest random group of twins below (or exactly at) a third."""
    if third:
        stakes = rng.choice(((1000,) * 3, (1000,) * 6, (2000, 1000, 1000, 1000, 1000), (3000, 2000, 1000, 1500, 1500)))
        ways = {3: ((0,),), 6: ((0, 1),), 5: ((0,), (1, 2)) if stakes[0] == 2000 else ((0,), (1, 2), (3, 4))}
        return stakes, rng.choice(ways[len(stakes)])
    stakes = (1000,) * keys if rng.random() < 0.5 else tuple(rng.choice((500, 1000, 1500, 2500)) for _ in range(keys))
    twins: list[int] = []
    for number in rng.sample(range(keys), keys):
        if 3 * sum(stakes[twin] for twin in (*twins, number)) < sum(stakes):
            twins.append(number)
    return stakes, tuple(sorted(twins[:2]))


def _draw_committees(
    rng: random.Random, size: int, stakes: tuple[int, ...], twins: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """Four committees, in each of which twins hold less than a third."""
    committees: list[tuple[int, ...]] = []
    while len(committees) < 4:
        members = tuple(sorted(rng.sample(range(len(stakes)), size)))
        faulty = sum(stakes[member] for member in members if member in twins)
        if 3 * faulty < sum(stakes[member] for member in members):
            committees.append(members)
    return tuple(committees)


def _draw_groups(rng: random.Random, nodes: int, stakes: tuple[int, ...], twins: tuple[int, ...]) -> Groups:
    """Two sides, or three; usually the halves of a pair stand on different ones and one side has most of the stake."""
    sides = rng.choice((2, 2, 2, 3))
    bias = rng.choice((0.5, 0.7, 0.85))
    places = [0 if rng.random() < bias else rng.randrange(1, sides) for _ in range(nodes)]
    for number, twin in enumerate(twins):
        if rng.random() < 0.8 and places[twin] == places[len(stakes) + number]:
            places[len(stakes) + number] = (places[twin] + 1) % sides
    return tuple(frozenset(node for node in range(nodes) if places[node] == side) for side in range(sides))


def make_simulation(
    schedule: Schedule, kind: type[ScriptedSet] = ScriptedSet, core: type[Simplex] = Simplex
) -> TwinsSimulation:
    """The nodes of a schedule; all honest ones run ``core``."""
    count = len(schedule.stakes)
    committees = []
    for members, leaders in zip(schedule.committees, schedule.leaders, strict=True):
        committee = kind.of((KEYS[member].public_key, schedule.stakes[member]) for member in members)
        committee.__dict__["script"] = {view: KEYS[leader].public_key for view, leader in enumerate(leaders, 1)}
        committees.append(committee)
    honest = [number for number in range(count) if number not in schedule.twins]
    bases = (*HANDS[schedule.hands_out], Rewinder if schedule.are_rewinders else Simplex)
    faulty = type("Twin", bases, {})
    return TwinsSimulation(
        schedule.seed,
        [*KEYS[:count], *(KEYS[twin] for twin in schedule.twins)],
        lambda epoch: committees[min(epoch, len(committees) - 1)],
        epoch_heights=schedule.epoch_heights,
        honest=honest,
        network=Network(),
        cores=dict.fromkeys(range(count + len(schedule.twins)), faulty) | dict.fromkeys(honest, core),
    )


def get_place(message: Message) -> tuple[int, int, str]:
    """Epoch, view and kind of a message."""
    if isinstance(message, Propose | Repropose):
        return message.proposal.epoch, message.proposal.view, "proposal"
    kind = VoteKind(message.kind).domain if isinstance(message, Vote) else "certificate"
    return message.epoch, message.view, kind


def _note_attack(simulation: TwinsSimulation, sender: Node, receiver: Node, message: Message) -> None:
    """What a twin is about to tell an honest node."""
    cores = [node.core for node in simulation.nodes if node.watched and node.core is not None]
    if isinstance(message, Propose) and message.proposal.epoch == message.block.header.epoch:
        parent = get_parent_certificate(message)
        view = 0 if parent is None or parent.epoch != message.proposal.epoch else parent.view
        tips = [core._views.highest_view for core in cores if core.epoch == message.proposal.epoch]
        above = sum(tip > view for tip in tips)
        if above:
            simulation.seen["a twin proposed below a tip"] = 1
        if above == 1:
            simulation.seen["a twin proposed below a tip that one node alone knew"] = 1
    elif isinstance(message, Certificate) and message.kind == VoteKind.NOTARIZE and receiver.core is not None:
        block = None if sender.core is None else sender.core.get_block(message.block_id)
        is_last = block is not None and block.height == simulation.ledger.get_last_height(message.epoch)
        is_stranger = receiver.key.public_key not in simulation.ledger.committee(message.epoch)
        if is_last and is_stranger and receiver.core.epoch == message.epoch:
            simulation.seen["a last block that was not final was shown to the next committee"] = 1


def _look_back(simulation: TwinsSimulation) -> None:
    """What votes there were."""
    places: dict[tuple[bytes, int, int], list[Vote]] = {}
    for vote in simulation.said:
        places.setdefault((vote.signer, vote.epoch, vote.view), []).append(vote)
    if any(is_slashable(*pair) for votes in places.values() for pair in itertools.combinations(votes, 2)):
        simulation.seen["a twin signed a slashable pair"] = 1
    backed: dict[tuple[int, int], set[bytes]] = {}
    for (_, epoch, view), votes in simulation.votes.votes.items():
        if VoteKind.NOTARIZE in votes:
            backed.setdefault((epoch, view), set()).add(votes[VoteKind.NOTARIZE])
    if any(len(blocks) > 1 for blocks in backed.values()):
        simulation.seen["honest nodes backed two blocks in one view"] = 1


def play(schedule: Schedule, simulation: TwinsSimulation) -> None:
    """The scripted part."""
    network, nodes = simulation.network, simulation.nodes
    pending = {schedule.dies} - {None}

    def are_twins(sender: int, receiver: int) -> bool:
        return schedule.are_strangers and nodes[sender].key is nodes[receiver].key

    def passes(sender: int, receiver: int, message: Message) -> bool:
        groups = schedule.cuts.get(get_place(message))
        together = groups is None or any(sender in group and receiver in group for group in groups)
        passes = together and not are_twins(sender, receiver)
        if not nodes[sender].watched:
            if isinstance(message, Vote):
                simulation.said.add(message)
            elif passes and nodes[receiver].watched:
                _note_attack(simulation, nodes[sender], nodes[receiver], message)
        elif isinstance(message, Vote) and message.kind == VoteKind.FINALIZE:
            place = (sender, message.epoch, message.view)
            if place in pending:
                pending.remove(place)
                simulation.seen["a node died after it sent finalize"] = 1
                simulation.at(0.0, lambda: lose_power(simulation, sender))
        return passes

    def is_over() -> bool:
        """Whether most nodes are past what is scripted (some may be cut off for good), or it did its worst."""
        cores = [node.core for node in nodes if node.core is not None]
        epochs = len(schedule.committees)
        past = [core for core in cores if core.epoch >= epochs or (epochs == 1 and core.view > schedule.views)]
        return 2 * len(past) > len(nodes) or bool(simulation.agreement.violations)

    network.passes = passes
    if schedule.crash is not None:
        number, when = schedule.crash
        simulation.at(when, lambda: lose_power(simulation, number))
    simulation.start()
    for seconds, groups in schedule.phases:
        network.groups = groups
        simulation.run(seconds, is_over)
    network.groups = ()
    simulation.run(SCRIPTED, is_over)
    _look_back(simulation)
    network.passes = lambda sender, receiver, message: not are_twins(sender, receiver)


def lose_power(simulation: Simulation, number: int) -> None:
    node = simulation.nodes[number]
    if node.is_up:
        node.crash()
        node.restart_in(simulation.rng.uniform(0.0, 3.0))


def check(
    schedule: Schedule,
    kind: type[ScriptedSet] = ScriptedSet,
    core: type[Simplex] = Simplex,
    *,
    live: bool = True,
    seen: Counter[str] | None = None,
) -> list[str]:
    """Run a schedule; what it broke.

    Args:
        live: whether the chain has to go on afterwards.
        seen: takes what happened of all that should happen in many schedules.
    """
    justification.MAX_NULLIFICATIONS = schedule.proven
    simulation = make_simulation(schedule, kind, core)
    try:
        return _check(schedule, simulation, live)
    except Runaway as error:
        return [*simulation.violations, f"no end: {error}"]
    finally:
        justification.MAX_NULLIFICATIONS = MAX_NULLIFICATIONS
        if seen is not None:
            seen.update(simulation.seen)


def _check(schedule: Schedule, simulation: TwinsSimulation, live: bool) -> list[str]:
    play(schedule, simulation)
    honest = [node for node in simulation.nodes if node.watched]
    goal = max(simulation.heights) + 1

    def is_over() -> bool:
        return all(node.disk.final.height >= goal for node in honest) or bool(simulation.agreement.violations)

    goes_on = simulation.run(HEALED if live else 10.0, is_over) or not live
    faults = list(simulation.violations)
    if not goes_on and not faults:
        faults.append(f"stalled at {simulation.heights}")
    twins = {KEYS[twin].public_key for twin in schedule.twins}
    faults += [f"an honest node was accused: {c}" for c in simulation.conflicts if c.first.signer not in twins]
    if not schedule.are_rewinders:  # whose blocks a restarted node may know to be too old
        faults += [f"refused: {reject}" for reject in simulation.rejects]
    return faults


def run_all(seeds: Iterable[int], run: Callable[[int], list[str]], options: str = "") -> list[str]:
    """The first fault of each of many schedules, with the command that plays it again."""
    return [f"make twins SEED={seed}{options}: {fault}" for seed in seeds for fault in run(seed)[:1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=3000, help="schedules to run")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--seed", type=int, default=None, help="run this one alone and describe it")
    parser.add_argument("--third", action="store_true", help="with twins of exactly a third, which may stop the chain")
    options = parser.parse_args()
    if options.seed is not None:
        schedule = make_schedule(options.seed, third=options.third)
        print(schedule.describe())
        faults = check(schedule, live=not options.third)
        print("\n".join(faults) or "nothing broke")
        sys.exit(bool(faults))
    start, broken, sizes, seen = time.monotonic(), 0, Counter[str](), Counter[str]()
    for done, seed in enumerate(range(options.first, options.first + options.count), 1):
        schedule = make_schedule(seed, third=options.third)
        shape = "with committees that change" if len(schedule.committees) > 1 else "in one epoch"
        sizes[f"{len(schedule.committees[0])} validators {shape}"] += 1
        faults = check(schedule, live=not options.third, seen=seen)
        sizes[f"of which {schedule.twist or 'as drawn'}"] += 1
        broken += bool(faults)
        for fault in faults:
            print(f"\nmake twins SEED={seed}: {fault}")
        if done % 100 == 0 or done == options.count:
            speed = done / (time.monotonic() - start)
            print(f"\r{done} of {options.count} schedules, {broken} broken, {speed:.0f} a second", end="", flush=True)
    print()
    for name, count in [*sorted(sizes.items()), *sorted(seen.items())]:
        print(f"  {count:7} {name}")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
