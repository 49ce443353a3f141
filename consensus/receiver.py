"""What other nodes send: messages of the committee and gossip, checked and handed to the event loop of agreement.

All of it is untrusted. Decoding is bounded and strict. A faulty message is dropped with a debug line and counts against
its sender. If a message has more than a few signatures, they are checked in worker threads before the loop sees it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

import structlog
import trio

from chain import crypto
from chain.codec import MAX_RECORD_BYTES
from chain.exceptions import CodecError, LedgerError
from chain.store.writer import ChainStore
from chain.types.blocks import MAX_BLOCK_BYTES, Block
from chain.types.votes import Certificate, VoteKind
from consensus.driver.driver import Driver
from consensus.exceptions import InvalidMessage
from consensus.mempool.pool import Mempool
from consensus.network.compact_blocks import CompactPropose, reconstruct
from consensus.network.gossip import TOPIC_LIMITS, Batch, SeenCache, TopicRateLimiter
from consensus.network.ingress import OperationIngress
from consensus.rebroadcast import Rebroadcaster
from consensus.simplex.messages import COMPACT_KIND, FORWARDED_KIND, Message, Propose, decode_message
from consensus.sync.client import SyncClient
from p2p.limits.rate_limit import Limiter, Rate
from p2p.network import GossipMessage, Misbehaviour, Network

logger = structlog.get_logger(__name__)

MEMBER_RATE = Rate(500, 4 << 20, 4.0)
"""Messages and bytes a second that are taken from one member's links; the rest waits there. An honest member sends far
less."""
MAX_FORWARDED_BATCHES = 64
"""Forwarded batches that may wait to be processed; further ones are dropped, since gossip brings their operations
too."""
MAX_SEEN_CERTIFICATES = 65_536
"""Gossiped certificates remembered, so that a copy is dropped at once."""
RATE_WAIT_S = 0.25
"""Seconds for which a member's stream rests when it has sent too much."""


class Post(Protocol):
    """Lets the event loop call a method. Sources take turns; the call waits while its own source has queued too
    much."""

    async def __call__(
        self, source: bytes, method: Callable[..., Awaitable[Any]], *arguments: Any, size: int = 0
    ) -> None: ...


