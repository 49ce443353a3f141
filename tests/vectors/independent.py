"""A small second implementation, which follows docs/protocol.md alone.

It reads the tables of records out of the document, knows MessagePack, BLAKE2b and Ed25519 from elsewhere, and uses
nothing of the packages. What it computes must be what the vectors say, so that the document is tested as well as the
code. It is made to be short: anything unexpected is an assertion or whatever Python raises.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgpack
from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "protocol.md"


class Refused(Exception):
    """Not the encoding of what was expected."""


@cache
def read_tables() -> dict[str, tuple[int | None, dict[str, str]]]:
    """Tag and fields of each record in the document."""
    rows = re.findall(r"^\| `([\w.]+)` \| (\d*) ?\| (.*?) ?\|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    tables = {}
    for name, tag, text in rows:
        fields = dict(part.split(": ") for part in text.replace(r"\|", "|").split(", ") if part)
        tables[name] = (int(tag) if tag else None, fields)
    return tables


def h(domain: str, *parts: bytes) -> bytes:
    return hashlib.blake2b(b"".join(parts), digest_size=32, person=domain.encode()).digest()


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def number(digest: bytes) -> int:
    return int.from_bytes(digest, "big")


def holds(key: bytes, domain: str, chain_id: bytes, message: bytes, signature: bytes) -> bool:
    if len(key) != 32 or not crypto_core_ed25519_is_valid_point(key):
        return False
    try:
        VerifyKey(key).verify(bytes([len(domain)]) + domain.encode() + chain_id + message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def encode(value: Any) -> bytes:
    """The shortest MessagePack of nested lists, by hand."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        if value < 128:
            return bytes([value])
        width = next(width for width in range(4) if value < 1 << (8 << width))
        return bytes([0xCC + width]) + value.to_bytes(1 << width, "big")
    if isinstance(value, list):
        size, body, fixed, low, heads = len(value), b"".join(map(encode, value)), 0x90, 16, (0, 0xDC, 0xDD)
    elif isinstance(value, bytes):
        size, body, fixed, low, heads = len(value), value, 0, 0, (0xC4, 0xC5, 0xC6)
    else:
        body = value.encode()
        size, fixed, low, heads = len(body), 0xA0, 32, (0xD9, 0xDA, 0xDB)
    if size < low:
        return bytes([fixed + size]) + body
    head, width = next((head, width) for width, head in enumerate(heads) if head and size < 1 << (8 << width))
    return bytes([head]) + size.to_bytes(1 << width, "big") + body


def decode(name: str, raw: bytes, max_size: int = 1 << 20) -> dict[str, Any]:
    """A record of the document."""
    if len(raw) > max_size:
        raise Refused("too long")
    try:
        wire = msgpack.unpackb(raw, raw=False, strict_map_key=False)
        canonical = encode(wire)
    except Exception as error:
        raise Refused(str(error)) from error
    if canonical != raw:
        raise Refused("not canonical")
    record: dict[str, Any] = conform(name, wire)
    return record


def conform(kind: str, wire: Any) -> Any:
    """What ``wire`` is as a type of the document."""
    if " | " in kind and not kind.startswith("["):
        members = kind.split(" | ")
        if "nil" in members:
            return None if wire is None else conform(members[0], wire)
        return conform(pick(members, wire), wire)
    if kind == "Operation":
        return conform(pick(OPERATIONS, wire), wire)
    if kind == "any record with a tag below":
        return conform(pick(OFFERS, wire), wire)
    if kind.startswith("["):
        inner, bounds = kind[1:].rsplit("]", 1)
        check(type(wire) is list, bounds, wire, len)
        return [conform(inner, item) for item in wire]
    if kind in read_tables():
        return conform_record(kind, wire)
    word, _, bounds = _LONG.get(kind, kind).partition(" ")
    expected, measure = {
        "int": (int, int),
        "bytes": (bytes, len),
        "str": (str, lambda text: len(text.encode())),
        "bool": (bool, int),
    }[word]
    check(type(wire) is expected, bounds or ("0..9223372036854775807" if word == "int" else ""), wire, measure)
    return wire


