"""Reports of a node to its owner, as plain data: what the admin listener answers.

Amounts are in micro-credits, public keys are written as addresses and hashes in hexadecimal digits.
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from statistics import median
from typing import Any

import trio
from msgspec import structs

from chain.crypto import format_address
from chain.state.check_records import CHECK_STAGES
from chain.state.duel_records import STAGES
from chain.state.records import Account, ValidatorRecord
from chain.transition.epochs import get_next_epoch
from chain.transition.income import compute_missing_bond
from p2p.network import Network
from p2p.peers.announcement import Announcement, ModelLoad
from serving.admin.health.diagnosis import judge
from serving.admin.health.health import find_node_troubles, gather_ending, get_stake_share, get_version, report_backends
from serving.admin.node_view import NodeView
from serving.model_list import describe_price
from serving.prediction.announced_load import read_model_load
from serving.quality.duels.check_history import CheckRecord
from serving.quality.duels.history import DuelRecord
from serving.request_records import ENDS, Outcome, RequestRecord

ACCOUNTS_PER_TURN = 1_000
"""Accounts that are added up before other tasks get a turn."""


def report_status(node: NodeView) -> dict[str, Any]:
    """Where the node stands: ledger, peers, models, requests.

    ``participation_votes`` of ``participation_blocks`` blocks are what a validator has voted for in its present span;
    with fewer than ``participation_needed`` it is jailed when the span ends. ``ending`` is what a node that was told to
    stop waits for (requests, payments that are not final), since when, and for how many seconds at most.
    ``serves_others_changes_in_s`` is when the node opens or closes to other nodes by itself (None: not within a week).
    ``measured_by_predicted`` is the median of that ratio of the times of answers to this node's users; above 1 they
    took longer than predicted.
    """
    availability = node.availability.check()
    genesis, status = node.engine.genesis, node.engine.status()
    counters = node.dispatcher.counters
    troubles, ending = find_node_troubles(node), gather_ending(node)
    epoch = get_next_epoch(genesis, node.engine.state)
    account = node.engine.state.account(node.key.public_key)
    return {
        "verdict": judge(troubles).value,
        "ending": None if ending is None else asdict(ending),
        "troubles": [asdict(trouble) for trouble in troubles],
        "version": get_version(),
        "uptime_s": round(node.engine.uptime, 1),
        "address": node.key.address,
        "chain": genesis.name,
        "chain_id": genesis.chain_id.hex(),
        "height": status.height,
        "block": node.engine.header.id.hex(),
        "final_age_s": round(status.final_age, 1),
        "is_syncing": status.is_syncing,
        "epoch": status.epoch,
        "epoch_blocks_left": epoch.last_height - status.height,
        "view": status.view,
        "beacon": node.engine.state.beacon.previous.hex(),
        "checkpoint": str(node.engine.checkpoint or ""),
        "is_validator": status.is_validator,
        "stake_share": get_stake_share(epoch.validators, node.key.public_key),
        "participation_votes": None if status.standing is None else status.standing.votes,
        "participation_blocks": None if status.standing is None else status.standing.blocks,
        "participation_needed": None if status.standing is None else status.standing.needed,
        "mempool_operations": status.mempool_operations,
        "connected_peers": status.peers,
        "known_peers": len(node.discovery.table),
        "can_be_dialled": node.network.can_be_dialled(),
        "listening": [f"{address}/p2p/{node.key.address}" for address in node.network.listen_addresses],
        "models": list(node.backend_pool.get_models()),
        "backends": report_backends(node),
        "available": account.available,
        "held": account.held,
        "bonded": account.bonded,
        "earned": node.payments.payee.earned,
        "serves_others": availability.is_open,
        "serves_others_because": availability.reason,
        "serves_others_changes_in_s": availability.changes_in_s,
        "requests_local": counters.local,
        "requests_offloaded": counters.offloaded,
        **{f"requests_{outcome.value}": counters.ended[outcome] for outcome in ENDS},
        "prompt_tokens": counters.prompt_tokens,
        "completion_tokens": counters.completion_tokens,
        "measured_by_predicted": _compare_times(node),
        "offers_served": node.executor.served,
        "offers_declined": node.executor.declined,
        "declines": {reason.value: count for reason, count in node.executor.declines.items() if count},
    }


def _compare_times(node: NodeView) -> float | None:
    """The median of measured by predicted times of whole answers, among the requests that are recorded."""
    ratios = [ratio for record in node.dispatcher.records if (ratio := record.compare()[1]) is not None]
    return round(median(ratios), 2) if ratios else None


async def report_total(node: NodeView) -> dict[str, Any]:
    """All credit after the last final block, added up account by account; ``total`` must equal ``supply``."""
    header, state = node.engine.header, node.engine.state
    accounts = available = held = bonded = unbonding = deposits = 0
    for _, account in state.accounts():
        accounts += 1
        available += account.available
        held += account.held
        bonded += account.bonded
        unbonding += get_unbonding(account)
        deposits += account.deposit
        if accounts % ACCOUNTS_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
    return {
        "height": header.height,
        "block": header.id.hex(),
        "accounts": accounts,
        "available": available,
        "held": held,
        "bonded": bonded,
        "unbonding": unbonding,
        "deposits": deposits,
        "treasury": state.totals.treasury,
        "total": available + held + bonded + unbonding + deposits + state.totals.treasury,
        "supply": state.totals.supply,
    }


def report_peers(node: NodeView) -> dict[str, Any]:
    """The peers that are online, as each announces itself. ``utilization`` is that of the busiest model, in permille,
    and the rates of ``loads`` are in tokens per second. ``connected_s`` is for how long it has been connected, and
    ``round_trip_ms`` what the connection's keepalive measures; both are None where that is not known.

    ``scores`` is what this node remembers of a peer as an executor.
    """
    return {
        "peers": [
            {
                "address": format_address(peer.peer),
                **_report_connection(node.network, peer.peer),
                "addresses": list(peer.addresses),
                "relays": list(peer.relays),
                "models": list(peer.models),
                "utilization": peer.load.utilization,
                "loads": {each.model: _report_load(each) for each in peer.load.models},
                "bonded": node.engine.state.account(peer.peer).bonded,
                "scores": _report_scores(node, peer),
            }
            for peer in node.discovery.table.present()
        ]
    }


def _report_connection(network: Network, peer: bytes) -> dict[str, Any]:
    is_connected = peer in network.peers()
    since, round_trip_s = network.get_connected_since(peer), network.get_round_trip(peer)
    return {
        "connected": is_connected,
        "relayed": is_connected and network.is_relayed(peer),
        "connected_s": None if since is None else round(trio.current_time() - since, 1),
        "round_trip_ms": None if round_trip_s is None else round(1000 * round_trip_s, 1),
    }


def _report_load(load: ModelLoad) -> dict[str, Any]:
    speed = read_model_load(load)
    formats = {part: sorted(names) for part, names in asdict(speed.number_formats).items()}
    return {**structs.asdict(speed), "features": sorted(speed.features), "number_formats": formats}


def _report_scores(node: NodeView, peer: Announcement) -> dict[str, Any]:
    """What is remembered of a peer as an executor, by model: outcomes by their present weight, and seconds."""
    now = trio.current_time()
    scores = {model: node.dispatcher.originator.scores.find(peer.peer, model, now) for model in peer.models}
    return {
        model: {
            "delivered": round(score.delivered, 2),
            "failed": round(score.failed, 2),
            "unshared_errors": round(score.unshared_errors, 2),
            "is_faulty": score.is_faulty,
        }
        for model, score in scores.items()
        if score is not None
    }


def report_models(node: NodeView) -> dict[str, Any]:
    """The models that users can ask for, with number and stake of the other executors, and this node's backends.

    ``duels``, ``win_rate`` (0 to 1) and ``identities`` are those of all executors of a model. ``price`` is that of an
    answer of another node, in credits; what is served here is free.
    """
    local = node.backend_pool.get_models()
    state = node.engine.state
    table = state.serving_table(state.serving_periods.current.first_round)
    entries = [] if table is None else [entry for entry in table.entries if entry.public_key != node.key.public_key]
    models = []
    for model in node.dispatcher.providers.get_models():
        stakes = [entry.stake for entry in entries if model in entry.models]
        models.append(
            {
                "id": model,
                "local": model in local,
                **node.model_reports.find(model).to_plain(),
                "executors": len(stakes),
                "stake": sum(stakes),
                "price": describe_price(node.dispatcher.originator.get_price(model)),
            }
        )
    return {"models": models, "backends": report_backends(node)}


def report_requests(node: NodeView, limit: int) -> dict[str, Any]:
    """The last ``limit`` requests of this node's users, newest first."""
    return {"requests": [_report_request(node, record) for record in islice(reversed(node.dispatcher.records), limit)]}


