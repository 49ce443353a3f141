"""Kills validators at a chosen durable write, in a world of engines, and watches what they ever said.

Every durable write of a node passes one counter (:class:`Reaper`): journal append, fsync, truncation and rewriting,
each batch of the database, each rename. Where the count comes to, the node dies before the write or right after it:
nothing that it had in memory is used again, nothing that it tries to write afterwards is written, and of what was not
synced any part may be gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio

from chain.exceptions import CodecError, InvalidOperation
from chain.genesis import Genesis
from chain.store.kv import Changes, MemoryStore, Store
from chain.store.writer import ChainStore
from chain.types.blocks import Block, Header
from chain.types.votes import Certificate, Vote, VoteKind
from consensus.engine import Engine
from consensus.simplex.messages import COMPACT_KIND, decode_message
from consensus.voting.disk import Disk, NodeStorage, open_storage
from consensus.voting.journal import RECORD_BYTES, Journal, JournalFile
from consensus.voting.vote_store import VoteStore
from p2p.simulation.runtime import SimulatedRuntime
from tests.support.agreement.checkers import AgreementChecker, VoteChecker
from tests.support.consensus_world import Node, World, make_equal_genesis
from tests.support.keys import make_key
from tests.support.memory_file import MemoryFile

T = TypeVar("T")

ALL = (1, 2, 3, 4)
VICTIM = 4
PAYER = 5
GENESIS = make_equal_genesis(4, others=1, epoch_heights=3)
"""The victim is not needed for a quorum, and every few blocks there is a new committee."""


class Killed(BaseException):
    """The process is dead."""


@dataclass
class Reaper:
    """Counts durable writes, and kills at one of them: number ``at`` (from 1), before it or ``after`` it.

    Only those count whose name begins with ``kind``.
    """

    at: int = 0
    after: bool = False
    kind: str = ""
    on_kill: Callable[[], None] = lambda: None
    writes: list[str] = field(default_factory=list)
    """What was written, in order."""
    life: int = 0
    """Number of kills so far: what belongs to an earlier life writes nothing more."""

    def perform(self, life: int, what: str, write: Callable[[], T]) -> T:
        if life != self.life:
            raise Killed
        self.writes.append(what)
        is_last = what.startswith(self.kind) and sum(known.startswith(self.kind) for known in self.writes) == self.at
        if is_last and not self.after:
            self.kill()
        result = write()
        if is_last:
            self.kill()
        return result

    def kill(self) -> None:
        self.life += 1
        self.on_kill()
        raise Killed

    @property
    def has_killed(self) -> bool:
        return self.life > 0


class CrashStore:
    """A store whose writes are counted."""

    def __init__(self, store: Store, reaper: Reaper) -> None:
        self._store = store
        self._reaper = reaper
        self._life = reaper.life

    def get(self, key: bytes) -> bytes | None:
        return self._store.get(key)

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._store.items(prefix)

    def write(self, changes: Changes, is_synced: bool = True) -> None:
        kinds = "".join(sorted({key[:1].decode() for key in changes}))
        self._reaper.perform(self._life, f"batch {kinds}", lambda: self._store.write(changes, is_synced))

    def close(self) -> None:
        self._store.close()


class CrashFile:
    """A journal's file whose writes are counted."""

    def __init__(self, file: JournalFile, reaper: Reaper) -> None:
        self.file = file
        self._reaper = reaper
        self._life = reaper.life

    def get_size(self) -> int:
        return self.file.get_size()

    def read(self, offset: int, size: int) -> bytes:
        return self.file.read(offset, size)

    def append(self, data: bytes) -> None:
        self._perform("append", lambda: self.file.append(data))

    def truncate(self, size: int) -> None:
        self._perform("truncate", lambda: self.file.truncate(size))

    def replace(self, content: bytes) -> None:
        self._perform("rewrite", lambda: self.file.replace(content))

    def sync(self) -> None:
        self._perform("fsync", self.file.sync)

    def close(self) -> None:
        self.file.close()

    def _perform(self, what: str, write: Callable[[], None]) -> None:
        self._reaper.perform(self._life, what, write)


