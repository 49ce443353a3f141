"""Accounts and proofs as people read them and, as JSON, for other programs."""

from __future__ import annotations

import json
from typing import Any

from chain.amounts import format_credits
from chain.cli.text import format_count, format_duration, format_percent, format_rows, format_time
from chain.crypto import format_address
from chain.explorer.plain import header_to_plain, operation_to_plain
from chain.genesis import Genesis
from chain.json_form import to_plain
from chain.light.proofs import ProvenAccount, VerifiedProof
from chain.state.records import Account


def account_to_rows(account: Account) -> dict[str, str]:
    """The fields of an account as text."""
    unbonding = [f"{format_credits(part.amount)} from epoch {part.release_epoch:,} on" for part in account.unbonding]
    return {
        "nonce": str(account.nonce),
        "available": format_credits(account.available),
        "held": format_credits(account.held),
        "bonded": format_credits(account.bonded),
        "locked": format_credits(account.locked),
        "deposit": format_credits(account.deposit),
        "unbonding": ", ".join(unbonding) or "-",
        "models": ", ".join(account.models) or "-",
        "judges": "-" if account.judge is None else f"with {account.judge.model}",
    }


def proof_to_plain(genesis: Genesis, verified: VerifiedProof) -> dict[str, Any]:
    """What a proof shows, as JSON."""
    statement, anchor, checkpoint = verified.statement, verified.anchor, verified.checkpoint
    content: dict[str, Any] = {"name": genesis.name, "chain_id": genesis.chain_id.hex()}
    if isinstance(statement, ProvenAccount):
        content["account"] = {
            "address": format_address(statement.public_key),
            "exists": statement.account is not None,
            **to_plain(statement.account or Account()),
        }
    else:
        content["operation"] = operation_to_plain(statement.operation)
        content["index"] = statement.path.index
        content["shows_effect"] = statement.shows_effect
    return {
        **content,
        **header_to_plain(verified.header),
        "final_by": header_to_plain(anchor),
        "share": verified.share,
        "smallest_share": verified.smallest_share,
        "restarts": [header_to_plain(restart) for restart in verified.restarts],
        "checkpoint": {
            **header_to_plain(checkpoint),
            "epochs_before": anchor.epoch - checkpoint.epoch,
            "ms_before": anchor.timestamp - checkpoint.timestamp,
        },
    }


def describe_proof(genesis: Genesis, verified: VerifiedProof) -> str:
    """What a proof shows, for people."""
    statement, header, anchor, checkpoint = verified.statement, verified.header, verified.anchor, verified.checkpoint
    place = f"block {header.height:,} ({format_time(header.timestamp)})"
    rows: dict[str, str] = {}
    if isinstance(statement, ProvenAccount):
        name = format_address(statement.public_key)
        if statement.account is None:
            title = f"{name} has no account and no credits after {place}"
        else:
            title = f"{name} has {format_credits(statement.account.total)} credits after {place}"
            rows |= account_to_rows(statement.account)
    else:
        plain = operation_to_plain(statement.operation)
        title = f"{plain.pop('kind')} {plain.pop('id')} is in {place}"
        rows |= {
            name: format_credits(value) if name == "amount" else value if type(value) is str else json.dumps(value)
            for name, value in plain.items()
        }
        rows["effect"] = (
            "it succeeded: a block cannot have such an operation otherwise"
            if statement.shows_effect
            else "not shown: such an operation pays its fee and may fail, and headers do not say which did"
        )
    rows["chain"] = f"{genesis.name} ({genesis.chain_id.hex()[:8]}), block {header.id.hex()}"
    if verified.share is None or verified.smallest_share is None:
        rows["final by"] = "the checkpoint"
    else:
        rows["final by"] = (
            f"{format_percent(verified.share)} of the stake of epoch {anchor.epoch:,} at height {anchor.height:,}; "
            f"no epoch since the checkpoint by less than {format_percent(verified.smallest_share)}"
        )
    rows["checkpoint"] = f"height {checkpoint.height:,} ({format_time(checkpoint.timestamp)})"
    if anchor != checkpoint:
        rows["checkpoint"] += (
            f", older than that by {format_count(anchor.epoch - checkpoint.epoch, 'epoch')} or "
            f"{format_duration(anchor.timestamp - checkpoint.timestamp)}"
        )
    if verified.restarts:
        heights = ", ".join(f"{restart.height:,}" for restart in verified.restarts)
        rows["TRUST BREAK"] = f"restarted without a quorum at height {heights}; the genesis file accepts that"
    return f"ok: {title}\n{format_rows(rows)}"
