"""The sections of the page's live data. Amounts are in micro-credits, times in milliseconds of the wall clock.

The public's sections say what ledger and gossip tell everybody anyway; a test holds them free of the owner's data.
"""

from __future__ import annotations

from dataclasses import asdict
from statistics import quantiles
from typing import Any

import trio

from chain.crypto import format_address
from consensus.stall import compute_stall
from p2p.peers.announcement import Announcement
from serving.admin.health.health import find_node_troubles, report_backends
from serving.admin.levels import Level
from serving.admin.node_view import NodeView
from serving.admin.orders.policy_orders import report_policy
from serving.admin.reports import report_duels, report_models, report_requests, report_wallet
from serving.dashboard.block_log import BlockLog
from serving.dashboard.events import Section
from serving.dashboard.history import History
from serving.prediction.announced_load import read_model_load
from serving.request_records import Outcome
from serving.scheduling.admission import Origin

LISTED_REQUESTS = 40
"""Requests in the live data; ``/requests`` has more, and says more of each."""
LEFT_OUT = ("age_s", "attempt", "reason", "predicted_ttft_ms", "predicted_duration_ms", "completion_tokens_estimated")
"""What the page does not show of a request."""
RECENT_S = 60.0
"""Age of the requests whose first token is measured."""

SAMPLED = (
    "local", "offloaded", "served", "failed", "tokens", "running", "capacity", "own_queue", "others_queue",
    "first_token", "available", "held", "bonded", "earned", "peers",
)  # fmt: skip
"""What the history keeps, beside the time."""


def take_sample(node: NodeView) -> dict[str, Any]:
    """One sample of the history: counters since the start, gauges, and the median first token in ms."""
    counters, admissions = node.dispatcher.counters, node.backend_pool.admissions
    account = node.engine.state.account(node.key.public_key)
    return {
        "at": node.runtime.now() // 1000,
        "local": counters.local,
        "offloaded": counters.offloaded,
        "served": node.executor.served,
        "failed": counters.ended[Outcome.FAILED],
        "tokens": counters.completion_tokens,
        "running": sum(admission.running for admission in admissions),
        "capacity": sum(admission.capacity for admission in admissions),
        "own_queue": sum(admission.waiting(Origin.OWN) for admission in admissions),
        "others_queue": sum(admission.waiting(Origin.DELEGATED) for admission in admissions),
        "first_token": measure_first_tokens(node)[0],
        "available": account.available,
        "held": account.held,
        "bonded": account.bonded,
        "earned": node.payments.payee.earned,
        "peers": len(node.network.peers()),
    }


def measure_first_tokens(node: NodeView) -> tuple[float | None, float | None]:
    """Median and 95th percentile of the times to the first byte in the last minute, in ms; None without any."""
    since = trio.current_time() - RECENT_S
    times: list[float] = []
    for record in reversed(node.dispatcher.records):
        if record.started < since:
            break
        if record.first_byte is not None:
            times.append(1000 * (record.first_byte - record.started))
    if len(times) < 2:
        return (round(times[0], 1),) * 2 if times else (None, None)
    cuts = quantiles(times, n=20, method="inclusive")
    return round(cuts[9], 1), round(cuts[18], 1)


def make_sections(node: NodeView, blocks: BlockLog, history: History) -> dict[str, Section]:
    """All sections by name."""
    return {
        "chain": Section(Level.PUBLIC, lambda: view_chain(node)),
        "network": Section(Level.PUBLIC, lambda: view_network(node), every=2),
        "flows": Section(Level.PUBLIC, lambda: blocks.find_flows(node.runtime.now()), every=2),
        "models": Section(Level.PUBLIC, lambda: report_models(node)["models"], every=5),
        "node": Section(Level.READING, lambda: view_node(node)),
        "sample": Section(Level.READING, lambda: history.latest),
        "backends": Section(Level.READING, lambda: report_backends(node)),
        "requests": Section(Level.READING, lambda: view_requests(node)),
        "peers": Section(Level.READING, lambda: view_peers(node), every=2),
        "wallet": Section(Level.READING, lambda: report_wallet(node), every=2),
        "policy": Section(Level.READING, lambda: report_policy(node), every=2),
        "duels": Section(Level.READING, lambda: report_duels(node), every=5),
        "troubles": Section(Level.READING, lambda: [asdict(each) for each in find_node_troubles(node)]),
    }


