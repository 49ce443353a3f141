"""How this node reaches others and is reached: a ping of one peer, and what several of them say together."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from statistics import median
from typing import Annotated, Any

import trio
from pydantic import AfterValidator
from starlette.exceptions import HTTPException

from chain.crypto import format_address, parse_address
from chain.exceptions import KeyFormatError
from p2p.addresses import get_ip_address, get_relays, is_local
from p2p.network import NetworkError
from p2p.ping import RoundTrip
from serving.admin.node_view import NodeView
from serving.admin.orders.wallet_orders import OrderRefused
from serving.config.fields import Section

PING_TIMEOUT_S = 5.0
"""Patience with an answer."""
CONNECT_TIMEOUT_S = 15.0
"""Patience with a connection to a peer that there is none to."""
MAX_ASKED_PEERS = 8
"""Peers that are pinged for a look at the network."""


def _check_peer(address: str) -> str:
    try:
        parse_address(address)
    except KeyFormatError as error:
        raise ValueError(str(error)) from None
    return address


class PingOrder(Section):
    """The peer to ping, by its address."""

    peer: Annotated[str, AfterValidator(_check_peer)]


async def ping_peer(node: NodeView, order: PingOrder) -> dict[str, Any]:
    """Ping a peer, after a connection to it is made if there is none.

    Raises:
        HTTPException: 400, it is this node.
        OrderRefused: it cannot be reached, or does not answer.
    """
    peer = parse_address(order.peer)
    if peer == node.key.public_key:
        raise HTTPException(400, "peer: this is the node itself; name another")  # which trying again does not change
    is_new = peer not in node.network.peers()
    try:
        if is_new:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                await node.network.connect(peer, node.discovery.table.get_addresses(peer))
        found = await node.pinger.ping(peer, PING_TIMEOUT_S)
    except (NetworkError, trio.TooSlowError) as error:
        raise OrderRefused(f"{order.peer} is not reached: {error or 'no connection in time'}") from None
    return {"address": order.peer, **_describe(found), "was_connected": not is_new}


def _describe(found: RoundTrip) -> dict[str, Any]:
    path = "relayed" if found.is_relayed else "direct"
    return {"path": path, "round_trip_ms": round(1000 * found.seconds, 2), "seen_as": found.seen_as or None}


async def check_network(node: NodeView) -> dict[str, Any]:
    """What is known of this node's place in the network. ``nat`` is as :func:`judge_nat` says.

    ``clock_ms`` is how much later than its time stamp, by this machine's clock, the last block became final: some
    hundred ms where all clocks are right; below 0 the clock here is behind. None while the ledger is catching up, and
    as long as the last block is older than this run of the node, which then says nothing of the clock.
    """
    network, status = node.network, node.engine.status()
    connected = sorted(network.peers())
    asked = connected[:]
    node.runtime.random.shuffle(asked)
    found: dict[bytes, RoundTrip | None] = {}
    async with trio.open_nursery() as nursery:
        for peer in asked[:MAX_ASKED_PEERS]:
            nursery.start_soon(_ping_into, node, peer, found)
    answers = [each for each in found.values() if each is not None]
    seen_as = [each.seen_as for each in answers if each.seen_as]
    listening = [host for address in network.listen_addresses if (host := get_ip_address(address)) is not None]
    hosts = [host for peer in connected if (host := network.get_remote_host(peer)) is not None]
    own = node.discovery.find(node.key.public_key)
    header = node.engine.header
    now_ms = node.runtime.now()
    age_ms = now_ms - 1000 * status.final_age - header.timestamp
    is_measured = not status.is_syncing and header.timestamp > now_ms - 1000 * node.engine.uptime
    return {
        "can_be_dialled": network.can_be_dialled(),
        "listening": list(network.listen_addresses),
        "seen_as": sorted(set(seen_as)),
        "nat": judge_nat(listening, seen_as, network.can_be_dialled()),
        "relays": [] if own is None else sorted(format_address(relay) for relay in get_relays(own.relays)),
        "connected": len(connected),
        "relayed": sum(network.is_relayed(peer) for peer in connected),
        "known": len(node.discovery.table),
        "ipv4": count_version([*listening, *hosts], 4),
        "ipv6": count_version([*listening, *hosts], 6),
        "clock_ms": round(age_ms) if status.height and is_measured else None,
        "round_trip_ms": round(1000 * median(each.seconds for each in answers), 2) if answers else None,
        "pings": [
            {"address": format_address(peer), **(_describe(each) if each is not None else {"path": None})}
            for peer, each in sorted(found.items())
        ],
    }


async def _ping_into(node: NodeView, peer: bytes, found: dict[bytes, RoundTrip | None]) -> None:
    found[peer] = None
    with suppress(NetworkError):
        found[peer] = await node.pinger.ping(peer, PING_TIMEOUT_S)


def judge_nat(listening: Sequence[str], seen_as: Iterable[str], can_be_dialled: bool | None) -> str:
    """Whether a NAT stands between this node and others, from its own IP addresses and those that others see.

    ``none``; ``forwarded``: a NAT that lets others in; ``closed``: one that does not, or a firewall; ``unknown``: no
    peer outside of the local network has said yet. The address that most peers see counts, because one may lie.
    """
    outside = Counter(host for host in seen_as if not is_local(host))
    if not outside:
        return "unknown"
    usual = outside.most_common(1)[0][0]
    if usual in listening:
        return "none"
    return "forwarded" if can_be_dialled else "closed"


def count_version(hosts: Iterable[str], version: int) -> int:
    """How many of some IP addresses are of a version, 4 or 6."""
    return sum(ipaddress.ip_address(host).version == version for host in hosts)