class MemoryDisk:
    """A disk in memory, which outlives its node."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.file = MemoryFile()
        self.fault: str | None = None
        self.aside: list[str] = []

    def open_store(self) -> Store:
        return self.store

    def get_fault(self) -> str | None:
        return self.fault

    def quarantine_store(self) -> str:
        self.store, self.fault = MemoryStore(), None
        self.aside.append("chain")
        return "chain.damaged"

    def open_journal(self) -> JournalFile:
        return self.file

    def quarantine_journal(self) -> str:
        self.file = MemoryFile()
        self.aside.append("votes.journal")
        return "votes.journal.damaged"


class CrashDisk:
    """A disk whose writes are counted, renames included."""

    def __init__(self, disk: Disk, reaper: Reaper) -> None:
        self._disk = disk
        self._reaper = reaper
        self._life = reaper.life

    def open_store(self) -> Store:
        return CrashStore(self._disk.open_store(), self._reaper)

    def get_fault(self) -> str | None:
        return self._disk.get_fault()

    def quarantine_store(self) -> str:
        return self._reaper.perform(self._life, "rename chain", self._disk.quarantine_store)

    def open_journal(self) -> JournalFile:
        return CrashFile(self._disk.open_journal(), self._reaper)

    def quarantine_journal(self) -> str:
        return self._reaper.perform(self._life, "rename journal", self._disk.quarantine_journal)


class CrashWorld(World):
    """Engines on disks that can die at any write.

    ``reapers`` are those of the nodes that may die; a node dies alone unless ``is_outage``, when all of them do. Every
    vote that any node sends and every block that it calls final is checked, and so is at every start that the node
    still has what it called final, unless the scenario says that it took that away (:meth:`declare_loss`).
    """

    def __init__(self, genesis: Genesis, nursery: trio.Nursery, seed: int = 1, *, is_outage: bool = False) -> None:
        super().__init__(genesis, nursery, seed)
        self.disks: dict[int, Disk] = {}
        self.reapers: dict[int, Reaper] = {}
        self.votes, self.chain = VoteChecker(), AgreementChecker()
        self.finals: dict[int, Header] = {}
        """The last block that each node called final, and must not lose."""
        self.lost: dict[int, tuple[str, ...]] = {}
        """What each node has to set aside. Nothing, unless it is declared."""
        self._is_outage = is_outage
        self._opened: dict[int, NodeStorage] = {}

    def add_disk(self, number: int, disk: Disk, reaper: Reaper | None = None) -> None:
        """Give a node a disk with a journal, one that never held a vote if there is none, as ``init`` makes it."""
        Journal(disk.open_journal(), self.genesis.chain_id, make_key(number).public_key).close()
        self.disks[number] = disk
        if reaper is not None:
            self.set_reaper(number, reaper)

    def set_reaper(self, number: int, reaper: Reaper) -> None:
        """Let a node die by ``reaper`` from its next start on."""
        self.reapers[number] = reaper
        reaper.on_kill = lambda: self._die(*(self.nodes if self._is_outage else (number,)))

    def declare_loss(self, number: int, *parts: str) -> None:
        """Say what the scenario damaged of a node, which has to set it aside: ``chain``, ``votes.journal``."""
        if "chain" in parts:
            self.finals.pop(number, None)
        self.lost[number] = parts

    @property
    def violations(self) -> list[str]:
        """What was broken until now: by votes, by final blocks, by setting aside what is whole."""
        aside = [
            f"node {number} set {disk.aside} aside instead of {self.lost.get(number, ())}"
            for number, disk in self.disks.items()
            if isinstance(disk, MemoryDisk) and tuple(disk.aside) != self.lost.get(number, ())
        ]
        return self.votes.violations + self.chain.violations + aside

    async def keep_up(self, *numbers: int) -> None:
        """Start those of ``numbers`` that are not alive, until all of them are."""
        nodes = {number: self.nodes.setdefault(number, Node(make_key(number))) for number in numbers}
        while dead := [number for number in numbers if not nodes[number].is_alive]:
            await self.nursery.start(self._run, nodes[dead[0]], dead[0])  # which may kill others
        self.hub.connect_all()

    def _die(self, *numbers: int) -> None:
        """At once, in the middle of whatever calls this."""
        for number in numbers:
            node = self.nodes[number]
            if node.is_alive and node.network is not None and node.network.alive:
                self.hub.kill(node.key.public_key)
            if node.scope is not None:
                node.scope.cancel()
            disk = self.disks.get(number)
            if isinstance(disk, MemoryDisk):
                disk.file.crash(torn=self.seed * 37 % (RECORD_BYTES + 1))

    async def _run(self, node: Node, number: int, task_status: Any) -> None:
        status = _Status(task_status)
        try:
            await super()._run(node, number, status)
        except* Killed:
            if node.network is not None and node.network.alive:
                self.hub.kill(node.key.public_key)
        finally:
            opened = self._opened.pop(number, None)
            if opened is not None:
                opened.close()
            status.started()

    def _open(self, node: Node, number: int) -> tuple[ChainStore, VoteStore]:
        if number not in self.disks:
            return super()._open(node, number)
        disk, reaper = self.disks[number], self.reapers.get(number)
        assert isinstance(node.runtime, SimulatedRuntime)
        opened = open_storage(
            disk if reaper is None else CrashDisk(disk, reaper),
            self.genesis, node.key, node.runtime.random, votes=True,
        )  # fmt: skip
        assert opened.vote_store is not None
        node.store = opened.store
        self._opened[number] = opened
        final = self.finals.get(number)
        if final is not None:
            assert opened.blocks.height >= final.height, "a final block is lost"
            assert opened.blocks.height_of_block(final.id) == final.height, "a final block is another now"
            _check_evidence(opened)
        return opened.blocks, opened.vote_store

    def _watch(self, engine: Engine, number: int) -> None:
        vote_store, links, on_final = engine._vote_store, engine._committee, engine.on_final
        send, broadcast = links.send, links.broadcast
        assert vote_store is not None

        def look(payload: bytes) -> None:
            if payload[:1] == COMPACT_KIND:
                return
            with suppress(CodecError):
                message = decode_message(payload)
                if isinstance(message, Vote) and message.signer == vote_store.key.public_key:
                    if _is_durable(vote_store.journal, message):
                        self.votes.on_durable(message)
                    self.votes.on_sent(message)

        def see_all(payload: bytes, **options: Any) -> None:
            look(payload)
            broadcast(payload, **options)

        def see_one(peer: bytes, payload: bytes, **options: Any) -> None:
            look(payload)
            send(peer, payload, **options)

        def note(executed: Any, certificate: Any) -> None:
            on_final(executed, certificate)
            for done in executed:
                self.chain.on_final(f"node {number}", done.block)
                self.finals[number] = done.block.header

        links.send, links.broadcast, engine.on_final = see_one, see_all, note  # type: ignore


async def pay(world: CrashWorld, count: int) -> None:
    """Make ``count`` operations final one after the other, whichever nodes die meanwhile."""
    for _ in range(count):
        operation = world.transfer(PAYER, 2, 5)
        height = None
        while height is None:
            await world.keep_up(*ALL)
            with suppress(trio.TooSlowError, InvalidOperation):  # node 1 died meanwhile, or has not caught up
                await world.engine(1).submit(operation)
                height, _ = await world.engine(1).wait_final(operation.id, 2.0)


class _Status:
    """``task_status`` that takes a second word."""

    def __init__(self, status: Any) -> None:
        self._status = status
        self._is_started = False

    def started(self) -> None:
        if not self._is_started:
            self._is_started = True
            self._status.started()


def _check_evidence(opened: NodeStorage) -> None:
    """Every vote that may still count lies on disk with what it rests on."""
    blocks, vote_store = opened.blocks, opened.vote_store
    assert vote_store is not None
    certificate = blocks.certificate(blocks.height)
    assert certificate is not None
    epoch = certificate.epoch
    kept = {(type(item), _get_block_id(item)) for each in (epoch, epoch + 1) for item in vote_store.support.load(each)}
    for vote in (*vote_store.journal.votes(epoch), *vote_store.journal.votes(epoch + 1)):
        is_open = (vote.epoch, vote.view) > (epoch, certificate.view) and vote_store.lockout.may_vote(vote.epoch)
        if is_open and vote.kind != VoteKind.NULLIFY:
            kind = Block if vote.kind == VoteKind.NOTARIZE else Certificate
            is_kept = (kind, vote.block_id) in kept or blocks.height_of_block(vote.block_id) is not None
            assert is_kept, f"a vote is there without what it rests on: {vote}"


def _get_block_id(item: Block | Certificate) -> bytes:
    return item.id if isinstance(item, Block) else item.block_id


def _is_durable(journal: Journal, vote: Vote) -> bool:
    """Whether a vote would survive the power failing now."""
    file: Any = journal._file
    if isinstance(file, CrashFile):
        file = file.file
    content = bytes(file.content[: file.durable]) if isinstance(file, MemoryFile) else file.read(0, file.get_size())
    return vote.encode() in content