def view_chain(node: NodeView) -> dict[str, Any]:
    """Where the ledger stands; ``final_at`` is when the last block became final here."""
    genesis, status, header = node.engine.genesis, node.engine.status(), node.engine.header
    parameters, state = genesis.parameters, node.engine.state
    return {
        "name": genesis.name,
        "chain_id": genesis.chain_id.hex(),
        "height": header.height,
        "block": header.id.hex(),
        # In seconds, or the difference of two clocks would make this new each time.
        "final_at": 1000 * round((node.runtime.now() - 1000 * status.final_age) / 1000),
        "idle_beat_ms": parameters.idle_beat_ms,
        "stalled_after_ms": 1000 * compute_stall(parameters.idle_beat_ms / 1000),
        "epoch": status.epoch,
        "epoch_heights": parameters.epoch_heights,
        "is_syncing": status.is_syncing,
        "supply": state.totals.supply,
        "treasury": state.totals.treasury,
    }


def view_network(node: NodeView) -> list[dict[str, Any]]:
    """The nodes that are online with models, load and bond: this one first, then by bond. No network address."""
    state = node.engine.state
    models = node.backend_pool.get_offered_models() if node.availability.check().is_open else ()
    running = sum(admission.running for admission in node.backend_pool.admissions)
    slots = sum(admission.capacity for admission in node.backend_pool.admissions)
    own = {
        "address": node.key.address,
        "models": list(models),
        "running": running,
        "slots": slots,
        "bonded": state.account(node.key.public_key).bonded,
        "is_me": True,
    }
    others = [_view_peer(node, peer) for peer in node.discovery.table.present() if peer.peer != node.key.public_key]
    return [own, *sorted(others, key=lambda each: (-each["bonded"], each["address"]))]


def _view_peer(node: NodeView, peer: Announcement) -> dict[str, Any]:
    loads = [read_model_load(each) for each in peer.load.models]
    return {
        "address": format_address(peer.peer),
        "models": list(peer.models),
        "running": sum(load.running for load in loads),
        "slots": sum(load.slots for load in loads),
        "bonded": node.engine.state.account(peer.peer).bonded,
        "is_me": False,
    }


def view_node(node: NodeView) -> dict[str, Any]:
    """What the owner sees at a glance."""
    status, counters = node.engine.status(), node.dispatcher.counters
    median, high = measure_first_tokens(node)
    availability = node.availability.check()
    return {
        "address": node.key.address,
        "listening": [f"{address}/p2p/{node.key.address}" for address in node.network.listen_addresses],
        "is_dialable": node.network.can_be_dialled(),
        "models": list(node.backend_pool.get_models()),
        "connected": status.peers,
        "known": len(node.discovery.table),
        "is_validator": status.is_validator,
        "mempool": status.mempool_operations,
        "serves_others": availability.is_open,
        "serves_others_because": availability.reason,
        "under_way": sum(record.finished is None for record in node.dispatcher.records),
        "first_token_p50_ms": median,
        "first_token_p95_ms": high,
        "requests_ended": {outcome.value: count for outcome, count in counters.ended.items() if count},
        "offers_served": node.executor.served,
        "declines": {reason.value: count for reason, count in node.executor.declines.items() if count},
    }


def view_requests(node: NodeView) -> list[dict[str, Any]]:
    """The last requests of the owner's users, newest first, with the moment at which they began instead of an age."""
    rows: list[dict[str, Any]] = report_requests(node, LISTED_REQUESTS)["requests"]
    now, records = node.runtime.now() / 1000 - trio.current_time(), reversed(node.dispatcher.records)
    for row, record in zip(rows, records, strict=False):
        for name in LEFT_OUT:
            del row[name]
        row["started_at"] = round(now + record.started)
    return rows


def view_peers(node: NodeView) -> list[dict[str, Any]]:
    """What the owner sees of the peers beside what the public does: the path to each, and its addresses.

    Nothing in it changes as often as loads do, so that it is seldom sent.
    """
    connected = node.network.peers()
    return [
        {
            "address": format_address(peer.peer),
            "path": _find_path(node, peer.peer) if peer.peer in connected else None,
            "addresses": list(peer.addresses),
            "relays": list(peer.relays),
        }
        for peer in node.discovery.table.present()
    ]


def _find_path(node: NodeView, peer: bytes) -> str:
    return "relayed" if node.network.is_relayed(peer) else "direct"
