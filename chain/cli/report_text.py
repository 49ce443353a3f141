"""The report of an audit, as text for people and as JSON for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chain.amounts import format_credits
from chain.audit.report import Report, Restarted
from chain.cli.checks import check_counts_to_plain, describe_check_counts
from chain.cli.duels import counts_to_plain, describe_counts
from chain.cli.text import format_count, format_percent
from chain.crypto import format_address
from chain.json_form import to_plain
from chain.printable import escape_unprintable


def describe_report(report: Report, genesis: Path | None = None) -> str:
    """What an audit found, for people; ``genesis`` is the file whose restarts were accepted."""
    name = escape_unprintable(report.name)
    trust_breaks = [_describe_restart(restart, genesis) for restart in report.restarts]
    if report.fault is not None:
        fault = report.fault
        below = "sound below" if report.is_proven else "in itself consistent below"
        reason = escape_unprintable(f"{fault.field}: {fault.reason}")
        return "\n".join([f"FAULT at height {fault.height}, {reason}\n(chain {name}, {below})", *trust_breaks])
    if report.doubt is not None:
        doubt = escape_unprintable(report.doubt)
        verdict = f"NOT PROVEN: {doubt}\n(nothing contradicts itself; if it is the true chain:)"
    elif report.smallest_certificate is None:
        verdict = "ok, but there is no block to confirm"
    else:
        verdict = f"ok, confirmed by {format_percent(report.smallest_certificate)} of stake"
    lines = [
        verdict,
        f"  chain        {name} ({report.chain_id.hex()[:8]})",
        f"  height       {report.height}, block {report.block_id.hex()[:16] or '(genesis)'}",
        f"  state root   {report.state_root.hex()[:16]}",
        f"  checked      {format_count(report.operations, 'operation')}, "
        f"{format_count(report.signatures, 'signature')}, {format_count(report.epochs, 'epoch')}",
        "  certificates none, since there is no block"
        if report.smallest_certificate is None
        else f"  certificates every block final; the smallest by {format_percent(report.smallest_certificate)} "
        f"of stake at height {report.smallest_height}",
        f"  validators   {report.validators}; the {report.blocking_group} largest together could halt the chain",
        f"  supply       {format_credits(report.supply)} credits conserved, treasury {format_credits(report.treasury)}",
    ]
    if report.base_height:
        is_restarted = any(restart.height <= report.base_height for restart in report.restarts)
        exception = ", but for the restarts named below" if is_restarted else ""
        if report.is_proven:
            reason = f"proved final by the validators of every epoch since genesis{exception}"
        elif report.doubt is None:
            reason = f"trusted because of the checkpoint {report.checkpoint}"
        else:
            reason = "proved by nothing"
        lines[1:1] = [
            f"  FROM BLOCK   {report.base_height} on; the blocks before are not here. The state after that block "
            f"({report.base_id.hex()[:16]}) is {reason}, and was not computed again"
        ]
    lines += trust_breaks
    lines += describe_counts(report.duels)
    lines += describe_check_counts(report.checks)
    holds = sum(draws.holds for draws in report.payers.values())
    skipped = sum(draws.skipped for draws in report.payers.values())
    if holds:
        lines.append(
            f"  lottery      {format_count(holds, 'hold')}, each to its drawn executor; "
            f"{format_count(skipped, 'draw')} skipped"
        )
        for payer, draws in sorted(report.payers.items(), key=lambda item: (-item[1].holds, item[0]))[:10]:
            chance = "no other payer to compare with" if draws.expected is None else f"{draws.expected:.1f} by chance"
            lines.append(
                f"    {format_address(payer)}  {format_count(draws.holds, 'hold')}, {draws.unused:,} unused numbers "
                f"({format_credits(draws.forfeited)} forfeited), "
                f"skipped {format_count(draws.skipped, 'draw')} ({chance})"
            )
        lines.append("    (by chance: had each executor failed this payer as often as it failed all others)")
    return "\n".join(lines)


def _describe_restart(restart: Restarted, genesis: Path | None) -> str:
    """One line that names a trust break, and the file that accepts it."""
    line = f"  TRUST BREAK  block {restart.height} ({restart.block_id.hex()[:16]}) went on without "
    if restart.removed is None or restart.share is None:
        line += "a quorum of the validators"
    else:
        removed = format_count(restart.removed, "validator")
        line += f"{removed}, by decree of those with {restart.share:.1%} of the stake"
    if restart.is_accepted and genesis is not None:
        return f"{line}; accepted by {genesis}"
    return f"{line}; accepted by no genesis file that was named (--genesis FILE)"


def report_to_plain(report: Report, genesis: Path | None = None) -> dict[str, Any]:
    """What an audit found, as JSON; ``genesis`` is the file whose restarts were accepted."""
    return {
        "ok": report.ok,
        "fault": None if report.fault is None else to_plain(report.fault),
        "doubt": report.doubt,
        "name": report.name,
        "chain_id": report.chain_id.hex(),
        "height": report.height,
        "block_id": report.block_id.hex(),
        "state_root": report.state_root.hex(),
        "base": {"height": report.base_height, "block_id": report.base_id.hex(), "is_proven": report.is_proven},
        "checkpoint": None if report.checkpoint is None else str(report.checkpoint),
        "operations": report.operations,
        "signatures": report.signatures,
        "epochs": report.epochs,
        "smallest_certificate": {"share": report.smallest_certificate, "height": report.smallest_height},
        "validators": report.validators,
        "blocking_group": report.blocking_group,
        "supply": report.supply,
        "treasury": report.treasury,
        "duels": counts_to_plain(report.duels),
        "checks": check_counts_to_plain(report.checks),
        "restarts": [
            {**to_plain(restart), "accepted_by": str(genesis) if genesis and restart.is_accepted else None}
            for restart in report.restarts
        ],
        "payers": {
            format_address(payer): {
                "holds": draws.holds,
                "skipped_draws": draws.skipped,
                "skipped_by_chance": draws.expected,
                "unused_numbers": draws.unused,
                "forfeited": draws.forfeited,
            }
            for payer, draws in sorted(report.payers.items())
        },
    }
