"""Four validators on real files in one process, which kills itself by SIGKILL at a durable write that is chosen.

A directory holds what they keep on disk and the file ``said``: every vote that was sent and every block that was called
final, in all lives of the process. The next life reads it first, and must not contradict it.
"""

from __future__ import annotations

import os
import shutil
import signal
import traceback
from collections.abc import Awaitable, Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from chain.store.kv import CHAIN_DIRECTORY
from chain.types.blocks import Block, Header
from chain.types.votes import Vote
from consensus.voting import journal
from consensus.voting.disk import FAULT_FILE, JOURNAL_FILE, DataDisk
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from tests.adversarial.crashes.crash import ALL, GENESIS, PAYER, VICTIM, CrashWorld, Reaper, pay
from tests.support.agreement.checkers import AgreementChecker, VoteChecker
from tests.support.forked import FORKSERVER, preload
from tests.support.keys import make_key

ME = make_key(VICTIM).public_key
LIFE = 60_000
"""How much later each life begins, in ms of the wall clock."""

preload(__name__)


@dataclass(frozen=True)
class Death:
    """The write at which the process dies: number ``at`` of those whose name begins with ``kind``."""

    kind: str = ""
    at: int = 1
    after: bool = False


class Said:
    """The file ``said``: what earlier lives told the world, and what this one does."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "said"
        self.lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def say(self, line: str) -> None:
        os.write(self._file, f"{line}\n".encode())

    @property
    def lives(self) -> int:
        return self.lines.count("life")

    def get_votes(self) -> list[Vote]:
        """All votes that were sent, in order."""
        return _decode_votes(self.lines)

    def get_finals(self) -> dict[int, Header]:
        """The last block that each node called final."""
        told = [line.split() for line in self.lines if line.startswith("final ")]
        return {int(node): Header.decode(bytes.fromhex(header)) for _, node, header in told}

    def split_votes(self) -> tuple[list[Vote], list[Vote]]:
        """The victim's votes before it was damaged, and those after that until this moment."""
        lines = self._path.read_text().splitlines()
        damage = lines.index("damage")
        mine = [
            [vote for vote in _decode_votes(part) if vote.signer == ME] for part in (lines[:damage], lines[damage:])
        ]
        return mine[0], mine[1]


def _decode_votes(lines: list[str]) -> list[Vote]:
    return [Vote.decode(bytes.fromhex(line[5:])) for line in lines if line.startswith("vote ")]


@dataclass(frozen=True)
class Scenario:
    """What happens in each life, to validators on disks that something was done to before the first."""

    play: Callable[[CrashWorld, Said], Awaitable[None]]
    damage: Callable[[Path], None] | None = None
    """What was done to the victim's directory after a life in which all was well."""
    mortal: tuple[int, ...] = ALL
    """Whose writes count."""
    aside: tuple[str, ...] = ()
    """What the victim has to set aside, once in all lives."""
    has_checkpoint: bool = False
    """Whether the victim is given a block to begin from."""


async def _pay(world: CrashWorld, said: Said) -> None:
    await pay(world, 3)


async def _grow_old(world: CrashWorld, said: Said) -> None:
    await pay(world, 8)


async def _drop_votes(world: CrashWorld, said: Said) -> None:
    """So many that each validator drops old ones."""
    journal.PRUNE_AT_RECORDS = 4  # in this process alone
    await pay(world, 12)


async def _repair(world: CrashWorld, said: Said) -> None:
    """Until the victim votes again; never where it may have voted before."""
    forgotten, fresh = said.split_votes()
    for _ in range(20):
        if fresh:
            break
        await pay(world, 1)
        _, fresh = said.split_votes()
    assert fresh, "it does not vote any more"
    assert min(vote.epoch for vote in fresh) > max(vote.epoch for vote in forgotten)


async def _pay_once(world: CrashWorld, said: Said) -> None:
    await pay(world, 1)


def _damage_both(home: Path) -> None:
    file = home / JOURNAL_FILE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (home / CHAIN_DIRECTORY / FAULT_FILE).write_text("found damaged")


def _lose_chain(home: Path) -> None:
    shutil.rmtree(home / CHAIN_DIRECTORY)


