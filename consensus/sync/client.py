"""Block sync: how a node that joined late or was away gets what gossip did not bring it.

The messages are in :mod:`consensus.sync.messages`, the side that answers in :mod:`consensus.sync.server`. Gossip is a
hint, sync is the truth. Nothing is believed: a run of blocks up to a certificate (a *block range*) is taken as a whole
after every block was executed and every signature checked, or not at all. A peer that lies costs the time and the
memory of one block range at most, and is left alone for a while; under another name it may come again.

A node takes every block from where it is, but a snapshot (:mod:`consensus.sync.snapshot`) in their place

- if its owner gave it a checkpoint in a later epoch, or
- if it keeps only the blocks of a few epochs, and those are all ahead, or its peers do not keep the next ones any more.

Nothing is taken here that contradicts the checkpoint, or that begins at one older than the unbonding time. (What the
committees that this node knows already make final in front of it is not compared with the checkpoint.) Without one
there is no such bound: see :mod:`chain.light.client` for what that risks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import structlog
import trio

from chain import crypto
from chain.exceptions import CodecError, LedgerError, StoreError
from chain.genesis import Genesis
from chain.light.client import Checkpoint, describe_old_checkpoint, is_too_old
from chain.state.state import State
from chain.store.writer import ChainStore
from chain.transition.block import IsVerified
from chain.transition.epochs import get_epoch
from chain.types.blocks import Block, Header
from chain.types.operations import SignedOperation
from chain.types.votes import Certificate
from consensus.block_tree import ExecutedBlock
from consensus.exceptions import InvalidResponse
from consensus.simplex.validation import is_authentic
from consensus.sync.block_range import BlockRange, HeaderChain, verify_block_range
from consensus.sync.messages import (
    SYNC_BATCH_BYTES,
    SYNC_FRAME_TIMEOUT_S,
    SYNC_PROTOCOL,
    BlockItem,
    BlockResponse,
    BlocksResponse,
    ChainStatus,
    GetBlock,
    GetBlocks,
    GetOperations,
    GetStatus,
    OperationsResponse,
    Pruned,
    Request,
)
from consensus.sync.peers import AVOID_LIAR_S, AVOID_SILENT_S, SyncPeers
from consensus.sync.snapshot import Adopt, SnapshotSync
from consensus.verifier import SignatureVerifier
from p2p.network import NetworkError
from p2p.runtime import Runtime
from p2p.streams.exchanges import Streams

logger = structlog.get_logger(__name__)

BATCH_TIMEOUT_S = 30.0
"""Seconds that a peer may keep this node waiting in all while it sends a batch, or one peer could hold it for ever."""
ASKED_PEERS = 3
"""Peers whose status is looked at before this node believes that it is up to date, or that are asked for one block."""
SYNC_DELAY_S = 0.3
"""Seconds that gossip gets to bring what a hint speaks of before it is pulled."""


def _is_authentic(verify: crypto.Verify, block: Block) -> bool:
    return is_authentic(block, verify)


Deliver = Callable[[list[ExecutedBlock], Certificate], Awaitable[None]]
"""Takes a verified block range; returns when it is part of the final chain."""


class SyncClient:
    """Keeps this node up to date: pulls final blocks from random peers whenever one may be ahead.

    ``get_head`` returns the last final header and state, ``deliver`` takes verified block ranges on top of it,
    ``adopt`` a verified snapshot in place of all of it.

    Raises:
        StoreError: the chain in ``store`` contradicts the checkpoint.
    """

    def __init__(
        self,
        genesis: Genesis,
        streams: Streams,
        runtime: Runtime,
        store: ChainStore,
        get_head: Callable[[], tuple[Header, State]],
        deliver: Deliver,
        adopt: Adopt,
        poll_interval: float,
        checkpoint: Checkpoint | None = None,
        verifier: SignatureVerifier | None = None,
        is_verified: IsVerified | None = None,
    ) -> None:
        is_met = checkpoint is None or store.check_checkpoint(checkpoint)
        self._genesis = genesis
        self._streams = streams
        self._verifier = SignatureVerifier(runtime) if verifier is None else verifier
        self._is_verified = is_verified
        self._store = store
        self._get_head = get_head
        self._deliver = deliver
        self._poll_interval = poll_interval
        self._checkpoint = checkpoint
        self._peers = SyncPeers(streams, runtime)
        self._snapshots = SnapshotSync(genesis, self._peers, runtime, store, checkpoint, adopt)
        self._known: dict[int, bytes] = {}
        """Ids of the blocks that lead to a checkpoint within the epoch, by height."""
        self._requested = trio.Event()
        self._warned: set[str] = set()
        self.target = 0
        """Height claimed by the peer that blocks are coming from; the blocks that it sent so far are verified."""
        if not is_met:
            self._warn_once(
                "unmet",
                f"the checkpoint {checkpoint} is not among the blocks that are kept here, so nothing tells whether "
                "this chain has it: set 'checkpoint' in config.yaml to a later one, or to the last block of an epoch",
            )

    @property
    def is_behind(self) -> bool:
        """Whether this node is catching up with a peer that has proved to be ahead."""
        return self._snapshots.is_fetching or self.target > self._get_head()[0].height

    def request_sync(self) -> None:
        """Something suggests that this node is behind. Cheap, may be called at any rate."""
        self._requested.set()

    async def run(self) -> None:
        """Look around at every hint, at every new peer, and now and then, until cancelled.

        Raises:
            CheckpointError: the chain goes on so far beyond the checkpoint that it cannot be told from a forgery.
            StoreError: the disk failed.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_peers, self._streams.network.peer_changes())
            while True:
                if not await self._poll_peers():
                    self.target = 0
                    await self._wait()
                self._requested = trio.Event()

    async def fetch_block(self, block_id: bytes, peers: Collection[bytes]) -> Block | None:
        """The authentic block of that id, from a few of ``peers`` or else of any others; None if these do not have it.

        The peers are drawn anew each time, so that a block that is asked for repeatedly comes from an honest peer in
        the end. A block that agreement would drop is refused here, where its sender is known.
        """
        for peer in self._peers.get_peers(first=peers)[:ASKED_PEERS]:
            raw = await self._peers.ask(peer, GetBlock(block_id))
            if raw is None:
                continue
            try:
                found = BlockResponse.decode(raw).block
                block = None if found is None else Block.decode(found)
                if block is not None and block.id != block_id:
                    raise InvalidResponse("another block than the one asked for")
                if block is not None and not await self._verifier.run(_is_authentic, block):
                    raise InvalidResponse("a block that was altered under its header")
            except LedgerError as error:
                self._peers.avoid(peer, AVOID_LIAR_S, str(error))
                continue
            if block is not None:
                return block
        return None

    async def fetch_operations(self, peer: bytes, ids: Sequence[bytes]) -> dict[bytes, SignedOperation]:
        """Pending operations of ``peer`` by id: those of ``ids`` that it has and that are well formed, unverified."""
        raw = await self._peers.ask(peer, GetOperations(tuple(ids)))
        if raw is None:
            return {}
        try:
            found = [SignedOperation.decode(item) for item in OperationsResponse.decode(raw).operations]
        except CodecError as error:
            self._peers.avoid(peer, AVOID_LIAR_S, str(error))
            return {}
        return {operation.id: operation for operation in found}

    async def _wait(self) -> None:
        """Until there is a hint, or no final block came for a poll interval."""
        height = -1
        while height != self._get_head()[0].height:
            height = self._get_head()[0].height
            with trio.move_on_after(self._poll_interval):
                await self._requested.wait()
                await trio.sleep(SYNC_DELAY_S)
                return

    async def _watch_peers(self, changes: trio.MemoryReceiveChannel[tuple[bytes, bool]]) -> None:
        async for _, is_connected in changes:
            if is_connected:
                self.request_sync()

    async def _poll_peers(self) -> bool:
        """Ask a few random peers for their chain status; catch up with the first that is ahead. False if none was."""
        pruned: list[tuple[bytes, ChainStatus]] = []
        for peer in self._peers.get_peers()[:ASKED_PEERS]:
            raw = await self._peers.ask(peer, GetStatus())
            if raw is None:
                continue
            try:
                status = ChainStatus.decode(raw)
            except CodecError as error:
                self._peers.avoid(peer, AVOID_LIAR_S, str(error))
                continue
            height = self._get_head()[0].height
            if status.height > height:
                if not await self._catch_up(peer, status):
                    pruned.append((peer, status))
                if self._get_head()[0].height > height:
                    return True
        return await self._handle_pruned(pruned)

    async def _catch_up(self, peer: bytes, status: ChainStatus) -> bool:
        """Follow a peer that says that it is ahead, in the way that suits what this node has and wants.

        Returns whether it could help: False if it does not keep the blocks that come next any more.
        """
        header, checkpoint, parameters = self._get_head()[0], self._checkpoint, self._genesis.parameters
        epoch, ahead = get_epoch(parameters, header.height + 1), get_epoch(parameters, status.height)
        is_ahead = checkpoint is not None and checkpoint.height > header.height
        if checkpoint is not None and is_ahead:
            if status.height < checkpoint.height:  # nothing of what it has can be trusted yet
                self._warn_once("behind", f"waiting for a peer that is beyond the checkpoint {checkpoint}")
                return True
            if get_epoch(parameters, checkpoint.height) > epoch:
                await self._take_snapshot(peer, status)
                return True
        if self._store.keep_epochs and ahead - epoch > self._store.keep_epochs:
            await self._take_snapshot(peer, status)
            return True
        if status.base > header.height:
            return False
        if is_too_old(self._genesis, header, ahead):
            if checkpoint is not None and await self._snapshots.follow(peer, status) is None:
                return True  # a liar; if it is not, that has raised CheckpointError
            self._warn_once("old", describe_old_checkpoint(self._genesis, header, ahead))
        if checkpoint is None or not is_ahead or await self._fetch_ids_to_checkpoint(peer, checkpoint):
            await self._pull(peer, status)
        return True

    async def _handle_pruned(self, pruned: Sequence[tuple[bytes, ChainStatus]]) -> bool:
        """Catch up although every peer that is ahead has pruned the next blocks. Returns whether that was possible.

        A node that prunes old blocks itself continues from a snapshot; an archive waits.
        """
        height = self._get_head()[0].height
        if not pruned:
            return False
        if self._store.keep_epochs:
            await self._take_snapshot(*pruned[0])
            return self._get_head()[0].height > height
        self._warn_once(
            "pruned",
            f"peers do not keep the blocks after {height} any more: connect to one that keeps them all, or let this "
            "node begin with a state (set 'checkpoint' or 'keep_epochs' in config.yaml)",
        )
        for peer, _ in pruned:
            self._peers.avoid(peer, AVOID_SILENT_S, "the blocks needed are pruned")
        return False

    async def _take_snapshot(self, peer: bytes, status: ChainStatus) -> None:
        if not await self._snapshots.run(peer, status):
            self._warn_once("wait", "waiting for a peer that can give the state at the end of a recent epoch")

    async def _fetch_ids_to_checkpoint(self, peer: bytes, checkpoint: Checkpoint) -> bool:
        """Learn from ``peer`` the ids of the blocks up to a checkpoint in this epoch; False if it does not prove them.

        Nothing on the way counts before it is known to lead there, and that may be more than fits into memory. So the
        blocks are looked at twice: now for their ids, which the checkpoint vouches for, and then to be executed.
        """
        header, state = self._get_head()
        if header.height + 1 in self._known:
            return True
        chain, ids = HeaderChain(self._genesis, header, state), {}

        async def take(item: BlockItem) -> bool:
            block = Block.decode(item.block)
            await self._verifier.run(chain.append, block)
            if checkpoint.is_contradicted_by(block.header):
                raise InvalidResponse(f"block {block.height} contradicts the checkpoint {checkpoint}")
            ids[block.height] = block.id
            return block.height < checkpoint.height

        with self._penalizing(peer):
            while chain.head.height < checkpoint.height:
                if not await self._read_blocks(peer, chain.head.height + 1, take) and checkpoint.height not in ids:
                    raise InvalidResponse(f"no block after {chain.head.height}, which is before the checkpoint")
            self._known = ids
            return True
        return False

    async def _pull(self, peer: bytes, status: ChainStatus) -> None:
        """Take segments from ``peer`` until its answer ends or something is wrong with it."""
        header, state = self._get_head()
        block_range = BlockRange(self._genesis, header, state, self._known)

        async def take(item: BlockItem) -> bool:
            nonlocal block_range, header, state
            certificate = await self._verifier.run(block_range.add, item)
            if certificate is not None:
                executed = await self._verifier.run(
                    verify_block_range, self._genesis, header, state, block_range.blocks, certificate, self._is_verified
                )
                await self._deliver(executed, certificate)
                header, state = executed[-1].block.header, executed[-1].transition.state
                block_range = BlockRange(self._genesis, header, state, self._known)
                self.target = status.height
            return True

        with self._penalizing(peer):
            is_full = await self._read_blocks(peer, header.height + 1, take)
            if not is_full and block_range.head.height < status.height:
                raise InvalidResponse(f"no block after {block_range.head.height}, where {status.height} is claimed")
            if block_range.blocks:
                raise InvalidResponse("the blocks ended without a finality certificate")

    async def _read_blocks(self, peer: bytes, height: int, take: Callable[[BlockItem], Awaitable[bool]]) -> bool:
        """Ask for a batch of blocks from ``height`` on, until ``take`` returns False. Returns whether it was full."""
        size = 0
        patience = BATCH_TIMEOUT_S
        async with self._streams.open(peer, SYNC_PROTOCOL) as exchange:
            await exchange.send(Request(GetBlocks(height, SYNC_BATCH_BYTES)).encode(), end=True)
            while True:
                asked_at = trio.current_time()
                with trio.fail_after(min(SYNC_FRAME_TIMEOUT_S, max(0.0, patience))):
                    raw = await exchange.receive()
                patience -= trio.current_time() - asked_at
                if raw is None:
                    return size >= SYNC_BATCH_BYTES
                item = BlocksResponse.decode(raw).content
                if isinstance(item, Pruned):
                    raise NetworkError(f"the peer has blocks only from {item.first} on")
                size += len(item.block)
                if not await take(item):
                    return size >= SYNC_BATCH_BYTES

    @contextmanager
    def _penalizing(self, peer: bytes) -> Iterator[None]:
        """Leave ``peer`` alone for a while if what happens inside shows that it lies, or is of no use.

        Raises:
            StoreError: the disk failed.
        """
        try:
            yield
        except StoreError:
            raise
        except LedgerError as error:
            self._peers.avoid(peer, AVOID_LIAR_S, str(error))
        except (NetworkError, trio.TooSlowError) as error:
            self._peers.avoid(peer, AVOID_SILENT_S, str(error) or "too slow")

    def _warn_once(self, kind: str, text: str) -> None:
        """Tell the owner, once of each kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("sync: the owner must act", text=text)