class Receiver:
    """Takes what comes from the committee's streams and from gossip. ``me`` is this node's key, if it votes."""

    def __init__(
        self,
        chain_id: bytes,
        me: bytes,
        network: Network,
        store: ChainStore,
        mempool: Mempool,
        ingress: OperationIngress,
        driver: Driver,
        sync: SyncClient,
        rebroadcaster: Rebroadcaster,
        is_member: Callable[[bytes], bool],
        post: Post,
    ) -> None:
        self._chain_id = chain_id
        self._me = me
        self._network = network
        self._store = store
        self._mempool = mempool
        self._ingress = ingress
        self._driver = driver
        self._sync = sync
        self._rebroadcaster = rebroadcaster
        self._post = post
        self._committee_rates = Limiter(MEMBER_RATE)
        self._rate_limits = {name: TopicRateLimiter(limits, is_member) for name, limits in TOPIC_LIMITS.items()}
        self._rate_limits["ops"] = TopicRateLimiter(TOPIC_LIMITS["ops"], is_member, self._has_credit)
        self._forwarded, self._forwards = trio.open_memory_channel[GossipMessage](MAX_FORWARDED_BATCHES)
        self._certificates = SeenCache(MAX_SEEN_CERTIFICATES)
        self._completing: set[tuple[int, int]] = set()  # epoch and view of compact proposals, one at a time of each

    async def run(self, channels: dict[str, trio.MemoryReceiveChannel[GossipMessage]]) -> None:
        """Take gossip from the channels of the topics ``ops``, ``blocks`` and ``certs`` until cancelled."""
        async with trio.open_nursery() as nursery:
            for name, take in (("ops", self._on_ops), ("blocks", self._on_blocks), ("certs", self._on_certs)):
                nursery.start_soon(self._listen, channels[name], take, self._rate_limits[name])
            nursery.start_soon(self._listen, self._forwards, self._on_ops, None)

    def _has_credit(self, sender: bytes) -> bool:
        """Whether the account of ``sender`` owns at least the smallest bond that counts for service, bonded or not."""
        account = self._store.state.account(sender)
        return account.available + account.own_bond >= max(1, self._store.genesis.parameters.min_service_bond)

    def punish(self, sender: bytes) -> None:
        """``sender`` gossiped an operation that no honest node sends: its gossip is dropped for a while."""
        self._rate_limits["ops"].punish(sender, trio.current_time())

    async def on_committee_message(self, peer: bytes, payload: bytes) -> None:
        """Take a message of a member of the committee. Waits while the member has sent too much."""
        if payload[:1] == FORWARDED_KIND:  # looked at elsewhere: votes do not wait for it
            if self._rate_limits["ops"].admit(peer, peer, len(payload), trio.current_time()):
                with suppress(trio.WouldBlock):
                    self._forwarded.send_nowait(GossipMessage("forwarded", peer, payload[1:]))
            return
        while not self._committee_rates.admit(peer, len(payload), trio.current_time()):
            await trio.sleep(RATE_WAIT_S)
        try:
            is_compact = payload[:1] == COMPACT_KIND
            message = CompactPropose.decode(payload[1:]) if is_compact else decode_message(payload)
        except CodecError as error:
            logger.debug("malformed message", peer=crypto.format_address(peer), reason=str(error))
            self._network.report_misbehaviour(peer, Misbehaviour.GARBAGE)
            return
        if isinstance(message, CompactPropose) and message.proposal.leader != peer:
            return  # the ids are not signed, so that only the leader itself may say them
        if self._driver.checks.is_old_news(message):
            return  # the loop need not wake for it
        await self._driver.checks.verify(message)
        await self._post(peer, self._take_message, peer, message, len(payload), size=len(payload))

    async def _take_message(self, peer: bytes, message: Message | CompactPropose, size: int) -> None:
        refused = await self._driver.on_message(message, size)
        if refused is not None:
            logger.debug("message refused", peer=crypto.format_address(peer), reason=refused.reason)
            if refused.is_forged:
                self._network.report_misbehaviour(peer, Misbehaviour.FORGERY)

    async def complete(self, compact: CompactPropose) -> None:
        """Complete a compact proposal: from the mempool, else from its leader, else as a whole block."""
        place = compact.epoch, compact.proposal.view
        if place not in self._completing:
            self._completing.add(place)
            await self._complete(compact)

    async def _complete(self, compact: CompactPropose) -> None:
        leader, place = compact.proposal.leader, (compact.epoch, compact.proposal.view)
        try:
            known = {key: operation for key in compact.ids if (operation := self._mempool.get(key)) is not None}
            missing = [key for key in compact.ids if key not in known]
            if missing:
                known.update(await self._sync.fetch_operations(leader, missing))
            message = reconstruct(compact, known)
            if message is None:
                block = await self._sync.fetch_block(compact.proposal.block_id, (leader,))
                message = None if block is None else Propose(compact.proposal, block)
        except InvalidMessage as error:
            logger.debug("message refused", peer=crypto.format_address(leader), reason=str(error))
            return
        finally:
            self._completing.discard(place)
        if message is not None:
            size = len(message.block.encoded)
            await self._driver.checks.verify(message)
            await self._post(leader, self._driver.on_message, message, size, size=size)

    async def _listen(
        self,
        channel: trio.MemoryReceiveChannel[GossipMessage],
        take: Callable[[GossipMessage], Awaitable[None]],
        gate: TopicRateLimiter | None,
    ) -> None:
        async for message in channel:
            sender, now = message.sender, trio.current_time()
            if sender == self._me or (gate and not gate.admit(sender, message.neighbour, len(message.payload), now)):
                continue
            try:
                await take(message)
            except LedgerError as error:  # no honest node sends such
                (gate or self._rate_limits["ops"]).punish(sender, trio.current_time())
                logger.debug(
                    "gossip dropped", topic=message.topic, peer=crypto.format_address(message.sender), reason=str(error)
                )

    async def _on_ops(self, message: GossipMessage) -> None:
        await self._ingress.take(message.sender, message.neighbour, message.payload)

    async def _on_blocks(self, message: GossipMessage) -> None:
        for item in Batch.decode(message.payload, MAX_RECORD_BYTES).items:
            block_id, raw = item[:32], item[32:]
            if len(raw) > MAX_BLOCK_BYTES or self._driver.find_block(block_id) is not None:
                continue
            if self._store.height_of_block(block_id) is None:
                block = Block.decode(raw)
                if block.id == block_id:
                    await self._driver.checks.verify_block(block)
                    await self._post(b"blocks", self._driver.on_block, block, size=len(raw))

    async def _on_certs(self, message: GossipMessage) -> None:
        for raw in Batch.decode(message.payload).items:
            if not self._certificates.add(raw):
                continue
            certificate = Certificate.decode(raw)
            if certificate.kind != VoteKind.FINALIZE:
                continue
            is_known = self._store.height_of_block(certificate.block_id) is not None
            # Any node may gossip, and a forged certificate, if believed, would silence this node or make it sync.
            validators = self._driver.epoch.find_validators(certificate.epoch)
            if validators is None:  # of an epoch far ahead, if of any: sync will tell
                if not is_known:
                    self._sync.request_sync()
                continue
            # A certificate of a block that is final already may still prove an equivocation.
            is_of_use = not is_known or self._driver.has_new_votes(certificate, validators)
            if not is_of_use and not self._rebroadcaster.is_to_share(certificate):
                continue
            await self._driver.checks.verify_certificate(certificate, validators)
            if self._rebroadcaster.is_to_share(certificate):
                self._rebroadcaster.drop_certificate()  # another node was faster
            if is_of_use:
                await self._post(b"certs", self._driver.on_message, certificate, len(raw), size=len(raw))
