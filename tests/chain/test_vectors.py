"""The test vectors are what the code makes, and what docs/protocol.md says (:mod:`tests.vectors.independent`)."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.pwhash import argon2id
from nacl.signing import SigningKey

from chain.codec import MAX_RECORD_BYTES
from chain.genesis import GENESIS_VERSION, MAX_NEWCOMERS, MAX_SERVERS
from chain.light.proofs import MAX_PROOF_BYTES
from chain.merkle.snapshot import (
    ENTRY_OVERHEAD_BYTES,
    MAX_CHUNK_BYTES,
    MAX_INLINE_BYTES,
    MAX_STATE_KEY_BYTES,
    MAX_VALUE_BYTES,
)
from chain.state.records import MAX_UNBONDINGS, REPLAY_WINDOW_SIZE
from chain.transition.epoch_processing import MIN_PARTICIPATION_QUOTIENT
from chain.transition.registration import ARGON2_MEMORY_BYTES, ARGON2_PASSES
from chain.transition.restart import VIEW_JUMP
from chain.transition.validators import COMMITTEE_GROWTH_QUOTIENT
from chain.types.blocks import MAX_BLOCK_BYTES, MAX_NULLIFICATIONS, VERSION
from chain.types.operations import MAX_CAPTURE_BYTES, MAX_OPERATION_BYTES
from chain.types.validators import LATE_VOTE_BLOCKS
from consensus.network import committee_streams as links
from consensus.network.compact_blocks import MAX_WHOLE_BYTES
from consensus.network.gossip import MAX_BATCH_BYTES
from consensus.simplex import messages
from consensus.simplex.core import Timeouts
from consensus.simplex.messages import COMPACT_KIND, FORWARDED_KIND
from consensus.sync import messages as sync_records
from p2p.discovery.plumtree import PLUMTREE_PROTOCOL
from p2p.nat.dial_back import DIAL_BACK_PROTOCOL
from p2p.nat.hole_punching import PUNCH_PROTOCOL
from p2p.peers import announcement as announcements
from p2p.streams.frames import FRAME_OVERHEAD_BYTES, MAX_FRAME_BYTES, Kind
from p2p.streams.frames import WINDOW_BYTES as WINDOW_BYTES
from serving.offload import protocol as offers
from tests.vectors import effects, independent
from tests.vectors.effects import Head, Invalid, check_block
from tests.vectors.encodings import describe_record, list_public_records, name_record
from tests.vectors.generate import DIRECTORY, FILES, find_differences
from tests.vectors.independent import (
    DOCUMENT,
    OPERATIONS,
    Refused,
    blank,
    check_supply,
    climb,
    compute_committee,
    compute_serving_table,
    decode,
    encode,
    executors,
    follow,
    get_body_root,
    get_chain_id,
    h,
    history_root,
    holds,
    is_certificate,
    leader,
    list_root,
    number,
    parse,
    read_tables,
    show,
    state_root,
    strip,
    u64,
    walk,
)


def test_the_files_are_what_the_code_makes() -> None:
    assert find_differences() == [], "run: python -m tests.vectors.generate"


@pytest.mark.parametrize("name", FILES)
def test_every_file_says_what_it_is(name: str) -> None:
    content = load(name)
    headings = set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?)", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE))
    assert content["description"]
    assert set(re.findall(r"\d+(?:\.\d+)?", content["section"])) <= headings


def test_the_tables_of_the_document_are_the_records_of_the_code() -> None:
    assert {name_record(cls): describe_record(cls) for cls in list_public_records()} == {
        name: (tag, {field: re.sub(r"\bkey\b", "hash", kind) for field, kind in fields.items()})
        for name, (tag, fields) in read_tables().items()
    }


def test_the_numbers_of_the_document_are_those_of_the_code() -> None:
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    for part in (
        f"An encoded block has at most {MAX_BLOCK_BYTES:,} bytes",
        f"block version {VERSION}, genesis version {GENESIS_VERSION}",
        f"more than 1 MiB (2^{MAX_RECORD_BYTES.bit_length() - 1} bytes)",
        f"max(p+1, v−{MAX_NULLIFICATIONS}) … v−1, in that order",
        f"of which the last {LATE_VOTE_BLOCKS} are kept",
        f"an encoded signed operation has at most {MAX_OPERATION_BYTES:,} bytes, a capture {MAX_CAPTURE_BYTES:,}.",
        f"there would be more than {MAX_UNBONDINGS} entries",
        f"cut `used` to {REPLAY_WINDOW_SIZE} bytes",
        f"The {MAX_SERVERS:,} with the largest bonds",
        f"the {MAX_NEWCOMERS} with the smallest `H(newcomer; beacon, key)`",
        f"m = {ARGON2_MEMORY_BYTES // 1024} KiB), {ARGON2_PASSES} pass,",
        f"Its view is 2^{VIEW_JUMP.bit_length() - 1} +",
        f"Let *room* be W / {COMMITTEE_GROWTH_QUOTIENT} of",
        f"each member i of committee e with {MIN_PARTICIPATION_QUOTIENT} · votes[i] < blocks",
        f"begins with a send window of {WINDOW_BYTES:,} bytes. DATA costs its payload + {FRAME_OVERHEAD_BYTES} and",
        f"0 to {MAX_FRAME_BYTES:,} bytes",
        f"Blocks of up to {MAX_WHOLE_BYTES:,} bytes go whole",
        f"An item has at most {MAX_BATCH_BYTES // 1024} KiB",
        f"those beyond {MAX_BLOCK_BYTES:,} bytes in all",
        f"and {ENTRY_OVERHEAD_BYTES} more; a chunk has at most {MAX_CHUNK_BYTES:,}, "
        "and one that is not the last has more than "
        f"{MAX_CHUNK_BYTES - MAX_INLINE_BYTES - MAX_STATE_KEY_BYTES - ENTRY_OVERHEAD_BYTES:,},",
        f"A value of more than {MAX_INLINE_BYTES:,} bytes is a `LargeEntry` and fetched apart; "
        f"at most {MAX_VALUE_BYTES >> 20} MiB",
        f"at most {MAX_PROOF_BYTES >> 20} MiB",
        f"more than {announcements.MAX_BEHIND_MS:,} ms before",
        f"or {announcements.MAX_AHEAD_MS:,} ms after the reader's clock",
        f"Departures are remembered for {announcements.ACCEPTANCE_S:,.0f} s",
        f"It is at most {announcements.MAX_ANNOUNCEMENT_BYTES:,} bytes long",
        f"An envelope has at most {offers.MAX_OFFLOAD_MESSAGE_BYTES:,} bytes",
        f"at most {offers.MAX_ANSWER_BYTES >> 20} MiB in all; the response digest",
        f"1.5 s, {Timeouts().cap:.0f} s",
    ):
        assert part in text, part
    assert Timeouts().first == 1.5
    for protocol in (
        links.COMMITTEE_PROTOCOL,
        sync_records.SYNC_PROTOCOL,
        PLUMTREE_PROTOCOL,
        DIAL_BACK_PROTOCOL,
        PUNCH_PROTOCOL,
        offers.OFFLOAD_PROTOCOL,
    ):
        assert f"`{protocol}`" in text
    byte = {number: f"| `{number:02x}` | {name}" for number, name in LINK_KINDS.items()}
    assert all(row in text for row in byte.values())
    assert {FORWARDED_KIND[0], COMPACT_KIND[0], *messages._KINDS} == byte.keys()
    assert {kind.value: kind.name for kind in Kind} == dict(enumerate(("DATA", "END", "WINDOW_UPDATE", "RESET")))


LINK_KINDS = {0: "Batch", 1: "Propose", 2: "Repropose", 3: "Vote", 4: "Certificate", 16: "CompactPropose"}


"""What an item on a link of the committee is, by its first byte."""


def test_the_other_implementation_uses_nothing_of_the_packages() -> None:
    for module, allowed in ((independent, set()), (effects, {"tests.vectors.independent"})):
        text = Path(module.__file__).read_text(encoding="utf-8")
        imported = re.findall(r"^\s*(?:from|import) ([\w.]+)", text, re.MULTILINE)
        ours = {name for name in imported if name.split(".")[0] in {"chain", "consensus", "p2p", "serving", "tests"}}
        assert ours == allowed


def load(name: str) -> Any:
    return json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))


def test_keys_and_addresses() -> None:
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    for case in load("identity")["keys"]:
        key = bytes(SigningKey(bytes.fromhex(case["seed"])).verify_key)
        assert key.hex() == case["public_key"]
        rest, text = number(bytes.fromhex("002408011220") + key), ""
        while rest:
            rest, digit = divmod(rest, 58)
            text = alphabet[digit] + text
        assert "1" + text == case["address"]  # for the zero byte in front
    for case in load("identity")["points"]:
        key = bytes.fromhex(case["public_key"])
        assert (len(key) == 32 and bool(crypto_core_ed25519_is_valid_point(key))) == case["usable"], case["what"]


def test_hashes_and_signatures() -> None:
    for case in load("hashes")["hashes"]:
        assert h(case["domain"], *map(bytes.fromhex, case["parts"])).hex() == case["hash"]
    for case in load("hashes")["hold_ids"]:
        assert h("hold", bytes.fromhex(case["payer"]), u64(case["seq"]), u64(case["attempt"])).hex() == case["id"]
    for case in load("hashes")["operation_ids"]:
        assert h("operation", bytes.fromhex(case["signer"]), bytes.fromhex(case["operation"])).hex() == case["id"]
    for case in load("hashes")["digests"]:
        assert h("body", bytes.fromhex(case["salt"]), bytes.fromhex(case["body"])).hex() == case["digest"]
    content = load("signatures")
    key, chain_id = bytes.fromhex(content["public_key"]), bytes.fromhex(content["chain_id"])
    for case in content["cases"]:
        assert holds(key, case["domain"], chain_id, *(bytes.fromhex(case[name]) for name in ("message", "signature")))
    for case in content["edge_cases"]:
        public_key, message, signature = (bytes.fromhex(case[name]) for name in ("public_key", "message", "signature"))
        assert holds(public_key, case["domain"], chain_id, message, signature) == case["holds"], case["what"]
    assert len(content["speccheck"]["cases"]) == 12
    assert not any(case["holds"] for case in content["speccheck"]["cases"])


def test_the_tables_decode_every_record_and_refuse_what_they_should() -> None:
    for case in load("encodings")["cases"]:
        assert show(decode(case["record"], bytes.fromhex(case["encoded"]))) == strip(case["value"]), case["record"]
    for case in load("refused")["cases"]:
        with pytest.raises(Refused):
            decode(case["record"], bytes.fromhex(case["encoded"]), case.get("max_size", 1 << 20))
            pytest.fail(case["why"])


def test_lists_histories_and_trees() -> None:
    content = load("merkle")
    for case in content["lists"]:
        items = [bytes.fromhex(item) for item in case["items"]]
        assert list_root(items).hex() == case["root"]
        for proof in case["proofs"]:
            assert follow(items[proof["index"]], parse(proof)).hex() == case["root"]
    for case in content["histories"]:
        ids = [bytes.fromhex(item) for item in case["block_ids"]]
        assert history_root(ids).hex() == case["root"]
        for proof in map(parse, case["proofs"]):
            assert walk(ids[proof["index"]], proof).hex() == case["root"]
    for case in content["trees"]:
        entries = {bytes.fromhex(key): bytes.fromhex(value) for key, value in case["entries"].items()}
        assert state_root(entries).hex() == case["root"]
        for proof in map(parse, case["proofs"]):
            assert climb(proof["key"], proof["value"], proof["proof"]).hex() == case["root"]


def test_genesis() -> None:
    for case in load("genesis")["cases"]:
        raw = bytes.fromhex(case["encoded"])
        genesis = decode("Genesis", raw)
        assert get_chain_id(raw).hex() == case["chain_id"]
        if "header" not in case:
            continue
        entries = {bytes.fromhex(key): bytes.fromhex(value) for key, value in case["state"].items()}
        stakes = sorted(
            (-each["bonded"], each["public_key"]) for each in genesis["accounts"] if each["commitment"] is not None
        )
        committee = encode([[[key, -stake] for stake, key in stakes]])
        beacon = genesis["beacon"]
        expected = {
            b"s": [0, sum(each["available"] + each["bonded"] for each in genesis["accounts"])],
            b"m": [0, []],
            b"b": [0, beacon, beacon, bytes(32)],
            b"p": [0, [], []],
        }
        assert {key: entries[key] for key in expected} == {key: encode(value) for key, value in expected.items()}
        assert entries[b"c" + u64(0)] == entries[b"c" + u64(1)] == committee
        root = h("body root", list_root([]), h("evidence", encode([None, [], [], []])))
        header = [
            3,
            get_chain_id(raw),
            0,
            0,
            0,
            bytes(32),
            genesis["timestamp"],
            0,
            bytes(32),
            root,
            state_root(entries),
        ]
        header += [history_root([]), h("validators", committee), h("validators", committee), bytes(32)]
        assert h("header", encode(header)).hex() == case["block_id"]


def walk_chain() -> Iterator[tuple[Head, dict[str, Any], dict[bytes, bytes]]]:
    """For each block of the chain what is before it, its case, and the state that it is said to leave."""
    content, genesis = load("chain"), load("genesis")["cases"][1]
    entries = {bytes.fromhex(key): bytes.fromhex(value) for key, value in content["genesis_state"].items()}
    start = decode("Genesis", bytes.fromhex(content["genesis"]))
    header: dict[str, Any] = {"timestamp": start["timestamp"], "chain_time": 0, "view": 0, "epoch": 0}
    ids = [bytes.fromhex(genesis["block_id"])]
    for case in content["blocks"]:
        after = dict(entries)
        for key, value in case["changes"].items():
            after.pop(bytes.fromhex(key), None)
            if value is not None:
                after[bytes.fromhex(key)] = bytes.fromhex(value)
        yield Head(entries, ids, header), case, after
        raw = bytes.fromhex(case["encoded"])
        entries, header = after, decode("Block", raw)["header"]
        ids = [*ids, h("header", encode(msgpack.unpackb(raw)[0]))]
        assert ids[-1].hex() == case["block_id"]


def test_the_chain() -> None:
    """Every entry of every state follows from the genesis and the blocks, by the rules of the document alone."""
    raw = bytes.fromhex(load("chain")["genesis"])
    genesis, chain_id = decode("Genesis", raw), get_chain_id(raw)
    kinds: set[str] = set()
    for head, case, after in walk_chain():
        assert check_block(head, bytes.fromhex(case["encoded"]), genesis, chain_id, after) == case["failed"]
        committee = decode("ValidatorSet", head.entries[b"c" + u64(case["epoch"])])["validators"]
        finality = decode("Certificate", bytes.fromhex(case["finality"]))
        assert (finality["kind"], finality["block_id"].hex()) == (3, case["block_id"])
        assert is_certificate(chain_id, committee, finality)
        check_supply(after)
        kinds |= set(case["operations"])
    assert kinds == set(OPERATIONS)


def test_forgeries() -> None:
    raw = bytes.fromhex(load("chain")["genesis"])
    genesis, chain_id = decode("Genesis", raw), get_chain_id(raw)
    head, real, after = next(each for each in walk_chain() if each[1]["height"] == 4)
    cases = load("forgeries")["cases"]
    assert len({case["encoded"] for case in cases} - {real["encoded"]}) == len(cases) > 20
    for case in cases:
        with pytest.raises(Invalid) as caught:
            check_block(head, bytes.fromhex(case["encoded"]), genesis, chain_id, after)
            pytest.fail(case["what"])
        assert str(caught.value) == {"validators removed": "removed"}.get(case["what"], case["field"]), case["what"]


def test_serving_tables() -> None:
    content = load("serving_tables")
    beacon = bytes.fromhex(content["beacon"])
    accounts = {bytes.fromhex(key): strip(account) for key, account in content["accounts"].items()}
    order = sorted(accounts, key=lambda key: h("newcomer", beacon, key))
    assert [key.hex() for key in order] == content["newcomer_order"]
    for case in content["cases"]:
        table = compute_serving_table(accounts, beacon, case["min_service_bond"], case["newcomer_share"])
        rows = [list(each.values()) for each in strip(case["table"])["entries"]]
        assert show(table) == [rows, case["newcomer_share"]]


def test_a_restart() -> None:
    content = load("restart")
    raw = bytes.fromhex(content["genesis"])
    block_id = bytes.fromhex(content["block"]["block_id"])
    assert decode("Genesis", raw)["restarts"] == [block_id]
    entries = {bytes.fromhex(key): bytes.fromhex(value) for key, value in content["state_before"].items()}
    before = decode("ValidatorSet", entries[b"c" + u64(0)])["validators"]
    block, parent = (
        decode("Block", bytes.fromhex(content["block"]["encoded"])),
        decode("Header", bytes.fromhex(content["parent_header"])),
    )
    remaining = [each for each in before if each["public_key"] not in block["body"]["removed"]]
    assert block["header"]["view"] == parent["view"] + 2**32
    assert block["header"]["beacon_reveal"] == bytes(32)
    committee = encode([[[each["public_key"], each["stake"]] for each in remaining]])
    assert block["header"]["validators_hash"] == h("validators", committee)
    assert block["header"]["body_root"] == get_body_root(bytes.fromhex(content["block"]["encoded"]))
    finality = decode("Certificate", bytes.fromhex(content["block"]["finality"]))
    assert finality["block_id"] == block_id
    assert is_certificate(get_chain_id(raw), remaining, finality)
    for key, value in content["block"]["changes"].items():
        entries.pop(bytes.fromhex(key), None)
        if value is not None:
            entries[bytes.fromhex(key)] = bytes.fromhex(value)
    assert block["header"]["state_root"] == state_root(entries)


def test_draws() -> None:
    content = load("leaders")
    for case in content["cases"]:
        members = [
            {**each, "public_key": bytes.fromhex(each["public_key"])} for each in case["validators"]["validators"]
        ]
        keys = [each["public_key"] for each in members]
        assert (
            h("validators", encode([[[each["public_key"], each["stake"]] for each in members]])).hex() == case["hash"]
        )
        for view, position in case["leaders"].items():
            assert keys.index(leader(members, bytes.fromhex(content["source"]), int(view))) == position
    content = load("lottery")
    for case in content["cases"]:
        table = decode("ServingTable", bytes.fromhex(case["encoded_table"]))
        keys = [each["public_key"] for each in table["entries"]]
        for order in case["orders"]:
            drawn = executors(table, "m", bytes.fromhex(content["source"]), bytes.fromhex(order["payer"]), order["seq"])
            assert [keys.index(key) for key in drawn] == order["order"], case["what"]


def test_committees() -> None:
    for case in load("committees")["cases"]:
        seats = compute_committee(dict(case["before"]), case["applicants"], case["committee_size"])
        assert seats == case["committee"], case["what"]


def test_certificates_and_slashable_votes() -> None:
    content = load("certificates")
    chain_id = bytes.fromhex(content["chain_id"])
    members = decode("ValidatorSet", bytes.fromhex(content["validators"]))["validators"]
    for case in content["cases"]:
        assert (
            is_certificate(chain_id, members, decode("Certificate", bytes.fromhex(case["encoded"]))) == case["valid"]
        ), case["what"]
    for case in content["exactly_two_thirds"]:
        stakes = case["stakes"]
        assert (3 * sum(stakes[: case["first_signers"]]) > 2 * sum(stakes)) == case["quorum"]
    for case in content["pairs"]:
        first, second = (decode("Vote", bytes.fromhex(case[name])) for name in ("first", "second"))
        same = all(first[name] == second[name] for name in ("signer", "epoch", "view"))
        kinds = {first["kind"], second["kind"]}
        clash = kinds == {2, 3} or (len(kinds) == 1 and first["block_id"] != second["block_id"])
        assert (same and clash) == case["slashable"]


def test_beacon_registration_and_hold_windows() -> None:
    content = load("beacon")
    for reveal, case in zip(reversed(content["layers"][:-1]), content["blocks"], strict=True):
        assert (case["reveal"], case["commitment_before"]) == (reveal, h("onion", bytes.fromhex(reveal)).hex())
    content = load("registration")
    parts = (bytes.fromhex(content[name]) for name in ("chain_id", "source", "public_key"))
    challenge = h("register", *parts)
    assert challenge.hex() == content["challenge"]
    for case in content["tries"]:
        digest = argon2id.kdf(32, challenge, bytes.fromhex(case["salt"]), opslimit=1, memlimit=32768 * 1024)
        assert digest.hex() == case["argon2id"]
        assert (number(digest) < 1 << (256 - content["difficulty"])) == case["holds"]
    top, used = 0, b""
    for case in load("hold_windows")["steps"]:
        seq, attempt = case["seq"], case["attempt"]
        place = top - 1 - seq
        byte = used[place] if 0 <= place < len(used) else 0
        usable = top <= seq < top + 256 or (top - 256 <= seq < top and not byte >> attempt & 1)
        assert usable == case["usable"]
        if usable:
            if seq >= top:
                used, top = bytes(seq + 1 - top) + used, seq + 1
            row = bytearray(used.ljust(max(256, top - seq), b"\0"))
            row[top - 1 - seq] |= 1 << attempt
            used = bytes(row[:256]).rstrip(b"\0")
        assert {"top": top, "used": used.hex()} == strip(case["window"])


def test_proofs() -> None:
    raw = bytes.fromhex(load("chain")["genesis"])
    heights, chain_id = decode("Genesis", raw)["parameters"]["epoch_heights"], get_chain_id(raw)
    genesis = load("genesis")["cases"][1]
    genesis_committee = decode("ValidatorSet", bytes.fromhex(genesis["state"][(b"c" + u64(0)).hex()]))
    for case in load("proofs")["cases"]:
        _, start, links, statement_wire = msgpack.unpackb(bytes.fromhex(case["proof"]), raw=False)
        proof = decode("Proof", bytes.fromhex(case["proof"]), 8 << 20)
        anchor, members = proof["checkpoint"], genesis_committee
        trusted = case["checkpoint"] or f"0:{genesis['block_id']}"
        assert f"{anchor['height']}:{h('header', encode(start)).hex()}" == trusted
        for link, wire in zip(proof["links"], links, strict=True):
            header, certificate, members = link["header"], link["certificate"], link["validators"] or members
            ahead = header["epoch"] - anchor["epoch"]
            assert ahead in (0, 1)
            assert header["height"] > anchor["height"]
            rows = [[each["public_key"], each["stake"]] for each in members["validators"]]
            assert h("validators", encode([rows])) == header["validators_hash"]
            assert header["validators_hash"] == anchor["next_validators_hash" if ahead else "validators_hash"]
            said = [certificate["kind"], certificate["epoch"], certificate["block_id"]]
            assert said == [3, header["epoch"], h("header", encode(wire[0]))]
            assert certificate["view"] == header["view"] or not header["height"] % heights
            assert is_certificate(chain_id, members["validators"], certificate)
            anchor = header
        statement, header = proof["statement"], anchor
        if "public_key" in statement:
            value = None if statement["account"] is None else encode(statement_wire[2])
            assert climb(b"a" + statement["public_key"], value, statement["path"]) == anchor["state_root"]
            continue
        if statement["past"] is not None:
            header, path = statement["past"]["header"], statement["past"]["path"]
            assert (path["index"], path["count"]) == (header["height"], anchor["height"])
            assert walk(h("header", encode(statement_wire[4][0])), path) == anchor["history_root"]
        root = follow(encode(statement_wire[1]), statement["path"])
        assert h("body root", root, statement["justification_hash"]) == header["body_root"]


def test_frames_and_links() -> None:
    content = load("wire")
    for case in content["frames"]:
        payload, kind = bytes.fromhex(case["payload"]), ("DATA", "END", "WINDOW_UPDATE", "RESET").index(case["kind"])
        frame = len(payload).to_bytes(4, "big") + bytes([kind]) + case["exchange"].to_bytes(4, "big") + payload
        assert frame.hex() == case["bytes"]
    items = {case["what"]: bytes.fromhex(case["item"]) for case in content["links"] if "item" in case}
    records = {what: decode(LINK_KINDS[item[0]], item[1:]) for what, item in items.items()}
    whole, compact = records["a proposal"], records["the proposal with its operations by id"]
    operations = msgpack.unpackb(items["a proposal"][1:], raw=False)[1][2][0]
    assert compact["ids"] == [h("operation", each[1], encode(each[0])) for each in operations]
    assert compact["stripped_block"]["header"] == whole["block"]["header"]
    assert compact["stripped_block"]["body"] == {**whole["block"]["body"], "operations": []}
    proposal, chain_id = whole["proposal"], whole["block"]["header"]["chain_id"]
    message = encode([proposal["epoch"], proposal["view"], proposal["block_id"]])
    assert holds(proposal["leader"], "proposal", chain_id, message, proposal["signature"])


def test_who_is_there() -> None:
    content = load("wire")
    chain_id, conversation = bytes.fromhex(content["announcements"]["chain_id"]), content["conversation"]
    for text in (
        *(case["encoded"] for case in content["announcements"]["good"]),
        content["announcements"]["not_signed"],
    ):
        said, signed = decode("Announcement", bytes.fromhex(text), 8_192), blank(bytes.fromhex(text))
        is_good = text != content["announcements"]["not_signed"]
        assert holds(said["peer"], "announcement", chain_id, signed, said["signature"]) == is_good
    raw = bytes.fromhex(conversation["suspect"]["encoded"])
    message = decode("SuspectMessage", raw, 256)
    assert holds(message["observer"], "accusation", chain_id, blank(raw), message["signature"])
    for text, name in conversation["item_ids"].items():
        assert hashlib.blake2b(bytes.fromhex(text), digest_size=8).hexdigest() == name
    frames = [decode("SyncFrame", bytes.fromhex(frame["encoded"])) for frame in conversation["frames"]]
    assert [show(frame) for frame in frames] == [strip(frame["value"]) for frame in conversation["frames"]]
    sums = [0] * (len(frames[1]["buckets"]) // 8)
    for aged in frames[-1]["announcements"]:
        said = decode("Announcement", aged["announcement"], 8_192)
        if not said["leaving"]:
            name = hashlib.blake2b(aged["announcement"], digest_size=8).digest()
            sums[number(said["peer"][:2]) % len(sums)] ^= number(name)
    assert frames[1]["buckets"] == b"".join(map(u64, sums))


def test_the_dht() -> None:
    content = load("wire")["dht"]
    key = bytes.fromhex("1220") + hashlib.sha256(b"wwwserve rendezvous 1" + bytes.fromhex(content["chain_id"])).digest()
    assert content["key"] == key.hex() and content["dht_id"] == hashlib.sha256(key).hexdigest()

    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    peer = field(1, bytes.fromhex("002408011220" + content["provider"]))
    for address in content["addresses"]:
        _, kind, host, _, port = address.split("/")
        code = {"ip4": b"\x04", "ip6": b"\x29"}[kind]
        peer += field(2, code + ipaddress.ip_address(host).packed + b"\x06" + int(port).to_bytes(2, "big"))
    peer += b"\x18\x02"  # connection: CAN_CONNECT
    kinds = {"ADD_PROVIDER": 2, "GET_PROVIDERS": 3, "FIND_NODE": 4}
    for case in content["messages"]:
        message = bytes([8, kinds[case["kind"]]]) + field(2, key)
        message += field(8, peer) if case["is_answer"] else b""
        message += field(9, peer) if case["is_answer"] or case["kind"] == "ADD_PROVIDER" else b""
        assert case["bytes"] == message.hex()


def test_an_offer() -> None:
    opening, *frames = load("wire")["offers"]
    messages = [decode("Envelope", bytes.fromhex(case["frame"]), 69_632)["message"] for case in frames]
    assert [show(message) for message in messages] == [strip(case["value"]) for case in frames]
    offer, payment, head, chunk, completed, receipt = (messages[index] for index in (0, 3, 5, 6, 7, 9))
    assert offer["hold"]["request_digest"] == h("body", offer["salt"], bytes.fromhex(opening["body"]))
    assert payment["hold"]["operation"] == offer["hold"]
    assert completed["delivery"]["response_digest"] == h("body", head["salt"], chunk["data"])
    delivery = encode(msgpack.unpackb(bytes.fromhex(frames[7]["frame"]), raw=False)[0][1])
    chain_id, payer = bytes.fromhex(opening["chain_id"]), payment["hold"]["signer"]
    assert completed["delivery"]["hold"] == h("hold", payer, u64(offer["hold"]["seq"]), u64(offer["hold"]["attempt"]))
    assert holds(offer["hold"]["payee"], "delivery", chain_id, delivery, completed["signature"])
    assert holds(payer, "receipt", chain_id, delivery, receipt["signature"])
