"""Sections 6.1, 6.2 and 6.7: which blocks are valid, and what they do to the state."""

from __future__ import annotations

from tests.chain.specification import checks, duels
from tests.chain.specification.draws import compute_leader
from tests.chain.specification.epochs import count_participation, end_epoch, end_round, list_services
from tests.chain.specification.ledger import NO_VALIDATOR, VERSION, Ledger, compute_body_root, demand
from tests.chain.specification.merkle import history_peaks, history_root, state_root
from tests.chain.specification.notation import Record, decode, encode, h, is_signed, u64
from tests.chain.specification.operations import FAILED, REFUSED, include
from tests.chain.specification.payments import settle_due_captures
from tests.chain.specification.validators import FINALIZE, NULLIFY, is_certificate, is_vote

MAX_BLOCK_BYTES = 524_288
MAX_NULLIFICATIONS = 32


def apply_block(ledger: Ledger, raw: bytes) -> list[int]:
    """Check a block and execute it. Returns which of its operations failed.

    Raises:
        Invalid: it breaks a rule; the ledger is of no use any more.
    """
    block = decode("Block", raw)
    demand("body", len(raw) <= MAX_BLOCK_BYTES)
    check_block(ledger, block)
    outcomes = execute(ledger, block, block["body"]["operations"])
    demand("operations", REFUSED not in outcomes)
    demand("state_root", block["header"]["state_root"] == state_root(ledger.encode_entries()))
    return [index for index, outcome in enumerate(outcomes) if outcome == FAILED]


def check_block(ledger: Ledger, block: Record) -> None:
    """What must be true of a block before it is executed.

    Raises:
        Invalid: something is not.
    """
    header, body, parent, parameters = block["header"], block["body"], ledger.header, ledger.parameters
    height, epoch, committee = ledger.height + 1, ledger.epoch, ledger.committee(ledger.epoch)
    is_first = (height - 1) % parameters["epoch_heights"] == 0
    demand("version", header["version"] == VERSION)
    demand("chain_id", header["chain_id"] == ledger.chain_id)
    demand("height", header["height"] == height)
    demand("epoch", header["epoch"] == epoch == (height - 1) // parameters["epoch_heights"])
    demand("view", header["view"] > (0 if is_first else parent["view"]))
    demand("parent_id", header["parent_id"] == ledger.ids[-1])
    demand("timestamp", header["timestamp"] > parent["timestamp"])
    passed = min(header["timestamp"] - parent["timestamp"], parameters["idle_beat_ms"])
    demand("chain_time", header["chain_time"] == parent["chain_time"] + passed)
    source = ledger.entries[b"b"]["previous"]
    demand("proposer", header["proposer"] == compute_leader(committee, source, header["view"]))
    for field, number in (("validators_hash", epoch), ("next_validators_hash", epoch + 1)):
        demand(field, header[field] == h("validators", encode(ledger.entries[b"c" + u64(number)])))
    demand("body_root", header["body_root"] == compute_body_root(body))
    demand("history_root", header["history_root"] == history_root(ledger.ids))
    demand("signature", is_signed(header["proposer"], "header", ledger.chain_id, encode(header), block["signature"]))
    commitment = ledger.entries.get(b"v" + header["proposer"], NO_VALIDATOR)["commitment"]
    demand("beacon_reveal", commitment == h("onion", header["beacon_reveal"]) and commitment != bytes(32))
    check_justification(ledger, header, body)
    demand("removed", not body["removed"])
    for each in body["operations"]:
        message = encode(each["operation"])
        demand("operations", is_signed(each["signer"], "operation", ledger.chain_id, message, each["signature"]))


def check_justification(ledger: Ledger, header: Record, body: Record) -> None:
    """The parent certificate, the nullifications and the signatures of the late votes."""
    parent, certificate, committee = ledger.header, body["parent_certificate"], ledger.committee(ledger.epoch)
    is_of_epoch = parent["height"] > 0 and parent["epoch"] == ledger.epoch
    demand("parent_certificate", (certificate is None) == (parent["height"] == 0))
    if certificate is not None:
        demand("parent_certificate", certificate["block_id"] == ledger.ids[-1])
        demand("parent_certificate", certificate["epoch"] == parent["epoch"])
        if is_of_epoch:
            demand("parent_certificate", certificate["kind"] != NULLIFY and certificate["view"] == parent["view"])
        else:
            demand("parent_certificate", certificate["kind"] == FINALIZE)
        members = ledger.committee(parent["epoch"])
        demand("parent_certificate", is_certificate(ledger.chain_id, members, certificate))
    view = certificate["view"] if certificate is not None and is_of_epoch else 0
    shown = range(max(view + 1, header["view"] - MAX_NULLIFICATIONS), header["view"])
    said = [(each["kind"], each["epoch"], each["view"]) for each in body["nullifications"]]
    demand("nullifications", said == [(NULLIFY, ledger.epoch, view) for view in shown])
    for each in body["nullifications"]:
        demand("nullifications", is_certificate(ledger.chain_id, committee, each))
    demand("late_votes", all(is_vote(ledger.chain_id, vote) for vote in body["late_votes"]))


def execute(ledger: Ledger, block: Record, operations: list[Record]) -> list[str]:
    """What a block does to the state, in the ten steps of section 6.7, with these signed operations.

    Returns the outcome of each: one that cannot be included changes nothing, so that also what a proposer has left out
    may be among them.

    Raises:
        Invalid: a late vote does not count.
    """
    header, body, entries = block["header"], block["body"], ledger.entries
    services = list_services(ledger)
    participation = count_participation(ledger, body["parent_certificate"], body["late_votes"])
    ledger.header = header
    entries[b"m"] = {"count": len(ledger.ids), "peaks": history_peaks(ledger.ids)}
    entries[b"b"]["value"] = h("beacon", entries[b"b"]["value"], header["beacon_reveal"])
    entries[b"v" + header["proposer"]]["commitment"] = header["beacon_reveal"]
    entries[b"p"] = participation
    for nullification in body["nullifications"]:
        charge_missed_lead(ledger, nullification["view"])
    duels.draw_duels(ledger)
    outcomes = [include(ledger, signed) for signed in operations]
    settle_due_captures(ledger)
    duels.end_stages(ledger)
    checks.end_stages(ledger)
    round_heights = ledger.parameters["round_heights"]
    if list_services(ledger) != services:
        ledger.entries[b"d"]["changed_in"] = (ledger.height - 1) // round_heights
    if ledger.height % round_heights == 0:
        end_round(ledger)
    if ledger.height % ledger.parameters["epoch_heights"] == 0:
        end_epoch(ledger)
    ledger.ids.append(h("header", encode(header)))
    return outcomes


def charge_missed_lead(ledger: Ledger, view: int) -> None:
    """The leader of a view pays for it, as far as it can."""
    leader = compute_leader(ledger.committee(ledger.epoch), ledger.entries[b"b"]["previous"], view)
    ledger.collect(leader, ledger.parameters["missed_lead_fee"], available="first")
