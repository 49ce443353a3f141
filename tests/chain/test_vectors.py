"""The test vectors are what the code makes, and what docs/protocol.md says (:mod:`tests.chain.specification`)."""

from __future__ import annotations

import copy
import hashlib
import ipaddress
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
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
from chain.parameters.duel_economics import (
    BRIBE_MARGIN,
    JUDGEMENT_COST,
    MIN_BLOCK_SPACING_MS,
    PAID_VERDICTS,
)
from chain.parameters.duels import DRAW_DELAYS, MAX_DRAW_HEIGHTS, MIN_DRAW_DELAY
from chain.state.records import MAX_UNBONDINGS, REPLAY_WINDOW_SIZE
from chain.transition.duels.settlement import TIE_QUOTIENT
from chain.transition.restart import VIEW_JUMP
from chain.transition.validators.jailing import MIN_COUNTED_BLOCKS, MIN_PARTICIPATION_QUOTIENT, MIN_WEIGHTED_VALIDATORS
from chain.transition.validators.registration import ARGON2_MEMORY_BYTES, ARGON2_PASSES
from chain.transition.validators.registry import COMMITTEE_GROWTH_QUOTIENT
from chain.types.blocks import MAX_BLOCK_BYTES, MAX_NULLIFICATIONS, VERSION
from chain.types.duels import MAX_CHALLENGERS
from chain.types.operations import MAX_CAPTURE_BYTES, MAX_OPERATION_BYTES
from chain.types.validators import LATE_VOTE_BLOCKS
from consensus.network import committee_streams as links
from consensus.network.compact_blocks import MAX_WHOLE_BYTES
from consensus.network.gossip import MAX_BATCH_BYTES
from consensus.simplex import messages
from consensus.simplex.messages import COMPACT_KIND, FORWARDED_KIND
from consensus.simplex.view_timer import Timeouts
from consensus.sync import messages as sync_records
from p2p.coarse_clock import MAX_LAG_MS, STEP_MS
from p2p.discovery.plumtree import PLUMTREE_PROTOCOL
from p2p.nat.dial_back import DIAL_BACK_PROTOCOL
from p2p.nat.hole_punching import PUNCH_PROTOCOL
from p2p.peers import announcement as announcements
from p2p.streams.frames import FRAME_OVERHEAD_BYTES, MAX_FRAME_BYTES, Kind
from p2p.streams.frames import WINDOW_BYTES as WINDOW_BYTES
from serving.offload import protocol as offers
from serving.offload.executor.session import MAX_UNPAID_BYTES
from serving.openai.answers import FREE_EVENTS, LEAST_EVENT_BYTES, MAX_EVENT_BYTES
from serving.openai.content import MAX_UNSTREAMED_BYTES
from serving.openai.requests import HELD_BYTES_PER_TOKEN, MAX_CHOICES
from serving.quality.duels.protocol import DUEL_PROTOCOL
from tests.chain import specification
from tests.chain.specification.blocks import apply_block
from tests.chain.specification.draws import compute_leader, compute_serving_table, order_executors
from tests.chain.specification.epochs import compute_committee
from tests.chain.specification.ledger import Invalid, Ledger, compute_body_root, get_chain_id, make_ledger
from tests.chain.specification.merkle import (
    follow_history,
    follow_list,
    follow_state,
    history_root,
    list_root,
    state_root,
)
from tests.chain.specification.notation import (
    DOCUMENT,
    OPERATIONS_SECTION,
    Malformed,
    decode,
    encode,
    h,
    is_signed,
    is_usable,
    list_members,
    number,
    read_tables,
    u64,
)
from tests.chain.specification.operations import EFFECTS, REFUSED, compute_work, include
from tests.chain.specification.payments import NO_WINDOW, get_hold_id, is_unused, mark
from tests.chain.specification.validators import is_certificate, is_quorum, is_slashable
from tests.vectors.encodings import describe_record, list_public_records, name_record
from tests.vectors.generate import DIRECTORY, FILES, find_differences


def parse(value: Any) -> Any:
    """A value of a file with bytes for hex and without names of records, which are in the document."""
    if isinstance(value, dict):
        return {field: parse(item) for field, item in value.items() if field != "record"}
    if isinstance(value, list):
        return [parse(item) for item in value]
    return bytes.fromhex(value) if isinstance(value, str) else value