def _report_request(node: NodeView, record: RequestRecord) -> dict[str, Any]:
    """``amount`` is what was paid, once that is final at ``settled_height``; None for a request served here.

    ``reason`` is why it was answered where it was, and the predicted times are those of the node that answered.
    """
    payment = None if record.hold_id is None else node.payments.payer.find(record.hold_id)
    executor = None if record.outcome is Outcome.REFUSED else "local"
    return {
        "id": record.id,
        "model": record.model,
        "key": record.key,
        "executor": executor if record.executor is None else format_address(record.executor),
        "attempt": record.attempt,
        "reason": record.reason,
        "predicted_ttft_ms": None if record.prediction is None else round(1000 * record.prediction.time.first_token, 1),
        "predicted_duration_ms": None if record.prediction is None else round(1000 * record.prediction.time.total, 1),
        "age_s": round(trio.current_time() - record.started, 1),
        "ttft_ms": _to_ms(record.started, record.first_byte),
        "duration_ms": _to_ms(record.started, record.finished),
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "completion_tokens_estimated": record.is_estimated,
        "outcome": record.outcome.value,
        "hold": None if record.hold_id is None else record.hold_id.hex(),
        "held": None if payment is None else payment.amount,
        "amount": None if payment is None else payment.paid,
        "hold_height": None if payment is None else payment.hold_height,
        "settled_height": None if payment is None else payment.settled_height,
    }


