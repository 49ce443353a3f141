"""Vectors of identity, hashes, signatures, Merkle commitments, the beacon and registration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import base58
from nacl import bindings
from nacl.exceptions import BadSignatureError

from chain import crypto
from chain.crypto import KeyPair
from chain.exceptions import KeyFormatError
from chain.genesis import Genesis, GenesisAccount, make_genesis
from chain.merkle import list as merkle_list
from chain.merkle import mountain_range
from chain.merkle.snapshot import Frontier, add_chunk, make_chunk
from chain.state import beacon
from chain.state.keys import account_key
from chain.state.records import Account, Totals
from chain.state.state import State
from chain.transition.validators import registration
from chain.types import blocks, operations
from tests.support.chain_builder import make_test_genesis
from tests.support.keys import make_key
from tests.vectors.plain import Json, to_plain

SPECCHECK = Path(__file__).parent.parent / "chain" / "vectors" / "ed25519_speccheck.json"
CHAIN_ID = crypto.hash_bytes("genesis", b"some chain")
DOMAINS = (
    "operation", "header", "proposal", "notarize", "nullify", "finalize", "delivery", "receipt", "announcement"
)  # fmt: skip
ORDER = 2**252 + 27742317777372353535851937790883648493
SMALL_ORDER_POINT = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa")


def make_identity() -> Json:
    """Addresses, and texts and keys that are none."""
    keys = [make_key(name) for name in ("validator 0", "validator 1", "user 0")]
    prefix = bytes.fromhex("002408011220")
    bad_texts = [
        ("empty", ""),
        ("not base58", "12D3KooW0OIl"),
        ("a byte too many", base58.b58encode(prefix + keys[0].public_key + b"\0").decode()),
        ("a byte short", base58.b58encode(prefix + bytes(31)).decode()),
        ("another kind of key", base58.b58encode(bytes.fromhex("002408021220") + keys[0].public_key).decode()),
        ("a point of small order", crypto.format_address(SMALL_ORDER_POINT)),
        ("the identity", crypto.format_address(bytes([1] + [0] * 31))),
    ]
    for why, text in bad_texts:
        try:
            crypto.parse_address(text)
        except KeyFormatError:
            continue
        raise AssertionError(f"{why}: {text} is an address")
    points = [
        ("of prime order", keys[0].public_key),
        ("of order 8", SMALL_ORDER_POINT),
        ("the identity", bytes([1] + [0] * 31)),
        ("of order 2", ((2**255 - 19) - 1).to_bytes(32, "little")),
        ("prime order and order 8 mixed", bindings.crypto_core_ed25519_add(keys[0].public_key, SMALL_ORDER_POINT)),
        ("y is the field's prime and more: not canonical", ((2**255 - 19) + 1).to_bytes(32, "little")),
        ("no such point", (2).to_bytes(32, "little")),
        ("31 bytes", keys[0].public_key[:31]),
    ]
    return {
        "description": "Keys made from seeds, their addresses (libp2p peer ids), and what is no usable key.",
        "section": "2",
        "keys": [{"seed": key.seed.hex(), "public_key": key.public_key.hex(), "address": key.address} for key in keys],
        "bad_addresses": [{"why": why, "address": text} for why, text in bad_texts],
        "points": [
            {"what": what, "public_key": key.hex(), "usable": crypto.is_valid_public_key(key)} for what, key in points
        ],
    }


def make_hashes() -> Json:
    """The hash function, and ids made with it."""
    payer = make_key("user 0").public_key
    transfer = operations.Transfer(3, make_key("user 1").public_key, 5_000, b"memo")
    hold = operations.Hold(make_key("validator 0").public_key, 2_000, 0, 256, 7, "smol", bytes(range(32)), 600_000)
    holds = [hold, replace(hold, amount=2_001), replace(hold, seq=0, attempt=0)]
    generic = [("header", []), ("header", [b""]), ("header", [b"a", b"bc"]), ("newcomer share", [b"abc"])]
    return {
        "description": "H(domain; parts), and the ids and digests that are made with it.",
        "section": "4",
        "hashes": [
            {"domain": domain, "parts": to_plain(parts), "hash": crypto.hash_bytes(domain, *parts).hex()}
            for domain, parts in generic
        ],
        "operation_ids": [
            {
                "operation": transfer.encode().hex(),
                "signer": payer.hex(),
                "id": operations.compute_operation_id(transfer, payer).hex(),
            }
        ],
        "hold_ids": [
            {
                "hold": hold.encode().hex(),
                "payer": payer.hex(),
                "id": operations.compute_hold_id(payer, hold).hex(),
            }
            for hold in holds
        ],
        "digests": [
            {
                "salt": bytes(range(16)).hex(),
                "body": body.hex(),
                "digest": operations.compute_digest(bytes(range(16)), body).hex(),
            }
            for body in (b"", b'{"model":"smol"}')
        ],
    }


def make_signatures() -> Json:
    """A signature in each domain, signatures at the edge of Ed25519, and the speccheck cases."""
    key, other = make_key("validator 0"), make_key("validator 1")
    cases = [
        {
            "domain": domain,
            "message": message.hex(),
            "signed_bytes": crypto.signed_bytes(domain, CHAIN_ID, message).hex(),
            "signature": key.sign(domain, CHAIN_ID, message).hex(),
        }
        for domain, message in ((domain, b"message %d" % number) for number, domain in enumerate(DOMAINS))
    ]
    good = key.sign("notarize", CHAIN_ID, b"m")
    signed = crypto.signed_bytes("notarize", CHAIN_ID, b"m")
    edge = [
        ("as it should be", key.public_key, "notarize", b"m", good),
        ("in another domain", key.public_key, "finalize", b"m", good),
        ("over another message", key.public_key, "notarize", b"n", good),
        ("by another key", other.public_key, "notarize", b"m", good),
        ("63 bytes", key.public_key, "notarize", b"m", good[:63]),
        ("S + L: not reduced", key.public_key, "notarize", b"m", _add_order(good)),
        ("R of small order, equation holds", key.public_key, "notarize", b"m", _sign_with(key, 0, None, signed)),
        ("R with a part of order 8, equation holds times 8 only", key.public_key, "notarize", b"m",
         _sign_with(key, 12_345_678_901, SMALL_ORDER_POINT, signed)),
    ]  # fmt: skip
    speccheck = json.loads(SPECCHECK.read_text())
    return {
        "description": (
            "Signatures by the key of 'seed' on the chain 'chain_id', one per domain; edge cases; and the speccheck "
            "cases (source and licence below), whose messages are signed as they are, without domain and chain id."
        ),
        "section": "4",
        "seed": key.seed.hex(),
        "public_key": key.public_key.hex(),
        "chain_id": CHAIN_ID.hex(),
        "cases": cases,
        "edge_cases": [
            {
                "what": what,
                "public_key": public_key.hex(),
                "domain": domain,
                "message": message.hex(),
                "signature": signature.hex(),
                "holds": crypto.verify(public_key, domain, CHAIN_ID, message, signature),
            }
            for what, public_key, domain, message, signature in edge
        ],
        "speccheck": {
            "source": speccheck["source"],
            "licence": speccheck["licence"],
            "cases": [{**case, "holds": _verify_bare(case)} for case in speccheck["vectors"]],
        },
    }


def _verify_bare(case: Json) -> bool:
    key, message, signature = (bytes.fromhex(case[name]) for name in ("pub_key", "message", "signature"))
    if not crypto.is_valid_public_key(key):
        return False
    try:
        bindings.crypto_sign_open(signature + message, key)
    except BadSignatureError:
        return False
    return True


def _add_order(signature: bytes) -> bytes:
    return signature[:32] + (int.from_bytes(signature[32:], "little") + ORDER).to_bytes(32, "little")


def _sign_with(key: KeyPair, nonce: int, torsion: bytes | None, message: bytes) -> bytes:
    """A signature with a chosen R: ``nonce`` times the base point (0: the identity), plus ``torsion``."""
    secret = bytearray(hashlib.sha512(key.seed).digest()[:32])
    secret[0] &= 248
    secret[31] = (secret[31] & 127) | 64
    point = bytes([1] + [0] * 31)
    if nonce:
        point = bindings.crypto_scalarmult_ed25519_base_noclamp(nonce.to_bytes(32, "little"))
    if torsion is not None:
        point = bindings.crypto_core_ed25519_add(point, torsion)
    challenge = int.from_bytes(hashlib.sha512(point + key.public_key + message).digest(), "little")
    scalar = (nonce + challenge * int.from_bytes(secret, "little")) % ORDER
    return point + scalar.to_bytes(32, "little")


def make_merkle() -> Json:
    """Roots and proofs of lists, histories and the state tree, and a snapshot chunk."""
    items = [b"item %d" % number for number in range(11)]
    ids = [crypto.hash_bytes("header", bytes([number])) for number in range(11)]
    return {
        "description": "Roots of lists, of the history of block ids and of the state tree, with proofs.",
        "section": "6.3, 6.4, 6.5, 13",
        "lists": [
            {
                "items": to_plain(items[:size]),
                "root": merkle_list.compute_merkle_root(items[:size]).hex(),
                "proofs": [
                    to_plain(merkle_list.prove_list_leaf(items[:size], index))
                    for index in sorted({0, size // 2, size - 1})
                    if size
                ],
            }
            for size in (0, 1, 2, 3, 5, 8, 11)
        ],
        "histories": [
            {
                "block_ids": to_plain(ids[:size]),
                "peaks": to_plain(_append_all(ids[:size]).peaks),
                "root": _append_all(ids[:size]).root.hex(),
                "proofs": [
                    to_plain(mountain_range.prove_mountain_range_leaf(ids[:size], index))
                    for index in sorted({0, size - 1})
                    if size
                ],
            }
            for size in (0, 1, 2, 3, 7, 11)
        ],
        "trees": [_describe_tree(size) for size in (0, 1, 2, 3, 17)],
        "chunk": _describe_chunk(),
    }


def _append_all(ids: Sequence[bytes]) -> mountain_range.MountainRange:
    history = mountain_range.MountainRange(0, ())
    for block_id in ids:
        history = history.append(block_id)
    return history


def _make_state(size: int) -> State:
    keys = [crypto.hash_bytes("header", b"account %d" % number) for number in range(size)]
    return State().update({account_key(key): Account(nonce=number, available=7) for number, key in enumerate(keys)})


def _describe_tree(size: int) -> Json:
    state = _make_state(size)
    entries = {leaf.key: leaf.encoded for leaf in state.entries()}
    absent = [account_key(crypto.hash_bytes("header", b"absent %d" % number)) for number in range(2)]
    return {
        "entries": {key.hex(): value.hex() for key, value in entries.items()},
        "root": state.root.hex(),
        "proofs": [
            {
                "key": key.hex(),
                "value": entries[key].hex() if key in entries else None,
                "proof": to_plain(state.prove(key)),
            }
            for key in (*list(entries)[:2], *absent)
        ],
    }


def _describe_chunk() -> Json:
    state = _make_state(17).update({b"s": Totals(1, 2)})
    chunk = make_chunk(state.tree, None)
    assert chunk is not None and chunk.is_last
    frontier: Frontier = add_chunk(None, chunk, state.root)
    return {
        "what": "The only chunk of a small state, and the frontier that it leads to.",
        "state_root": state.root.hex(),
        "chunk": chunk.encode().hex(),
        "frontier": to_plain(frontier),
    }


def make_beacon() -> Json:
    """A hash chain, reveals, and the beacon that they lead to."""
    secret = crypto.hash_bytes("header", b"innermost")
    hash_chain = beacon.HashChain(secret, 4)
    layers = [secret]
    for _ in range(4):
        layers.append(beacon.compute_commitment(layers[-1]))
    assert hash_chain.commitment == layers[-1]
    running = beacon.Beacon(0, *(crypto.hash_bytes("header", b"genesis beacon"),) * 2, bytes(32))
    steps = []
    for reveal in reversed(layers[:-1]):
        running = running.absorb(reveal)
        steps.append(
            {
                "reveal": reveal.hex(),
                "commitment_before": beacon.compute_commitment(reveal).hex(),
                "beacon": to_plain(running),
            }
        )
    return {
        "description": (
            "The values of one hash chain from the innermost to the first tip; blocks that reveal them in the other "
            "order; and the beacon after each, and after an epoch ends there."
        ),
        "section": "9.1, 9.2, 8.5",
        "layers": to_plain(layers),
        "blocks": steps,
        "after_the_end_of_the_epoch": to_plain(running.end_epoch()),
    }


def make_registration() -> Json:
    """A proof of work for first credits."""
    genesis = make_test_genesis([make_key("validator 0")])
    challenge = registration.compute_challenge(genesis, genesis.beacon, make_key("newcomer").public_key)
    difficulty = 3
    tries = []
    for salt in (number.to_bytes(operations.REGISTRATION_SALT_BYTES, "big") for number in range(1 << 16)):
        digest = crypto.argon2id(challenge, salt, registration.ARGON2_MEMORY_BYTES, registration.ARGON2_PASSES)
        tries.append(
            {
                "salt": salt.hex(),
                "argon2id": digest.hex(),
                "holds": registration.is_valid_proof_of_work(challenge, salt, difficulty),
            }
        )
        if tries[-1]["holds"]:
            break
    return {
        "description": f"Argon2id over a newcomer's challenge; a proof holds with {difficulty} zero bits in front.",
        "section": "10",
        "chain_id": genesis.chain_id.hex(),
        "source": genesis.beacon.hex(),
        "public_key": make_key("newcomer").public_key.hex(),
        "challenge": challenge.hex(),
        "memory_bytes": registration.ARGON2_MEMORY_BYTES,
        "passes": registration.ARGON2_PASSES,
        "lanes": 1,
        "difficulty": difficulty,
        "tries": tries,
    }


def make_minimal_genesis() -> Json:
    """A genesis of one validator: small enough to follow by hand."""
    key = make_key("validator 0")
    genesis = make_genesis(
        "smallest",
        1,
        bytes(32),
        [GenesisAccount(key.public_key, 0, 1_000_000_000, (), beacon.compute_commitment(bytes(32)))],
    )
    return describe_genesis(
        "The smallest genesis: one validator that serves nothing, and the default parameters.", genesis
    )


def describe_genesis(what: str, genesis: Genesis) -> Json:
    """A genesis, what it encodes to, its ids and the state before the first block."""
    return {
        "what": what,
        "file": json.loads(genesis.to_json()),
        "encoded": genesis.encode().hex(),
        "chain_id": genesis.chain_id.hex(),
        "header": to_plain(genesis.header),
        "encoded_header": genesis.header.encode().hex(),
        "block_id": genesis.header.id.hex(),
        "empty_body_root": blocks.Body((), None, (), ()).root.hex(),
        "state_root": genesis.state.root.hex(),
        "state": {leaf.key.hex(): leaf.encoded.hex() for leaf in genesis.state.entries()},
    }
