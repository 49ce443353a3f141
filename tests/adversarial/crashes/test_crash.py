"""A validator dies at every durable write in turn: it never contradicts itself, and no final block is ever lost."""

from __future__ import annotations

import copy
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chain.store.writer import ChainStore
from consensus.voting import journal
from consensus.voting.disk import DataDisk
from consensus.voting.journal import Journal
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from tests.adversarial.crashes import crash_process
from tests.adversarial.crashes.crash import ALL, GENESIS, PAYER, VICTIM, CrashWorld, MemoryDisk, Reaper, pay
from tests.support.keys import make_key

Script = Callable[[CrashWorld], Awaitable[None]]


def play(seed: int, script: Script, *, is_outage: bool = False) -> None:
    """Run a script in a world in which no node runs yet; check what must hold after every script."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = CrashWorld(GENESIS, nursery, seed, is_outage=is_outage)
            await nursery.start(world.hub.run)
            await script(world)
            await trio.sleep(2)  # the write that kills may be one of the last
            await world.keep_up(*ALL)
            await world.wait_height(max(header.height for header in world.finals.values()))
            world.check_same_chain()
            assert world.violations == []
            nursery.cancel_scope.cancel()

    run_simulation(seed, main)


strides = pytest.mark.parametrize("stride", [6, pytest.param(1, marks=pytest.mark.long)], ids=["some", "all"])
"""Whether it dies at every sixth write or at every one."""


@strides
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_one_dies_at_every_write(after: bool, stride: int) -> None:
    number, has_killed = 1 - stride + 2 * after % stride, True
    while has_killed:
        number += stride
        reaper = Reaper(number, after)

        async def script(world: CrashWorld, reaper: Reaper = reaper) -> None:
            for each in ALL:
                world.add_disk(each, MemoryDisk(), reaper if each == VICTIM else None)
            await pay(world, 4)

        play(number, script)
        has_killed = reaper.has_killed
    assert number > 30
    assert {"batch em", "append", "fsync", "batch bfmnosu"} <= set(reaper.writes)


@strides
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_one_dies_at_every_write_of_its_repair(after: bool, stride: int) -> None:
    """From a damaged database and a damaged journal to the first votes of the epoch in which it may vote again."""
    number, has_killed = 1 - stride + 2 * after % stride, True
    while has_killed:
        number += stride
        reaper = Reaper(number, after)

        async def script(world: CrashWorld, reaper: Reaper = reaper) -> None:
            disk, me = MemoryDisk(), make_key(VICTIM).public_key
            for each in ALL:
                world.add_disk(each, disk if each == VICTIM else MemoryDisk())
            await pay(world, 2)
            await world.kill(VICTIM)
            disk.file.content[-1] ^= 1
            disk.fault = "found damaged"
            world.declare_loss(VICTIM, "chain", "votes.journal")
            forgotten = {epoch for signer, epoch, _ in world.votes.votes if signer == me}
            world.set_reaper(VICTIM, reaper)
            await world.keep_up(VICTIM)
            count, known = 0, set(world.votes.votes)
            while not (fresh := [key for key in sorted(world.votes.votes) if key not in known and key[0] == me]):
                await pay(world, 1)
                count += 1
                assert count < 15, "it does not vote any more"
            assert fresh[0][1] > max(forgotten)

        play(number, script)
        has_killed = reaper.has_killed
    assert number > 10
    assert reaper.writes[:5] == ["rename chain", "batch cms", "batch e", "rename journal", "rewrite"]
    assert reaper.writes.count("rewrite") == 2, "once to wait, once to go on"


@pytest.fixture(scope="module")
def old_disks() -> dict[int, MemoryDisk]:
    """What is on the disks of all after some epochs; the victim's chain is lost."""
    disks = {each: MemoryDisk() for each in ALL}

    async def script(world: CrashWorld) -> None:
        for each in ALL:
            world.add_disk(each, disks[each])
        await pay(world, 8)

    play(1, script)
    disks[VICTIM].quarantine_store()
    disks[VICTIM].aside.clear()
    return disks


