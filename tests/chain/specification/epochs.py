"""Sections 8.4 and 8.5: participation, and the end of an epoch."""

from __future__ import annotations

from tests.chain.specification.draws import compute_serving_table
from tests.chain.specification.ledger import NO_ACCOUNT, Ledger, demand, get_own_bond
from tests.chain.specification.notation import Record, number, u64
from tests.chain.specification.validators import NOTARIZE

RECENT_BLOCKS = 8
MIN_COUNTED_BLOCKS = 3
COMMITTEE_GROWTH_QUOTIENT = 10


def count_participation(ledger: Ledger, certificate: Record | None, late_votes: list[Record]) -> Record:
    """The ``Participation`` after a block with this parent certificate and these late votes.

    Raises:
        Invalid: a late vote does not count.
    """
    keys = [each["public_key"] for each in ledger.committee(ledger.epoch)]
    if certificate is None or certificate["epoch"] != ledger.epoch:
        demand("late_votes", not late_votes)
        return {"blocks": 0, "votes": [0] * len(keys), "recent": []}
    before = ledger.entries[b"p"]
    votes, recent = list(before["votes"]), [dict(each) for each in before["recent"]]
    voters = sum(1 << position for position in certificate["signers"])
    recent.append({"block_id": ledger.ids[-1], "view": certificate["view"], "voters": u64(voters)})
    recent = recent[-RECENT_BLOCKS:]
    for position in certificate["signers"]:
        votes[position] += 1
    for vote in late_votes:
        demand("late_votes", vote["kind"] == NOTARIZE and vote["epoch"] == ledger.epoch and vote["signer"] in keys)
        block = next((each for each in recent if each["block_id"] == vote["block_id"]), None)
        demand("late_votes", block is not None and block["view"] == vote["view"])
        assert block is not None
        position = keys.index(vote["signer"])
        demand("late_votes", not number(block["voters"]) >> position & 1)
        block["voters"] = u64(number(block["voters"]) | 1 << position)
        votes[position] += 1
    return {"blocks": before["blocks"] + 1, "votes": votes, "recent": recent}


def end_epoch(ledger: Ledger) -> None:
    """What the last block of an epoch does in the end, in the seven steps of section 8.5."""
    epoch, entries, parameters = ledger.epoch, ledger.entries, ledger.parameters
    beacon, participation = entries[b"b"], entries[b"p"]
    accounts = {key[1:]: account for key, account in entries.items() if key[:1] == b"a"}
    validators = {key[1:]: validator for key, validator in entries.items() if key[:1] == b"v"}
    absent = {
        each["public_key"]
        for each, votes in zip(ledger.committee(epoch), participation["votes"], strict=True)
        if participation["blocks"] >= MIN_COUNTED_BLOCKS and 2 * votes < participation["blocks"]
    }
    for key, validator in validators.items():
        if 0 < validator["next_epoch"] <= epoch + 1:
            validator |= {"commitment": validator["next_commitment"], "hash_chain": validator["next_hash_chain"]}
            validator |= {"next_commitment": bytes(32), "next_hash_chain": 0, "next_epoch": 0}
        if key in absent and not validator["jailed_until"]:
            validator["jailed_until"] = epoch + 1
    applicants = []
    for key, validator in validators.items():
        bonded = get_own_bond(accounts.get(key, NO_ACCOUNT))
        has_commitment = {validator["commitment"], validator["next_commitment"]} != {bytes(32)}
        is_free = validator["is_enrolled"] and not validator["jailed_until"]
        if is_free and has_commitment and bonded >= parameters["min_validator_bond"]:
            applicants.append({"public_key": key, "bonded": bonded, "waiting_since": validator["waiting_since"]})
    before = {each["public_key"]: each["stake"] for each in ledger.committee(epoch + 1)}
    seats = compute_committee(before, applicants, parameters["committee_size"])
    for each in applicants:
        validator = validators[each["public_key"]]
        is_served = seats.get(each["public_key"], 0) >= each["bonded"]
        validator["waiting_since"] = 0 if is_served else validator["waiting_since"] or ledger.height
    members = [{"public_key": key, "stake": stake} for key, stake in seats.items()]
    entries[b"c" + u64(epoch + 2)] = {"validators": members}
    entries[b"t" + u64(epoch + 2)] = compute_serving_table(accounts, beacon["value"], parameters)
    if epoch > 0:
        del entries[b"c" + u64(epoch - 1)], entries[b"t" + u64(epoch - 1)]
    entries[b"b"] = {
        "epoch": epoch + 1, "value": beacon["value"], "previous": beacon["value"], "earlier": beacon["previous"],
    }  # fmt: skip
    entries.pop(b"r", None)


def compute_committee(before: dict[bytes, int], applicants: list[Record], size: int) -> dict[bytes, int]:
    """The stakes, by key and in the order of a ``ValidatorSet``, of the committee that follows ``before``."""
    order = sorted(applicants, key=lambda each: (not each["waiting_since"], each["waiting_since"], each["public_key"]))
    room = sum(before.values()) // COMMITTEE_GROWTH_QUOTIENT
    weights = {
        each["public_key"]: min(each["bonded"], before[each["public_key"]])
        for each in order
        if each["public_key"] in before
    }
    for each in order:
        key = each["public_key"]
        old = weights.get(key, 0)
        new = min(each["bonded"], old + room)
        if key not in weights and new > 0 and len(weights) >= size:
            weight, smallest = min((weight, key) for key, weight in weights.items())
            if weight >= new:
                continue
            del weights[smallest]
        room, weights[key] = room - (new - old), new
    seats = {key: weight for key, weight in weights.items() if weight} or before
    return dict(sorted(seats.items(), key=lambda seat: (-seat[1], seat[0])))