OLD = Scenario(_grow_old)
SCENARIOS = {
    "plain": Scenario(_pay),
    "votes": Scenario(_drop_votes),
    "repair": Scenario(_repair, _damage_both, (VICTIM,), (CHAIN_DIRECTORY, JOURNAL_FILE)),
    "snapshot": Scenario(_pay_once, _lose_chain, (VICTIM,), has_checkpoint=True),
}


def prepare(directory: Path, scenario: str, old: Path) -> None:
    """Make the directory in which a scenario begins. ``old`` is one in which :data:`OLD` was lived once."""
    damage = SCENARIOS[scenario].damage
    if damage is None:
        directory.mkdir(exist_ok=True)
        return
    shutil.copytree(old, directory, dirs_exist_ok=True)
    damage(directory / f"node{VICTIM}")
    said = directory / "said"
    lines = [line for line in said.read_text().splitlines() if not line.startswith(f"final {VICTIM} ")]
    said.write_text("\n".join([*lines, "damage", ""]))


def live(directory: Path, scenario: Scenario, death: Death | None = None) -> int:
    """One life, in a process of its own; returns how that ended: 0, or what killed it, negative.

    Raises:
        AssertionError: it contradicted itself, lost something, or failed in another way.
    """
    process = FORKSERVER.Process(target=_live, args=(directory, scenario, death))
    process.start()
    process.join(120)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError("it hangs")
    assert process.exitcode in (0, -signal.SIGKILL), (directory / "fault").read_text()
    return process.exitcode


def _live(directory: Path, scenario: Scenario, death: Death | None) -> None:
    with (directory / "log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            said = Said(directory)
            said.say("life")
            run_simulation(len(said.lines), lambda: _play(directory, said, scenario, death))
        except BaseException:
            (directory / "fault").write_text(traceback.format_exc())
            os._exit(1)
    os._exit(0)


async def _play(directory: Path, said: Said, scenario: Scenario, death: Death | None) -> None:
    class Votes(VoteChecker):
        def on_sent(self, vote: Vote) -> None:
            said.say(f"vote {vote.encode().hex()}")
            super().on_sent(vote)

    class Finals(dict[int, Header]):
        def __setitem__(self, node: int, header: Header) -> None:
            said.say(f"final {node} {header.encode().hex()}")
            super().__setitem__(node, header)

    class Chain(AgreementChecker):
        def on_final(self, name: str, block: Block) -> None:
            super().on_final(name, block)
            assert not self.violations, self.violations

    async with trio.open_nursery() as nursery:
        world = CrashWorld(GENESIS, nursery, seed=len(said.lines), is_outage=True)
        world.skews = dict.fromkeys(ALL, said.lives * LIFE)
        before = VoteChecker()
        for vote in said.get_votes():
            before.on_durable(vote)
            before.on_sent(vote)
        world.votes, world.chain = Votes(before.votes, before.violations, before.durable), Chain()
        world.finals = Finals(said.get_finals())
        await nursery.start(world.hub.run)
        reaper = Reaper() if death is None else Reaper(death.at, death.after, death.kind)
        for each in ALL:
            home = directory / f"node{each}"
            disk = DataDisk(home, lambda: SimulatedRuntime.EPOCH_MS)
            if home.exists():
                world.disks[each] = disk
            else:
                home.mkdir()
                world.add_disk(each, disk)
            if each in scenario.mortal:
                world.set_reaper(each, reaper)
        reaper.on_kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
        whole = [each for each in ALL if scenario.damage is None or each != VICTIM]
        await world.keep_up(*whole)
        if scenario.has_checkpoint:
            world.settings = replace(world.settings, checkpoint=world.engine(1).checkpoint)
        await world.keep_up(*ALL)
        world.nonces[PAYER] = max(get_nonce(world, each) for each in whole)
        await scenario.play(world, said)
        await world.wait_height(max(header.height for header in world.finals.values()))
        assert world.violations == []
        world.check_same_chain()
        for each in ALL:
            names = sorted(path.name.partition("-")[0] for path in (directory / f"node{each}").iterdir())
            aside = [f"{part}.damaged" for part in scenario.aside if each == VICTIM]
            assert names == sorted([CHAIN_DIRECTORY, JOURNAL_FILE, *aside]), "each is set aside once"
        nursery.cancel_scope.cancel()


def get_nonce(world: CrashWorld, node: int) -> int:
    """The payer's next, as far as a node knows."""
    return world.engine(node).state.account(make_key(PAYER).public_key).nonce