def show(value: Any) -> Any:
    """A decoded record as a file has it, but for names of records."""
    if isinstance(value, dict):
        return {field: show(item) for field, item in value.items() if field != "record"}
    if isinstance(value, list):
        return [show(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def strip(value: Any) -> Any:
    """A value of a file without names of records."""
    if isinstance(value, dict):
        return {field: strip(item) for field, item in value.items() if field != "record"}
    return [strip(item) for item in value] if isinstance(value, list) else value


def unhex(entries: dict[str, str]) -> dict[bytes, bytes]:
    """The entries of a state."""
    return {bytes.fromhex(key): bytes.fromhex(value) for key, value in entries.items()}


def blank(record: dict[str, Any]) -> bytes:
    """An encoded record with 64 zeros for its signature."""
    return encode({**record, "signature": bytes(64)})


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
        f"if there is an entry `k` ‖ u64(h − {MIN_DRAW_DELAY}), it is removed",
        f"mod {DRAW_DELAYS}. - seed = ",
        f"Then for delay = 0, 1, … {DRAW_DELAYS - 1}, the entry",
        f"If that makes {['none', 'one', 'two', 'three'][MAX_CHALLENGERS]}, the duel is settled",
        f"every judge with a ballot that counts gets (the share of judge) / {TIE_QUOTIENT}",
        f"judge · {PAID_VERDICTS} ≥ {JUDGEMENT_COST * 1_000:,}: a verdict costs some {JUDGEMENT_COST}",
        f"executor_lost + executor_won ≤ judge · (judges + 1) / 2 + {BRIBE_MARGIN}:",
        f"{MIN_BLOCK_SPACING_MS} ≥ `capture_grace_ms` + {MAX_DRAW_HEIGHTS} · {MIN_BLOCK_SPACING_MS} +",
        f"Let *room* be W / {COMMITTEE_GROWTH_QUOTIENT} of",
        f"has ended if counted_blocks ≥ {MIN_COUNTED_BLOCKS} and",
        f"with {MIN_PARTICIPATION_QUOTIENT} · counted_votes < counted_blocks",
        f"no more than {MIN_WEIGHTED_VALIDATORS} members of committee e + 1 are applicants",
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
        f"or {announcements.MAX_AHEAD_MS:,} ms after the reader's coarse clock",
        f"The coarse clock goes on in steps of {STEP_MS:,} ms",
        f"So it is less than {MAX_LAG_MS:,} ms behind",
        f"Departures are remembered for {announcements.ACCEPTANCE_S:,.0f} s",
        f"It is at most {announcements.MAX_ANNOUNCEMENT_BYTES:,} bytes long",
        f"An envelope has at most {offers.MAX_OFFLOAD_MESSAGE_BYTES:,} bytes",
        f"at most {offers.MAX_ANSWER_BYTES >> 20} MiB in all; the response digest",
        f"and {HELD_BYTES_PER_TOKEN} completion bytes for each token that the body allows",
        f"(at most {MAX_CHOICES})",
        f"An event of more than {MAX_EVENT_BYTES:,} bytes, its ends of line included, is an error, "
        f"as is any other body of more than {MAX_UNSTREAMED_BYTES:,} bytes",
        f"more than {FREE_EVENTS} events, and one for each {LEAST_EVENT_BYTES} bytes of them",
        f"finish_reason `length` (capture never exceeds the hold) | {MAX_UNPAID_BYTES:,} |",
        f"1.5 s, {Timeouts().cap_s:.0f} s",
    ):
        assert part in text, part
    assert Timeouts().first_s == 1.5
    for protocol in (
        links.COMMITTEE_PROTOCOL,
        sync_records.SYNC_PROTOCOL,
        PLUMTREE_PROTOCOL,
        DIAL_BACK_PROTOCOL,
        PUNCH_PROTOCOL,
        offers.OFFLOAD_PROTOCOL,
        DUEL_PROTOCOL,
    ):
        assert f"`{protocol}`" in text
    byte = {number: f"| `{number:02x}` | {name}" for number, name in LINK_KINDS.items()}
    assert all(row in text for row in byte.values())
    assert {FORWARDED_KIND[0], COMPACT_KIND[0], *messages._KINDS} == byte.keys()
    assert {kind.value: kind.name for kind in Kind} == dict(enumerate(("DATA", "END", "WINDOW_UPDATE", "RESET")))


LINK_KINDS = {0: "Batch", 1: "Propose", 2: "Repropose", 3: "Vote", 4: "Certificate", 16: "CompactPropose"}


"""What an item on a link of the committee is, by its first byte."""


def test_the_specification_uses_nothing_of_the_packages() -> None:
    modules = list(Path(*specification.__path__).glob("*.py"))
    assert modules
    for module in modules:
        imported = re.findall(r"^\s*(?:from|import) ([\w.]+)", module.read_text(encoding="utf-8"), re.MULTILINE)
        ours = {name for name in imported if name.split(".")[0] in {"chain", "consensus", "p2p", "serving", "tests"}}
        assert all(name.startswith("tests.chain.specification") for name in ours), module


def test_the_specification_has_every_operation() -> None:
    assert EFFECTS.keys() | {"Capture", "Dispute"} == set(list_members(OPERATIONS_SECTION).values())


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
        assert is_usable(key) == case["usable"], case["what"]


def test_hashes_and_signatures() -> None:
    for case in load("hashes")["hashes"]:
        assert h(case["domain"], *map(bytes.fromhex, case["parts"])).hex() == case["hash"]
    for case in load("hashes")["hold_ids"]:
        hold = decode("Hold", bytes.fromhex(case["hold"]))
        assert get_hold_id(bytes.fromhex(case["payer"]), hold).hex() == case["id"]
    for case in load("hashes")["operation_ids"]:
        assert h("operation", bytes.fromhex(case["signer"]), bytes.fromhex(case["operation"])).hex() == case["id"]
    for case in load("hashes")["digests"]:
        assert h("body", bytes.fromhex(case["salt"]), h("text", bytes.fromhex(case["body"]))).hex() == case["digest"]
    content = load("signatures")
    key, chain_id = bytes.fromhex(content["public_key"]), bytes.fromhex(content["chain_id"])
    for case in content["cases"]:
        assert is_signed(
            key, case["domain"], chain_id, *(bytes.fromhex(case[name]) for name in ("message", "signature"))
        )
    for case in content["edge_cases"]:
        public_key, message, signature = (bytes.fromhex(case[name]) for name in ("public_key", "message", "signature"))
        assert is_signed(public_key, case["domain"], chain_id, message, signature) == case["holds"], case["what"]
    assert len(content["speccheck"]["cases"]) == 12
    assert not any(case["holds"] for case in content["speccheck"]["cases"])


def test_the_tables_decode_every_record_and_refuse_what_they_should() -> None:
    for case in load("encodings")["cases"]:
        assert show(decode(case["record"], bytes.fromhex(case["encoded"]))) == strip(case["value"]), case["record"]
    for case in load("refused")["cases"]:
        with pytest.raises(Malformed):
            decode(case["record"], bytes.fromhex(case["encoded"]), case.get("max_size", 1 << 20))
            pytest.fail(case["why"])


def test_lists_histories_and_trees() -> None:
    content = load("merkle")
    for case in content["lists"]:
        items = [bytes.fromhex(item) for item in case["items"]]
        assert list_root(items).hex() == case["root"]
        for proof in case["proofs"]:
            assert follow_list(items[proof["index"]], parse(proof)).hex() == case["root"]
    for case in content["histories"]:
        ids = [bytes.fromhex(item) for item in case["block_ids"]]
        assert history_root(ids).hex() == case["root"]
        for proof in map(parse, case["proofs"]):
            assert follow_history(ids[proof["index"]], proof).hex() == case["root"]
    for case in content["trees"]:
        assert state_root(unhex(case["entries"])).hex() == case["root"]
        for proof in map(parse, case["proofs"]):
            assert follow_state(proof["key"], proof["value"], proof["proof"]).hex() == case["root"]


def test_genesis() -> None:
    for case in load("genesis")["cases"]:
        raw = bytes.fromhex(case["encoded"])
        assert get_chain_id(decode("Genesis", raw)).hex() == case["chain_id"]
        if "block_id" in case:
            ledger = make_ledger(raw)
            assert ledger.encode_entries() == unhex(case["state"])
            assert ledger.ids[0].hex() == case["block_id"]


def walk_chain() -> Iterator[tuple[Ledger, dict[str, Any]]]:
    """For each block of the chain the ledger before it, and its case."""
    content = load("chain")
    ledger = make_ledger(bytes.fromhex(content["genesis"]))
    assert ledger.encode_entries() == unhex(content["genesis_state"])
    for case in content["blocks"]:
        yield copy.deepcopy(ledger), case
        apply_block(ledger, bytes.fromhex(case["encoded"]))


def test_the_chain() -> None:
    """Every entry of every state follows from the genesis and the blocks, by the rules of the document alone."""
    kinds: set[str] = set()
    for ledger, case in walk_chain():
        committee, before = ledger.committee(case["epoch"]), ledger.encode_entries()
        assert apply_block(ledger, bytes.fromhex(case["encoded"])) == case["failed"]
        after = ledger.encode_entries()
        changes = {key: after.get(key) for key in {*before, *after} if before.get(key) != after.get(key)}
        assert {key.hex(): value and value.hex() for key, value in changes.items()} == case["changes"]
        assert ledger.ids[-1].hex() == case["block_id"]
        finality = decode("Certificate", bytes.fromhex(case["finality"]))
        assert (finality["kind"], finality["block_id"].hex()) == (3, case["block_id"])
        assert is_certificate(ledger.chain_id, committee, finality)
        assert ledger.compute_supply() == ledger.entries[b"s"]["supply"]
        kinds |= set(case["operations"])
    for name in ("duels", "checks"):
        kinds |= {kind for case in load(name)["blocks"] for kind in case["operations"]}
    assert kinds == set(list_members(OPERATIONS_SECTION).values())


def test_duels() -> None:
    """Draws, stages, verdicts and payments follow from the blocks, and what does not fit is refused."""
    content = load("duels")
    ledger = make_ledger(bytes.fromhex(content["genesis"]))
    assert ledger.encode_entries() == unhex(content["genesis_state"])
    for case in content["blocks"]:
        assert apply_block(ledger, bytes.fromhex(case["encoded"])) == case["failed"]
        assert ledger.header["state_root"].hex() == case["state_root"]
        assert ledger.compute_supply() == ledger.entries[b"s"]["supply"]
        open_duels = [record for key, record in ledger.entries.items() if key[:1] == b"u"]
        assert ledger.entries[b"s"]["reserved"] == sum(duel["reserved"] for duel in open_duels)
    assert not open_duels
    events = [event for events in content["events"].values() for event in events]
    verdicts = {event[name] for event in events for name in ("accused", "verdict") if name in event}
    assert len(verdicts) == 11
    check_refused(content["refused"])


def check_refused(refused: dict[str, Any]) -> None:
    """Operations that cannot be included after the blocks of a chain."""
    ledger = make_ledger(bytes.fromhex(refused["genesis"]))
    cases = iter(refused["cases"])
    case = next(cases)
    for height, raw in enumerate([None, *refused["blocks"]]):
        if raw is not None:
            apply_block(ledger, bytes.fromhex(raw))
        while case is not None and case["height"] == height:
            signed = decode("SignedOperation", bytes.fromhex(case["encoded"]))
            assert include(ledger, signed) == REFUSED, case["what"]
            case = next(cases, None)
    assert case is None


def test_checks() -> None:
    """Draws, stages, findings and payments follow from the blocks, and what does not fit is refused."""
    content = load("checks")
    ledger = make_ledger(bytes.fromhex(content["genesis"]))
    assert ledger.encode_entries() == unhex(content["genesis_state"])
    for case in content["blocks"]:
        assert apply_block(ledger, bytes.fromhex(case["encoded"])) == case["failed"]
        assert ledger.header["state_root"].hex() == case["state_root"]
        assert ledger.compute_supply() == ledger.entries[b"s"]["supply"]
        reserving = [record for key, record in ledger.entries.items() if key[:1] in (b"u", b"i")]
        assert ledger.entries[b"s"]["reserved"] == sum(each["reserved"] for each in reserving)
    assert not reserving
    events = [event for events in content["events"].values() for event in events]
    assert len({event["outcome"] for event in events if "outcome" in event}) == 6
    check_refused(content["refused"])


def test_forgeries() -> None:
    ledger, real = next(each for each in walk_chain() if each[1]["height"] == 4)
    cases = load("forgeries")["cases"]
    assert len({case["encoded"] for case in cases} - {real["encoded"]}) == len(cases) > 20
    for case in cases:
        with pytest.raises(Invalid) as caught:
            apply_block(copy.deepcopy(ledger), bytes.fromhex(case["encoded"]))
            pytest.fail(case["what"])
        assert str(caught.value) == {"validators removed": "removed"}.get(case["what"], case["field"]), case["what"]


NO_DUELS = {"rate": 0, "exposure_exponent": 3}


def test_serving_tables() -> None:
    content = load("serving_tables")
    beacon = bytes.fromhex(content["beacon"])
    accounts = {bytes.fromhex(key): strip(account) for key, account in content["accounts"].items()}
    order = sorted(accounts, key=lambda key: h("newcomer", beacon, key))
    assert [key.hex() for key in order] == content["newcomer_order"]
    for case in content["cases"]:
        assert show(compute_serving_table(accounts, beacon, {**case, "duels": NO_DUELS}, {})) == strip(case["table"])


def test_a_restart() -> None:
    content = load("restart")
    raw = bytes.fromhex(content["genesis"])
    block_id = bytes.fromhex(content["block"]["block_id"])
    assert decode("Genesis", raw)["restarts"] == [block_id]
    entries = unhex(content["state_before"])
    before = decode("ValidatorSet", entries[b"c" + u64(0)])["validators"]
    block, parent = (
        decode("Block", bytes.fromhex(content["block"]["encoded"])),
        decode("Header", bytes.fromhex(content["parent_header"])),
    )
    remaining = [each for each in before if each["public_key"] not in block["body"]["removed"]]
    assert block["header"]["view"] == parent["view"] + 2**32
    assert block["header"]["beacon_reveal"] == bytes(32)
    assert block["header"]["validators_hash"] == h("validators", encode({"validators": remaining}))
    assert block["header"]["body_root"] == compute_body_root(block["body"])
    finality = decode("Certificate", bytes.fromhex(content["block"]["finality"]))
    assert finality["block_id"] == block_id
    assert is_certificate(get_chain_id(decode("Genesis", raw)), remaining, finality)
    for key, value in content["block"]["changes"].items():
        entries.pop(bytes.fromhex(key), None)
        if value is not None:
            entries[bytes.fromhex(key)] = bytes.fromhex(value)
    assert block["header"]["state_root"] == state_root(entries)


def test_draws() -> None:
    content = load("leaders")
    for case in content["cases"]:
        committee = parse(case["validators"])
        keys = [each["public_key"] for each in committee["validators"]]
        assert h("validators", encode(committee)).hex() == case["hash"]
        for view, position in case["leaders"].items():
            drawn = compute_leader(committee["validators"], bytes.fromhex(content["source"]), int(view))
            assert keys.index(drawn) == position
    content = load("lottery")
    for case in content["cases"]:
        table = decode("ServingTable", bytes.fromhex(case["encoded_table"]))
        keys = [each["public_key"] for each in table["entries"]]
        for order in case["orders"]:
            source, payer = bytes.fromhex(content["source"]), bytes.fromhex(order["payer"])
            drawn = order_executors(table, source, payer, order["seq"], "m")
            assert [keys.index(key) for key in drawn] == order["order"], case["what"]


def test_committees() -> None:
    for case in load("committees")["cases"]:
        seats = compute_committee(dict(case["before"]), case["applicants"], case["committee_size"])
        assert list(map(list, seats.items())) == case["committee"], case["what"]


def test_certificates_and_slashable_votes() -> None:
    content = load("certificates")
    chain_id = bytes.fromhex(content["chain_id"])
    members = decode("ValidatorSet", bytes.fromhex(content["validators"]))["validators"]
    for case in content["cases"]:
        assert (
            is_certificate(chain_id, members, decode("Certificate", bytes.fromhex(case["encoded"]))) == case["valid"]
        ), case["what"]
    for case in content["exactly_two_thirds"]:
        committee = [{"stake": stake} for stake in case["stakes"]]
        assert is_quorum(committee, range(case["first_signers"])) == case["quorum"]
    for case in content["pairs"]:
        first, second = (decode("Vote", bytes.fromhex(case[name])) for name in ("first", "second"))
        assert is_slashable(first, second) == case["slashable"]


def test_beacon_registration_and_hold_windows() -> None:
    content = load("beacon")
    for reveal, case in zip(reversed(content["layers"][:-1]), content["blocks"], strict=True):
        assert (case["reveal"], case["commitment_before"]) == (reveal, h("onion", bytes.fromhex(reveal)).hex())
    content = load("registration")
    parts = (bytes.fromhex(content[name]) for name in ("chain_id", "source", "public_key"))
    challenge = h("register", *parts)
    assert challenge.hex() == content["challenge"]
    for case in content["tries"]:
        digest = compute_work(challenge, bytes.fromhex(case["salt"]))
        assert digest.hex() == case["argon2id"]
        assert (number(digest) < 1 << (256 - content["difficulty"])) == case["holds"]
    window = NO_WINDOW
    for case in load("hold_windows")["steps"]:
        seq, attempt = case["seq"], case["attempt"]
        assert is_unused(window, seq, attempt) == case["usable"]
        if case["usable"]:
            window = mark(window, seq, attempt)
        assert show(window) == strip(case["window"])


def test_proofs() -> None:
    start = make_ledger(bytes.fromhex(load("chain")["genesis"]))
    heights, genesis_committee = start.parameters["epoch_heights"], start.entries[b"c" + u64(0)]
    for case in load("proofs")["cases"]:
        proof = decode("Proof", bytes.fromhex(case["proof"]), 8 << 20)
        anchor, members = proof["checkpoint"], genesis_committee
        trusted = case["checkpoint"] or f"0:{start.ids[0].hex()}"
        assert f"{anchor['height']}:{h('header', encode(anchor)).hex()}" == trusted
        for link in proof["links"]:
            header, certificate, members = link["header"], link["certificate"], link["validators"] or members
            ahead = header["epoch"] - anchor["epoch"]
            assert ahead in (0, 1)
            assert header["height"] > anchor["height"]
            assert h("validators", encode(members)) == header["validators_hash"]
            assert header["validators_hash"] == anchor["next_validators_hash" if ahead else "validators_hash"]
            said = [certificate["kind"], certificate["epoch"], certificate["block_id"]]
            assert said == [3, header["epoch"], h("header", encode(header))]
            assert certificate["view"] == header["view"] or not header["height"] % heights
            assert is_certificate(start.chain_id, members["validators"], certificate)
            anchor = header
        statement, header = proof["statement"], anchor
        if statement["record"] == "ProvenAccount":
            value = None if statement["account"] is None else encode(statement["account"])
            assert follow_state(b"a" + statement["public_key"], value, statement["path"]) == anchor["state_root"]
            continue
        if statement["past"] is not None:
            header, path = statement["past"]["header"], statement["past"]["path"]
            assert (path["index"], path["count"]) == (header["height"], anchor["height"])
            assert follow_history(h("header", encode(header)), path) == anchor["history_root"]
        root = follow_list(encode(statement["operation"]), statement["path"])
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
    operations = whole["block"]["body"]["operations"]
    assert compact["ids"] == [h("operation", each["signer"], encode(each["operation"])) for each in operations]
    assert compact["stripped_block"]["header"] == whole["block"]["header"]
    assert compact["stripped_block"]["body"] == {**whole["block"]["body"], "operations": []}
    proposal, chain_id = whole["proposal"], whole["block"]["header"]["chain_id"]
    message = encode([proposal["epoch"], proposal["view"], proposal["block_id"]])
    assert is_signed(proposal["leader"], "proposal", chain_id, message, proposal["signature"])


def test_who_is_there() -> None:
    content = load("wire")
    chain_id, conversation = bytes.fromhex(content["announcements"]["chain_id"]), content["conversation"]
    for text in (
        *(case["encoded"] for case in content["announcements"]["good"]),
        content["announcements"]["not_signed"],
    ):
        said = decode("Announcement", bytes.fromhex(text), 8_192)
        is_good = text != content["announcements"]["not_signed"]
        assert is_signed(said["peer"], "announcement", chain_id, blank(said), said["signature"]) == is_good
    message = decode("SuspectMessage", bytes.fromhex(conversation["suspect"]["encoded"]), 256)
    assert is_signed(message["observer"], "accusation", chain_id, blank(message), message["signature"])
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
    assert offer["hold"]["request_digest"] == h("body", offer["salt"], h("text", bytes.fromhex(opening["body"])))
    assert payment["hold"]["operation"] == offer["hold"]
    assert completed["delivery"]["response_digest"] == h("body", head["salt"], h("text", chunk["data"]))
    delivery = encode(completed["delivery"])
    chain_id, payer = bytes.fromhex(opening["chain_id"]), payment["hold"]["signer"]
    assert completed["delivery"]["hold"] == get_hold_id(payer, offer["hold"])
    assert is_signed(offer["hold"]["payee"], "delivery", chain_id, delivery, completed["signature"])
    assert is_signed(payer, "receipt", chain_id, delivery, receipt["signature"])