_LONG = {"hash": "bytes 32", "key": "bytes 32", "sig": "bytes 64", "model": "str 1..128"}


OPERATIONS = [
    *("Transfer", "Bond", "Unbond", "Withdraw", "Serve", "Enroll", "Retire", "Unjail", "Recommit"),
    *("Hold", "Capture", "Release", "Dispute", "Evidence", "Register"),
]


OFFERS = [
    *(
        "Offer",
        "Accepted",
        "Declined",
        "Payment",
        "KeepAlive",
        "ResponseHead",
        "ResponseChunk",
        "Completed",
        "Failed",
        "Receipt",
        "Resume",
    ),
]


def check(is_kind: bool, bounds: str, wire: Any, measure: Any) -> None:
    if not is_kind:
        raise Refused("of another type")
    if bounds.strip():
        low, _, high = bounds.strip().partition("..")
        if not int(low) <= measure(wire) <= int(high or low):
            raise Refused("out of bounds")


def pick(members: list[str], wire: Any) -> str:
    tags = {read_tables()[member][0]: member for member in members}
    if type(wire) is not list or not wire or type(wire[0]) is not int or wire[0] not in tags:
        raise Refused("no such tag")
    return tags[wire[0]]


def conform_record(name: str, wire: Any) -> dict[str, Any]:
    tag, fields = read_tables()[name]
    if type(wire) is not list or len(wire) != len(fields) + (tag is not None):
        raise Refused("an array of another length")
    if tag is not None and (type(wire[0]) is not int or wire.pop(0) != tag):
        raise Refused("another tag")
    record = {field: conform(kind, item) for (field, kind), item in zip(fields.items(), wire, strict=True)}
    if name == "ValidatorSet":
        ranks = [(-each["stake"], each["public_key"]) for each in record["validators"]]
        if ranks != sorted(ranks) or len({key for _, key in ranks}) != len(ranks):
            raise Refused("not in order")
    return record


def strip(value: Any) -> Any:
    """The readable form without names of records."""
    if isinstance(value, dict):
        return {field: strip(item) for field, item in value.items() if field != "record"}
    return [strip(item) for item in value] if isinstance(value, list) else value