def _to_ms(since: float, until: float | None) -> float | None:
    return None if until is None else round(1000 * (until - since), 1)


def get_unbonding(account: Account) -> int:
    """What an account has taken out of its bond and cannot use yet."""
    return sum(part.amount for part in account.unbonding)


def report_wallet(node: NodeView) -> dict[str, Any]:
    """The account: final balances, how much may be spent now, and what answers to other nodes have earned."""
    account = node.engine.state.account(node.key.public_key)
    return {
        "address": node.key.address,
        "nonce": account.nonce,
        "available": account.available,
        "spendable": node.payments.payer.spendable,
        "held": account.held,
        "bonded": account.bonded,
        "locked": account.locked,
        "deposit": account.deposit,
        "unbonding": get_unbonding(account),
        "income_to_bond": compute_missing_bond(node.engine.genesis.parameters, account),
        "earned": node.payments.payee.earned,
        "models": list(account.models),
        "validator": _describe_validator(node.engine.state.validator_record(node.key.public_key)),
    }


def _describe_validator(validator: ValidatorRecord | None) -> str:
    if validator is None or not validator.is_enrolled:
        return "no"
    return f"jailed until epoch {validator.jailed_until}" if validator.jailed_until else "enrolled"


def report_duels(node: NodeView) -> dict[str, Any]:
    """The duels and the checks of a model that this node took part in since it started, newest first. The lists are
    empty on a chain without.

    ``moved`` is what this node got or (negative) paid so far. ``judge`` is how it judges, if it does, and
    ``identities`` what it declares of its models, with the checks of its answers as the ledger counts them. The
    ``shortfall`` of a check is in thousandths of a standard deviation, its ``distance`` in parts per million; both are
    None where nothing was measured. ``benched_s`` is for how many seconds it may not judge, as its votes differed when
    others repeated them.
    """
    runner = node.duels
    if runner is None:
        return {"duels": [], "judge": None, "benched_s": 0, "checks": [], "identities": []}
    record = node.engine.state.judge_record(node.key.public_key)
    benched_s = max(0, record.benched_until - node.engine.header.chain_time) // 1_000
    declared = node.engine.state.account(node.key.public_key).judge
    judge = None if declared is None else {"model": declared.model, "prompt_digest": declared.prompt_digest.hex()}
    return {
        "duels": [_report_duel(record) for record in reversed(runner.log.records.values())],
        "judge": judge,
        "benched_s": benched_s,
        "checks": [_report_check(record) for record in reversed(runner.check_log.records.values())],
        "identities": _report_identities(node),
    }


def _report_duel(record: DuelRecord) -> dict[str, Any]:
    duel, verdict = record.duel, record.verdict
    return {
        "hold": record.hold.hex(),
        "role": record.role.value,
        "model": duel.model,
        "amount": duel.amount,
        "executor": format_address(duel.executor),
        "challenger": None if duel.challenger is None else format_address(duel.challenger),
        "stage": None if verdict is not None else STAGES[duel.stage],
        "verdict": None if verdict is None else verdict.value,
        "moved": record.moved,
    }


def _report_identities(node: NodeView) -> list[dict[str, Any]]:
    state, me = node.engine.state, node.key.public_key
    histories = {each: state.check_history(me, each.digest) for each in state.account(me).identities}
    return [
        {
            "model": identity.model,
            "digest": identity.digest.hex(),
            "checks": history.distance.checks,
            "shortfall_failures": history.shortfall.failures,
            "distance_failures": history.distance.failures,
        }
        for identity, history in histories.items()
    ]


def _report_check(record: CheckRecord) -> dict[str, Any]:
    check, finding = record.check, record.finding
    return {
        "hold": record.hold.hex(),
        "role": record.role.value,
        "model": check.model,
        "identity": check.identity.hex(),
        "amount": check.amount,
        "executor": format_address(check.executor),
        "stage": None if finding is not None else CHECK_STAGES[check.stage],
        "outcome": None if finding is None else finding.outcome.value,
        "shortfall": None if finding is None else finding.shortfall,
        "distance": None if finding is None else finding.distance,
        "is_substitution": record.is_substitution,
        "moved": record.moved,
    }