@strides
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_one_dies_at_every_write_of_a_snapshot(old_disks: dict[int, MemoryDisk], after: bool, stride: int) -> None:
    """A validator that lost its chain begins again from a state of others, and must wait before it votes."""
    number, has_killed = 1 - stride + 2 * after % stride, True
    while has_killed:
        number += stride
        reaper = Reaper(number, after)
        disks = copy.deepcopy(old_disks)

        async def script(world: CrashWorld, reaper: Reaper = reaper, disks: dict[int, MemoryDisk] = disks) -> None:
            world.skews = dict.fromkeys(ALL, 60_000)
            world.nonces[PAYER] = 8
            for each in ALL:
                world.add_disk(each, disks[each])
            await world.keep_up(1, 2, 3)
            world.settings = replace(world.settings, checkpoint=world.engine(1).checkpoint)
            world.set_reaper(VICTIM, reaper)
            for _ in range(2):  # it may die in between
                await world.keep_up(VICTIM)
                await trio.sleep(1)
            await pay(world, 1)
            assert ChainStore(disks[VICTIM].store, GENESIS).base.height == 6

        play(number, script)
        has_killed = reaper.has_killed
    assert any("z" in what for what in reaper.writes), "a part of the state"
    assert number > 8


def test_one_dies_while_it_drops_old_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "PRUNE_AT_RECORDS", 4)

    def run(reaper: Reaper) -> MemoryDisk:
        disk = MemoryDisk()

        async def script(world: CrashWorld) -> None:
            for each in ALL:
                world.add_disk(each, disk if each == VICTIM else MemoryDisk(), reaper if each == VICTIM else None)
            await pay(world, 15)

        play(1, script)
        return disk

    whole = Reaper()
    run(whole)
    places = [number for number, what in enumerate(whole.writes, start=1) if what == "rewrite"]
    assert len(places) >= 2
    for number in places:
        for after in (False, True):
            reaper = Reaper(number, after)
            disk = run(reaper)
            assert reaper.has_killed and reaper.writes[number - 1] == "rewrite"
            kept = Journal(disk.file, GENESIS.chain_id, make_key(VICTIM).public_key)
            assert kept.start.first > 0 and kept.start.first_epoch > 0 and not kept.start.nonce


STRIDE = 7


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_all_die_at_the_same_moment(after: bool) -> None:
    """Nothing that a node called final is lost, and what is left of the four is enough to go on."""
    number, has_killed = 1 + after * STRIDE // 2, True
    while has_killed:
        reaper = Reaper(number, after)

        async def script(world: CrashWorld, reaper: Reaper = reaper) -> None:
            for each in ALL:
                world.add_disk(each, MemoryDisk(), reaper)
            await pay(world, 3)

        play(number, script, is_outage=True)
        has_killed = reaper.has_killed
        number += STRIDE
    assert number > 100


@pytest.mark.parametrize(
    "number", [3, 18, *(pytest.param(number, marks=pytest.mark.long) for number in (8, 13, 23, 28, 33))]
)
def test_one_dies_on_real_files(tmp_path: Path, number: int) -> None:
    reaper = Reaper(number, after=number % 4 == 1)

    async def script(world: CrashWorld) -> None:
        for each in ALL:
            disk = DataDisk(tmp_path, lambda: SimulatedRuntime.EPOCH_MS) if each == VICTIM else MemoryDisk()
            world.add_disk(each, disk, reaper if each == VICTIM else None)
        await pay(world, 4)

    play(number, script)
    assert reaper.has_killed
    assert {path.name for path in tmp_path.iterdir()} == {"chain", "votes.journal"}


@pytest.fixture(scope="module")
def old_homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on real files, of a process that lived for some epochs."""
    directory = tmp_path_factory.mktemp("old")
    assert crash_process.live(directory, crash_process.OLD) == 0
    return directory


@pytest.mark.parametrize(
    ("scenario", "kinds"),
    [
        ("plain", ["batch em", "append", "fsync", "batch bfmnosu"]),
        ("votes", ["rewrite"]),
        pytest.param(
            "repair",
            ["rename chain", "batch cms", "rename journal", "rewrite", "batch bfmnosu", "append"],
            marks=pytest.mark.long,
        ),
        ("repair", ["batch e"]),
        ("snapshot", ["batch mz", "batch clm", "batch bfmnosuz"]),
    ],
)
def test_a_process_kills_itself(tmp_path: Path, old_homes: Path, scenario: str, kinds: list[str]) -> None:
    """SIGKILL at a write of each kind, before it and after it, in one life after the other; the last goes on.

    ``make crash`` does so at every write.
    """
    directory, chosen = tmp_path / "nodes", crash_process.SCENARIOS[scenario]
    crash_process.prepare(directory, scenario, old_homes)
    for kind in kinds:
        for after in (False, True):
            death = crash_process.Death(kind, 1, after)
            assert crash_process.live(directory, chosen, death) == -signal.SIGKILL, f"no {kind}"
    assert crash_process.live(directory, chosen) == 0
    said = crash_process.Said(directory)
    assert said.lives == 2 * len(kinds) + 1 + ("damage" in said.lines)
    assert len(said.get_votes()) > 20 and len(said.get_finals()) == 4