def show(value: Any) -> Any:
    """A decoded record in the readable form."""
    if isinstance(value, dict):
        return {field: show(item) for field, item in value.items()}
    if isinstance(value, list):
        return [show(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def reencode(raw: bytes, path: list[int], value: Any) -> bytes:
    """``raw`` with the part at ``path`` replaced."""
    wire = part = msgpack.unpackb(raw, raw=False)
    for index in path[:-1]:
        part = part[index]
    part[path[-1]] = value
    return encode(wire)


def list_root(items: list[bytes]) -> bytes:
    level = [h("list leaf", item) for item in items]
    while len(level) > 1:
        pairs = [level[index : index + 2] for index in range(0, len(level), 2)]
        level = [h("list node", *pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return h("list", u64(len(items)), level[0]) if items else h("empty")


def history_root(block_ids: list[bytes]) -> bytes:
    return h("history", u64(len(block_ids)), *history_peaks(block_ids))


def history_peaks(block_ids: list[bytes]) -> list[bytes]:
    peaks: list[bytes] = []
    start = 0
    for height in reversed(range(len(block_ids).bit_length())):
        if len(block_ids) >> height & 1:
            level = [h("history leaf", block_id) for block_id in block_ids[start : start + (1 << height)]]
            start += 1 << height
            while len(level) > 1:
                level = [h("history node", level[index], level[index + 1]) for index in range(0, len(level), 2)]
            peaks += level
    return peaks


def state_root(entries: dict[bytes, bytes]) -> bytes:
    leaves = [(number(path := h("path", key)), h("leaf", path, h("value", value))) for key, value in entries.items()]
    return join(leaves) if leaves else h("empty")


def join(leaves: list[tuple[int, bytes]]) -> bytes:
    if len(leaves) == 1:
        return leaves[0][1]
    paths = [path for path, _ in leaves]
    depth = 256 - (min(paths) ^ max(paths)).bit_length()
    sides: tuple[list[tuple[int, bytes]], ...] = ([], [])
    for path, leaf in leaves:
        sides[path >> (255 - depth) & 1].append((path, leaf))
    return h("branch", bytes([depth]), join(sides[0]), join(sides[1]))


def draw(tickets: list[tuple[bytes, int]], digest: bytes) -> bytes:
    """Whom a hash draws, with ``tickets`` of each in order."""
    ticket, total = number(digest) % sum(count for _, count in tickets), 0
    for key, count in tickets:
        total += count
        if total > ticket:
            return key
    raise AssertionError


def leader(members: list[dict[str, Any]], source: bytes, view: int) -> bytes:
    return draw([(each["public_key"], each["stake"]) for each in members], h("leader", source, u64(view)))


def executors(table: dict[str, Any], model: str, source: bytes, payer: bytes, seq: int) -> Iterator[bytes]:
    seed = h("lottery", source, payer, u64(seq))
    serving = [each for each in table["entries"] if model in each["models"] and each["public_key"] != payer]
    staked = {each["public_key"]: each["stake"] for each in serving if each["stake"]}
    newcomers = {each["public_key"]: 1 for each in serving if not each["stake"]}
    for index in range(len(serving)):
        u32 = index.to_bytes(4, "big")
        lucky = number(h("newcomer share", seed, u32)) % 1000 < table["newcomer_share"]
        urn = newcomers if not staked or (newcomers and lucky) else staked
        key = draw(list(urn.items()), h("executor", seed, u32))
        del urn[key]
        yield key


def is_certificate(chain_id: bytes, members: list[dict[str, Any]], certificate: dict[str, Any]) -> bool:
    signers, signatures = certificate["signers"], certificate["signatures"]
    if (certificate["kind"] == 2) != (certificate["block_id"] == bytes(32)) or len(signers) != len(signatures):
        return False
    if signers != sorted(set(signers)) or any(position >= len(members) for position in signers):
        return False
    if 3 * sum(members[i]["stake"] for i in signers) <= 2 * sum(each["stake"] for each in members):
        return False
    message = encode([certificate["epoch"], certificate["view"], certificate["block_id"]])
    domain = ("notarize", "nullify", "finalize")[certificate["kind"] - 1]
    return all(
        holds(members[i]["public_key"], domain, chain_id, message, signature)
        for i, signature in zip(signers, signatures, strict=True)
    )


def get_chain_id(genesis: bytes) -> bytes:
    return h("genesis", reencode(genesis, [6], []))


def parse(value: Any) -> Any:
    """The readable form with bytes for hex."""
    if isinstance(value, dict):
        return {field: parse(item) for field, item in value.items() if field != "record"}
    if isinstance(value, list):
        return [parse(item) for item in value]
    return bytes.fromhex(value) if isinstance(value, str) else value


def follow(item: bytes, proof: dict[str, Any]) -> bytes:
    """The root of the list that a proof leads to."""
    node, index, last, siblings = h("list leaf", item), proof["index"], proof["count"] - 1, list(proof["siblings"])
    assert 0 <= index <= last
    while last:
        if index & 1 or index < last:
            node = h("list node", *((siblings.pop(0), node) if index & 1 else (node, siblings.pop(0))))
        index, last = index >> 1, last >> 1
    assert not siblings
    return h("list", u64(proof["count"]), node)


def walk(block_id: bytes, proof: dict[str, Any]) -> bytes:
    """The root of the history that a proof leads to."""
    node, height, count = h("history leaf", block_id), len(proof["siblings"]), proof["count"]
    mountains = [bit for bit in reversed(range(count.bit_length())) if count >> bit & 1]
    position, offset = mountains.index(height), proof["index"] - (count >> (height + 1) << (height + 1))
    assert 0 <= offset < 1 << height
    for level, sibling in enumerate(proof["siblings"]):
        node = h("history node", *((sibling, node) if offset >> level & 1 else (node, sibling)))
    return h("history", u64(count), *proof["peaks"][:position], node, *proof["peaks"][position:])


def climb(key: bytes, value: bytes | None, proof: dict[str, Any]) -> bytes:
    """The root of the state that a proof leads to."""
    path, other, above = h("path", key), proof["conflicting"], 256
    if value is not None:
        assert other is None
        node = h("leaf", path, h("value", value))
    elif other is not None:
        assert other["path"] != path
        node = h("leaf", other["path"], other["value"])
    else:
        assert not proof["branches"]
        node = h("empty")
    for branch in proof["branches"]:
        above, depth = branch["depth"], above
        bit = number(path) >> (255 - above) & 1
        assert above < depth
        assert other is None or number(other["path"]) >> (255 - above) & 1 == bit
        node = h("branch", bytes([above]), *((branch["sibling"], node) if bit else (node, branch["sibling"])))
    return node


def get_body_root(raw: bytes) -> bytes:
    operations, certificate, nullifications, late_votes, removed = msgpack.unpackb(raw, raw=False)[2]
    evidence: list[Any] = [None if certificate is None else encode(certificate)]
    evidence += [[encode(each) for each in nullifications], [encode(each) for each in late_votes], removed]
    return h("body root", list_root([encode(each) for each in operations]), h("evidence", encode(evidence)))


def count_participation(
    before: dict[bytes, bytes], committee: list[dict[str, Any]], header: dict[str, Any], body: dict[str, Any]
) -> list[Any]:
    """The entry for turnout after a block."""
    certificate = body["parent_certificate"]
    if certificate is None or certificate["epoch"] != header["epoch"]:
        assert not body["late_votes"]
        return [0, [0] * len(committee), []]
    participation = decode("Participation", before[b"p"])
    counts, recent = participation["votes"], [list(each.values()) for each in participation["recent"]]
    for position in certificate["signers"]:
        counts[position] += 1
    voters = sum(1 << position for position in certificate["signers"])
    recent = [*recent, [header["parent_id"], certificate["view"], u64(voters)]][-8:]
    for vote in body["late_votes"]:
        block = next(each for each in recent if each[0] == vote["block_id"])
        position = [each["public_key"] for each in committee].index(vote["signer"])
        assert (vote["kind"], vote["epoch"], vote["view"]) == (1, header["epoch"], block[1])
        assert not number(block[2]) >> position & 1
        block[2] = u64(number(block[2]) | 1 << position)
        counts[position] += 1
    return [participation["blocks"] + 1, counts, recent]


def check_epoch_end(
    before: dict[bytes, bytes], after: dict[bytes, bytes], parameters: dict[str, Any], header: dict[str, Any]
) -> None:
    """Duties, committee and serving table after the last block of an epoch. The block has no operations on duty."""
    epoch, participation = header["epoch"], decode("Participation", after[b"p"])
    members = decode("ValidatorSet", after[b"c" + u64(epoch)])["validators"]
    votes = {each["public_key"]: count for each, count in zip(members, participation["votes"], strict=True)}
    accounts = {key[1:]: decode("Account", value) for key, value in after.items() if key[:1] == b"a"}
    validators = {key[1:]: decode("ValidatorRecord", value) for key, value in before.items() if key[:1] == b"v"}
    validators[header["proposer"]]["commitment"] = header["beacon_reveal"]
    applicants = []
    for key, validator in validators.items():
        if 0 < validator["next_epoch"] <= epoch + 1:
            validator |= {"commitment": validator["next_commitment"], "hash_chain": validator["next_hash_chain"]}
            validator |= {"next_commitment": bytes(32), "next_hash_chain": 0, "next_epoch": 0}
        is_absent = (
            participation["blocks"] > 2 and 2 * votes.get(key, participation["blocks"]) < participation["blocks"]
        )
        if is_absent and not validator["jailed_until"]:
            validator["jailed_until"] = epoch + 1
        account = accounts.get(key, {"bonded": 0, "grant": 0})
        bonded, has_tip = (
            max(0, account["bonded"] - account["grant"]),
            {validator["commitment"], validator["next_commitment"]} != {bytes(32)},
        )
        if (
            validator["is_enrolled"]
            and not validator["jailed_until"]
            and has_tip
            and bonded >= parameters["min_validator_bond"]
        ):
            applicants.append({"public_key": key, "bonded": bonded, "waiting_since": validator["waiting_since"]})
    old = {
        each["public_key"]: each["stake"] for each in decode("ValidatorSet", after[b"c" + u64(epoch + 1)])["validators"]
    }
    seats = compute_committee(old, applicants, parameters["committee_size"])
    assert after[b"c" + u64(epoch + 2)] == encode([seats])
    for each in applicants:
        validator = validators[each["public_key"]]
        is_served = dict(seats).get(each["public_key"], 0) >= each["bonded"]
        validator["waiting_since"] = 0 if is_served else validator["waiting_since"] or header["height"]
    for key, validator in validators.items():
        assert after[b"v" + key] == encode(list(validator.values()))
    beacon = decode("Beacon", after[b"b"])["previous"]
    table = compute_serving_table(accounts, beacon, parameters["min_service_bond"], parameters["newcomer_share"])
    assert after[b"t" + u64(epoch + 2)] == encode(table)
    assert b"c" + u64(epoch + 3) not in after
    assert epoch == 0 or not {b"c" + u64(epoch - 1), b"t" + u64(epoch - 1)} & after.keys()


def compute_serving_table(
    accounts: dict[bytes, dict[str, Any]], beacon: bytes, min_service_bond: int, share: int
) -> list[Any]:
    """Who serves what, with which stake. (Who drops out of a table that is full is left out here.)"""
    least = max(1, min_service_bond)
    serving = [(key, each["bonded"], each["models"]) for key, each in accounts.items() if each["models"]]
    staked = [each for each in serving if each[1] >= least]
    newcomers = [(key, 0, models) for key, stake, models in serving if stake < least]
    newcomers.sort(key=lambda each: h("newcomer", beacon, each[0]))
    return [[list(row) for row in sorted([*staked, *newcomers[: 256 if share else 0]])], share]


def check_supply(entries: dict[bytes, bytes]) -> None:
    accounts = [decode("Account", value) for key, value in entries.items() if key[:1] == b"a"]
    owned = sum(each["available"] + each["held"] + each["bonded"] for each in accounts)
    owned += sum(part["amount"] for each in accounts for part in each["unbonding"])
    totals = decode("Totals", entries[b"s"])
    assert owned + totals["treasury"] == totals["supply"]


def compute_committee(before: dict[Any, int], applicants: list[dict[str, Any]], size: int) -> list[list[Any]]:
    """Keys and stakes of the committee that follows ``before``."""
    order = sorted(applicants, key=lambda each: (not each["waiting_since"], each["waiting_since"], each["public_key"]))
    room, weights = sum(before.values()) // 10, {}
    for each in order:
        if each["public_key"] in before:
            weights[each["public_key"]] = min(each["bonded"], before[each["public_key"]])
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
    seats = [[key, weight] for key, weight in weights.items() if weight]
    return sorted(seats or map(list, before.items()), key=lambda seat: (-seat[1], seat[0]))


def blank(raw: bytes) -> bytes:
    """The record with 64 zeros for its signature, which is the last field."""
    return encode([*msgpack.unpackb(raw, raw=False)[:-1], bytes(64)])
