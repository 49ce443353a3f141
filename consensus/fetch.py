"""Fetching a whole chain from a running node, for an audit elsewhere. Nothing that comes is believed."""

from __future__ import annotations

from pathlib import Path

import trio

from chain.codec import Record
from chain.exceptions import CodecError, StoreError
from chain.export import ExportWriter
from chain.genesis import Genesis
from consensus.sync import PROTOCOL, GetBlocks, GetTip, Part, Request, Tip
from p2p.network import NetworkError, RunnableNetwork
from p2p.streams import Streams

TIMEOUT = 20.0
BATCH = 1 << 20


async def fetch_chain(network: RunnableNetwork, genesis: Genesis, peer: bytes, address: str, path: Path) -> None:
    """Write the chain of ``peer`` at ``address`` to an export file at ``path``.

    Raises:
        NetworkError: it cannot be reached or stops answering.
        StoreError: it answers nonsense.
    """
    streams = Streams(network)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        await nursery.start(streams.run)
        try:
            with trio.fail_after(TIMEOUT):
                await network.connect(peer, [address])
            tip = Tip.decode(await streams.request(peer, PROTOCOL, _question(GetTip()), TIMEOUT))
            with ExportWriter(path, genesis, tip.height) as writer:
                height = 0
                while height < tip.height:
                    height = await _fetch_batch(streams, peer, writer, height, tip.height)
        except CodecError as error:
            raise StoreError(f"the node sent something malformed: {error}") from error
        except trio.TooSlowError:
            raise NetworkError("the node does not answer in time") from None
        finally:
            nursery.cancel_scope.cancel()


async def _fetch_batch(streams: Streams, peer: bytes, writer: ExportWriter, height: int, last: int) -> int:
    """Fetch some blocks after ``height``; returns the height reached."""
    start = height
    async with streams.open(peer, PROTOCOL) as exchange:
        await exchange.send(_question(GetBlocks(height + 1, BATCH)), end=True)
        while height < last:
            with trio.fail_after(TIMEOUT):
                raw = await exchange.receive()
            if raw is None:
                break
            part = Part.decode(raw)
            writer.add(part.block, part.certificate)
            height += 1
        else:
            await exchange.abort("enough")
    if height == start:
        raise StoreError(f"the node says that its chain has {last} blocks, but sent none after {height}")
    return height


def _question(question: GetTip | GetBlocks) -> bytes:
    record: Record = Request(question)
    return record.encode()
