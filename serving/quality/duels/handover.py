"""Handing texts of duels over, and asking for them: both sides of the protocol.

A peer that is not drawn for the duel, or asks before its stage, is refused before anything is read from the disk. Only
a few texts are in memory at a time. A peer that reads one too slowly loses the exchange.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from chain.crypto import format_address
from chain.exceptions import CodecError, StoreError
from consensus.engine import Engine
from p2p.limits.rate_limit import Limiter, Rate
from p2p.network import NetworkError
from p2p.runtime import Runtime
from p2p.streams.exchange import Exchange
from serving.offload.originator.dialer import ExecutorDialer
from serving.offload.protocol import CHUNK_BYTES, MAX_ANSWER_BYTES, cut_reason
from serving.quality.duels.protocol import DUEL_PROTOCOL, MAX_DUEL_MESSAGE_BYTES, TextHead, TextRequest
from serving.quality.duels.table import DuelTable
from serving.quality.duels.texts import Text, TextKind, find_check_refusal, find_refusal
from serving.quality.duels.turns import Fetch

log = structlog.get_logger(__name__)

REQUEST_RATE = Rate(items=1.0, size=float(MAX_ANSWER_BYTES), burst=30.0)
"""Requests of one peer: a duel or a check takes three, and some more if one of the two nodes is a block behind."""
TOTAL_RATE = Rate(items=20.0, size=float(MAX_ANSWER_BYTES), burst=30.0)
"""What all peers together may ask for."""
MAX_HANDOVERS = 32
"""Texts that are handed over at a time. One peer may have an eighth of them, so that no slow reader blocks the
others."""
MAX_REQUESTS_PER_PEER = 4
"""Requests of one peer that are answered at a time."""
MESSAGE_TIMEOUT_S = 10.0
"""For a message of the other side."""
CONNECT_TIMEOUT_S = 5.0
"""For a connection to a holder."""
TEXT_TIMEOUT_S = 30.0
"""For a whole text that a peer takes."""


class NotObtained(Exception):
    """A holder did not hand a text over; the message says why."""


class TextServer:
    """Hands over the texts that this node has."""

    def __init__(self, public_key: bytes, engine: Engine, table: DuelTable, runtime: Runtime) -> None:
        self._me = public_key
        self._engine = engine
        self._table = table
        self._runtime = runtime
        self._limiter = Limiter(REQUEST_RATE, TOTAL_RATE)
        self._under_way = 0
        self.handed_over = 0
        self.refused = 0

    async def handle(self, exchange: Exchange) -> None:
        """Serve one request.

        Raises:
            NetworkError: the peer asks for too much, for nothing that can be asked for, or is gone.
        """
        if not self._limiter.admit(exchange.peer, 0, trio.current_time()):
            raise NetworkError("busy")
        try:
            with trio.fail_after(MESSAGE_TIMEOUT_S):
                frame = await exchange.receive()
            request = TextRequest.decode(frame or b"", MAX_DUEL_MESSAGE_BYTES)
        except (CodecError, trio.TooSlowError) as error:
            raise NetworkError(f"no request: {error}") from error
        reason = await self._hand_over(exchange, request.hold, TextKind(request.kind))
        if reason is not None:
            self.refused += 1
            await exchange.send(TextHead(None, 0, cut_reason(reason)).encode(), end=True)

    async def _hand_over(self, exchange: Exchange, hold: bytes, kind: TextKind) -> str | None:
        """Send a text to a peer that may have it. Returns the reason if it was not sent."""
        state, peer = self._engine.state, exchange.peer
        duel, check = state.duel(hold), state.model_check(hold)
        reason = find_refusal(duel, self._me, peer, kind)
        if reason is not None and check is not None:
            reason = find_check_refusal(check, duel, self._me, peer, kind)
        if reason is not None:
            return reason
        if self._under_way >= MAX_HANDOVERS:
            return "busy"
        self._under_way += 1
        try:
            found = await self._runtime.run_sync(self._table.load, hold, kind)
            if found is None:
                return "this node does not have that text any more"
            salt, body = found
            with trio.move_on_after(TEXT_TIMEOUT_S):
                await exchange.send(TextHead(salt, len(body)).encode())
                for start in range(0, len(body), CHUNK_BYTES):
                    await exchange.send(body[start : start + CHUNK_BYTES])
                self.handed_over += 1
                return None
            raise NetworkError("the peer takes the text too slowly")
        except StoreError as error:
            log.error("a text of a duel cannot be read", hold=hold.hex()[:16], error=str(error))
            return "this node cannot read that text"
        finally:
            self._under_way -= 1


class TextClient:
    """Asks other nodes for texts."""

    def __init__(self, dialer: ExecutorDialer, runtime: Runtime) -> None:
        self._dialer = dialer
        self._runtime = runtime

    async def fetch(self, fetch: Fetch, take: Callable[[Text], bool]) -> bool:
        """Ask the holders one after another, until ``take`` accepts a text. Returns whether one did.

        Each has an equal share of the time that is left, so that none can use up the time of the others.
        """
        hold, kind, holders = fetch.turn.hold, fetch.kind, fetch.holders
        deadline = trio.current_time() + fetch.seconds
        for left, holder in zip(range(len(holders), 0, -1), holders, strict=True):
            try:
                with trio.fail_after(max(0.0, deadline - trio.current_time()) / left):
                    text = await self._ask(holder, hold, kind, fetch.limit)
            except (NotObtained, NetworkError, CodecError, trio.TooSlowError) as error:
                log.info(
                    "a text of a duel was not obtained",
                    hold=hold.hex()[:16], text=kind.name.lower(), holder=format_address(holder),
                    reason=str(error) or "no answer in time",
                )  # fmt: skip
                continue
            if take(text):
                return True
            log.warning(
                "a text of a duel is another than on the ledger",
                hold=hold.hex()[:16], text=kind.name.lower(), holder=format_address(holder),
            )  # fmt: skip
        return False

    async def _ask(self, holder: bytes, hold: bytes, kind: TextKind, limit: int) -> Text:
        """The text of one holder, of at most ``limit`` bytes.

        Raises:
            NotObtained: it refuses, or its text is too long, or not of the size announced. NetworkError, CodecError,
            trio.TooSlowError: it cannot be reached, or what it says makes no sense.
        """
        await self._dialer.connect(holder, CONNECT_TIMEOUT_S)
        async with self._dialer.streams.open(holder, DUEL_PROTOCOL) as exchange:
            await exchange.send(TextRequest(hold, int(kind)).encode(), end=True)
            head = TextHead.decode(await exchange.receive() or b"", MAX_DUEL_MESSAGE_BYTES)
            if head.salt is None:
                raise NotObtained(f"refused: {head.refusal}")
            if head.size > limit:
                raise NotObtained(f"it has {head.size} bytes, and at most {limit} were paid for")
            body = bytearray()
            while len(body) < head.size:
                frame = await exchange.receive()
                if frame is None or not frame or len(body) + len(frame) > head.size:
                    raise NotObtained("it is not as long as announced")
                body += frame
        return await self._runtime.run_sync(Text.make, head.salt, bytes(body))
