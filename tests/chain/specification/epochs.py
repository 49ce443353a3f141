"""Sections 8.4 to 8.6: participation, the end of an epoch, rounds."""

from __future__ import annotations

from fractions import Fraction

from tests.chain.specification.draws import compute_serving_table
from tests.chain.specification.ledger import NO_ACCOUNT, Ledger, demand, get_own_bond
from tests.chain.specification.notation import Record, number, u64
from tests.chain.specification.validators import NOTARIZE

RECENT_BLOCKS = 8
MIN_COUNTED_BLOCKS = 3
MIN_WEIGHTED_VALIDATORS = 4
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
    beacon = entries[b"b"]
    accounts = {key[1:]: account for key, account in entries.items() if key[:1] == b"a"}
    validators = {key[1:]: validator for key, validator in entries.items() if key[:1] == b"v"}
    for validator in validators.values():
        if 0 < validator["next_epoch"] <= epoch + 1:
            validator |= {"commitment": validator["next_commitment"], "hash_chain": validator["next_hash_chain"]}
            validator |= {"next_commitment": bytes(32), "next_hash_chain": 0, "next_epoch": 0}
    judge_absence(ledger)
    applicants = [
        {"public_key": key, "bonded": get_own_bond(accounts[key]), "waiting_since": validator["waiting_since"]}
        for key, validator in validators.items()
        if is_applicant(ledger, key)
    ]
    before = {each["public_key"]: each["stake"] for each in ledger.committee(epoch + 1)}
    seats = compute_committee(before, applicants, parameters["committee_size"])
    for each in applicants:
        validator = validators[each["public_key"]]
        is_served = seats.get(each["public_key"], 0) >= each["bonded"]
        validator["waiting_since"] = 0 if is_served else validator["waiting_since"] or ledger.height
    members = [{"public_key": key, "stake": stake} for key, stake in seats.items()]
    entries[b"c" + u64(epoch + 2)] = {"validators": members}
    if epoch > 0:
        del entries[b"c" + u64(epoch - 1)]
    entries[b"b"] = {
        "epoch": epoch + 1, "value": beacon["value"], "previous": beacon["value"], "earlier": beacon["previous"],
    }  # fmt: skip
    entries[b"p"] = {"blocks": 0, "votes": [], "recent": []}
    entries.pop(b"r", None)


def is_applicant(ledger: Ledger, key: bytes) -> bool:
    validator, account = ledger.entries[b"v" + key], ledger.entries.get(b"a" + key, NO_ACCOUNT)
    has_commitment = {validator["commitment"], validator["next_commitment"]} != {bytes(32)}
    is_free = validator["is_enrolled"] and not validator["jailed_until"] and has_commitment
    return bool(is_free and get_own_bond(account) >= ledger.parameters["min_validator_bond"])


def judge_absence(ledger: Ledger) -> None:
    """Count the spans of the members of the committee, jail who was absent, and begin new spans."""
    epoch, participation = ledger.epoch, ledger.entries[b"p"]
    members = [each["public_key"] for each in ledger.committee(epoch)]
    following = [each["public_key"] for each in ledger.committee(epoch + 1)]
    records = {key[1:]: record for key, record in ledger.entries.items() if key[:1] == b"v"}
    ended, absent = set(), []
    for key, votes in zip(members, participation["votes"], strict=True):
        record = records[key]
        record["counted_blocks"] += participation["blocks"]
        record["counted_votes"] += votes
        length = ledger.now - record["counted_since"]
        if record["counted_blocks"] < MIN_COUNTED_BLOCKS or length < ledger.parameters["participation_span_ms"]:
            continue
        ended.add(key)
        if 2 * record["counted_votes"] < record["counted_blocks"]:
            absent.append((Fraction(record["counted_votes"], record["counted_blocks"]), key))
    for _, key in sorted(absent):
        weighted = [each for each in following if is_applicant(ledger, each)]
        if not records[key]["jailed_until"] and (key not in weighted or len(weighted) > MIN_WEIGHTED_VALIDATORS):
            records[key]["jailed_until"] = epoch + 1
    for key, record in records.items():
        if key not in following:
            record |= {"counted_since": 0, "counted_blocks": 0, "counted_votes": 0}
        elif key in ended or key not in members:
            record |= {"counted_since": ledger.now, "counted_blocks": 0, "counted_votes": 0}


def list_services(ledger: Ledger) -> dict[bytes, tuple[int, list[str], Record | None, list[Record]]]:
    """The bonds of the accounts that serve or judge, what they serve and declare, and how they judge."""
    accounts = {key[1:]: account for key, account in ledger.entries.items() if key[:1] == b"a"}
    return {
        key: (account["bonded"], account["models"], account["judge"], account["identities"])
        for key, account in accounts.items()
        if account["models"] or account["judge"]
    }


def end_round(ledger: Ledger) -> None:
    """What the last block of a round does, in the four steps of section 8.6."""
    entries, parameters = ledger.entries, ledger.parameters
    number, value = (ledger.height - 1) // parameters["round_heights"], entries[b"b"]["value"]
    periods = entries[b"d"]["periods"]
    begun = max(period["first_round"] for period in periods if period["first_round"] <= number)
    for period in periods:
        if period["first_round"] < begun:
            del entries[b"t" + u64(period["first_round"])]
        if period["first_round"] == number + 1:
            period["source"] = value
    entries[b"d"]["periods"] = periods = [period for period in periods if period["first_round"] >= begun]
    is_first = (number + 2) * parameters["round_heights"] % parameters["epoch_heights"] == 0
    if is_first or entries[b"d"]["changed_in"] == number:
        accounts = {key[1:]: account for key, account in entries.items() if key[:1] == b"a"}
        results = {key[1:]: rating["results"] for key, rating in entries.items() if key[:1] == b"e"}
        entries[b"t" + u64(number + 2)] = compute_serving_table(accounts, value, parameters, results)
        periods.append({"first_round": number + 2, "source": None})


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
