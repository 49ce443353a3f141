"""Signatures, keys and addresses: one answer to every edge case, and nothing signed twice by accident."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings

import chain
from chain import crypto
from chain.crypto import KeyPair, format_address, hash_bytes, is_valid_public_key, parse_address, verify
from chain.exceptions import CodecError, InvalidCertificate, KeyFormatError
from chain.types.blocks import Proposal
from chain.types.operations import Delivery, SignedOperation, Usage, Withdraw
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate, Vote, VoteKind
from p2p.peers.announcement import Announcement, PeerLoad, decode_announcement
from serving.accounting.receipts import is_receipt
from tests.support.keys import make_key

VECTORS = json.loads((Path(__file__).parent / "vectors" / "ed25519_speccheck.json").read_text())["vectors"]
CHAIN_ID = bytes(range(32))


def libsodium_accepts(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        bindings.crypto_sign_open(signature + message, key)
    except Exception:
        return False
    return True


def test_of_the_speccheck_vectors_libsodium_accepts_case_3_alone() -> None:
    assert len(VECTORS) == 12
    cases = [tuple(bytes.fromhex(case[field]) for field in ("pub_key", "message", "signature")) for case in VECTORS]
    assert [number for number, case in enumerate(cases) if libsodium_accepts(*case)] == [3]


def test_no_speccheck_vector_passes_both_checks() -> None:
    """Case 3 has a mixed-order key, which the point check refuses: batch and single verifiers differ on it."""
    for number, case in enumerate(VECTORS):
        key, message, signature = (bytes.fromhex(case[field]) for field in ("pub_key", "message", "signature"))
        assert not (is_valid_public_key(key) and libsodium_accepts(key, message, signature)), number
    assert not is_valid_public_key(bytes.fromhex(VECTORS[3]["pub_key"]))


@pytest.mark.parametrize("number", range(12))
def test_verify_refuses_the_keys_of_the_speccheck_vectors_or_their_signatures(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, through the door that everything else uses, with the framing taken away."""
    monkeypatch.setattr(crypto, "signed_bytes", lambda domain, chain_id, message: message)
    key, message, signature = (bytes.fromhex(VECTORS[number][field]) for field in ("pub_key", "message", "signature"))
    assert verify(key, "operation", CHAIN_ID, message, signature) is False


def door_announcement(key: bytes, signature: bytes) -> bool:
    announcement = Announcement(key, 1, 1, False, (), (), (), PeerLoad(), 1_000, signature)
    try:
        decode_announcement(announcement.encode(), CHAIN_ID)
    except CodecError as error:
        assert "not signed" in str(error)
        return False
    return True


def door_certificate(key: bytes, signature: bytes) -> bool:
    certificate = Certificate(int(VoteKind.FINALIZE), 0, 1, bytes([1]) * 32, (0,), (signature,))
    try:
        certificate.verify(CHAIN_ID, ValidatorSet.of([(key, 1)]))
    except InvalidCertificate:
        return False
    return True


DELIVERY = Delivery(bytes(32), 1, bytes(32), Usage(0, 0), "stop")
DOORS: dict[str, Callable[[bytes, bytes], bool]] = {
    "verify": lambda key, signature: verify(key, "operation", CHAIN_ID, b"", signature),
    "operation": lambda key, signature: crypto.verify_all(
        [SignedOperation(Withdraw(0), key, signature).signature_check(CHAIN_ID)]
    ),
    "vote": lambda key, signature: Vote(1, 0, 1, bytes([1]) * 32, key, signature).is_valid(CHAIN_ID),
    "certificate": door_certificate,
    "proposal": lambda key, signature: crypto.verify_all(
        [Proposal(0, 1, bytes(32), key, signature).signature_check(CHAIN_ID)]
    ),
    "receipt": lambda key, signature: is_receipt(key, CHAIN_ID, DELIVERY, signature),
    "announcement": door_announcement,
}
"""Everything signed, as its receiver checks it."""


@pytest.mark.parametrize("door", DOORS)
def test_every_door_gives_the_same_answer_to_the_speccheck_vectors(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is signed: the framing is taken away, and each of the twelve is refused, but an honest one passes."""
    for case in VECTORS:
        key, message, signature = (bytes.fromhex(case[field]) for field in ("pub_key", "message", "signature"))
        monkeypatch.setattr(crypto, "signed_bytes", lambda domain, chain_id, signed, message=message: message)
        decode_announcement.cache_clear()
        assert DOORS[door](key, signature) is False
        good = make_key("a")
        assert DOORS[door](good.public_key, good.sign("any", CHAIN_ID, b"")) is True
    decode_announcement.cache_clear()


LIBRARIES = ("nacl", "cryptography", "OpenSSL", "Crypto", "ecdsa", "fastecdsa", "libp2p.crypto")


VERIFIERS = {"crypto", "certificate", "self", "self._cache", "verification", "self._validation"}
VERIFIERS |= {"self.checks", "self._driver.checks"}
"""What has a method that leads to :mod:`chain.crypto`: it, a certificate, and consensus' cache in front of it."""


def is_verify(annotation: ast.expr | None) -> bool:
    """Whether an argument is declared as a way to check signatures, which only ``chain.crypto`` defines."""
    return annotation is not None and ast.unparse(annotation) == "crypto.Verify"


def test_no_module_but_one_verifies_signatures() -> None:
    """Two verifiers that differ on an edge case fork a chain. What else uses such libraries is listed here."""
    root = Path(chain.__file__).parent.parent
    folders = [root / name for name in ("chain", "consensus", "p2p", "serving")]
    imported: dict[str, set[str]] = {}
    for path in [root / "node.py", *(path for folder in folders for path in sorted(folder.rglob("*.py")))]:
        tree, name = ast.parse(path.read_text()), path.relative_to(root).as_posix()
        names = {f"{module}.{item}" if item else module: item for module, item in find_imports(tree)}
        found = {full for full in names if full.startswith(tuple(f"{library}." for library in LIBRARIES))}
        if found := {full for full in found if not full.endswith(".create_new_key_pair")}:
            imported[name] = found
        if name == "chain/crypto.py":
            continue
        passed = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg) and is_verify(node.annotation)}
        for call in (node.func for node in ast.walk(tree) if isinstance(node, ast.Call)):
            called = call.attr if isinstance(call, ast.Attribute) else call.id if isinstance(call, ast.Name) else ""
            assert not re.search("sign_open|sign_verify", called), name
            if called in ("verify", "verify_all"):  # of chain.crypto, or of what leads there
                owner = ast.unparse(call.value) if isinstance(call, ast.Attribute) else None
                known = f"chain.crypto.{called}" in names or called in passed
                assert known if owner is None else owner in VERIFIERS, name
    assert "nacl.bindings" in imported.pop("chain/crypto.py")
    assert imported == {
        # The key file and the backup of an owner who gave a passphrase.
        "chain/sealing.py": {"nacl.exceptions.CryptoError", "nacl.pwhash.argon2id", "nacl.secret.SecretBox"},
        # Nodes of one simulation share what chain.crypto has found of signatures.
        "p2p/simulation/runtime.py": {"nacl.bindings"},
        # Texts of duels on the disk.
        "serving/quality/duels/table.py": {"nacl.exceptions.CryptoError", "nacl.secret.SecretBox"},
    }


def find_imports(tree: ast.Module) -> list[tuple[str, str]]:
    """Module and name of everything that is imported; the name is empty for a whole module."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.module, alias.name) for alias in node.names]
    return found


def test_small_order_and_malformed_keys_are_refused() -> None:
    identity = bytes([1]) + bytes(31)
    assert not is_valid_public_key(identity)
    assert not is_valid_public_key(bytes(32))
    assert not is_valid_public_key(b"\xff" * 32)
    assert not is_valid_public_key(b"")
    assert not is_valid_public_key(make_key("a").public_key + b"\0")
    assert is_valid_public_key(make_key("a").public_key)


def test_a_signature_holds_for_its_key_domain_chain_and_message_alone() -> None:
    key, other = make_key("a"), make_key("b")
    signature = key.sign("operation", CHAIN_ID, b"message")
    assert verify(key.public_key, "operation", CHAIN_ID, b"message", signature)
    assert not verify(other.public_key, "operation", CHAIN_ID, b"message", signature)
    assert not verify(key.public_key, "receipt", CHAIN_ID, b"message", signature)
    assert not verify(key.public_key, "operation", bytes(32), b"message", signature)
    assert not verify(key.public_key, "operation", CHAIN_ID, b"messagE", signature)
    assert not verify(key.public_key, "operation", CHAIN_ID, b"message", signature[:-1])
    assert not verify(key.public_key, "operation", CHAIN_ID, b"message", b"")
    assert not verify(key.public_key, "operation", CHAIN_ID, b"message", signature + b"\0")


def test_a_signature_cannot_be_varied() -> None:
    """s + L signs the same thing in a lax verifier."""
    key = make_key("a")
    order = 2**252 + 27742317777372353535851937790883648493
    signature = key.sign("operation", CHAIN_ID, b"message")
    varied = signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    assert not verify(key.public_key, "operation", CHAIN_ID, b"message", varied)


@given(bits=st.integers(0, 64 * 8 - 1))
def test_a_flipped_bit_breaks_a_signature(bits: int) -> None:
    key = make_key("a")
    signature = bytearray(key.sign("operation", CHAIN_ID, b"message"))
    signature[bits // 8] ^= 1 << bits % 8
    assert not verify(key.public_key, "operation", CHAIN_ID, b"message", bytes(signature))


@given(raw=st.binary(max_size=70), key=st.binary(max_size=40), domain=st.sampled_from(["operation", "receipt"]))
def test_verify_never_raises(raw: bytes, key: bytes, domain: str) -> None:
    assert verify(key, domain, CHAIN_ID, raw, raw) is False
    assert verify(make_key("a").public_key, domain, CHAIN_ID, raw, raw) is False


def domains_in_use() -> dict[str, list[str]]:
    """Every literal domain in the package, by the function that it is given to."""
    position = {"hash_bytes": 0, "sign": 0, "SignatureCheck": 1}
    found: dict[str, list[str]] = {name: [] for name in position}
    for path in sorted(Path(chain.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in position and len(node.args) > position[name]:
                    argument = node.args[position[name]]
                    if isinstance(argument, ast.Constant):
                        found[name].append(str(argument.value))
    return found


def test_domains_are_distinct_and_fit() -> None:
    from chain.types.votes import VoteKind

    found = domains_in_use()
    signed = {*found["sign"], *found["SignatureCheck"]}
    votes = {kind.domain for kind in VoteKind}
    assert {"operation", "header", "proposal", "receipt"} <= signed
    assert not signed & votes and len(votes) == 3
    assert all(0 < len(domain) <= 16 for domain in {*found["hash_bytes"], *signed, *votes})
    # Personalisation pads with zero bytes: no domain may hold one.
    assert all("\0" not in domain for domain in found["hash_bytes"])


def test_signed_bytes_are_unambiguous() -> None:
    assert crypto.signed_bytes("ab", CHAIN_ID, b"c") != crypto.signed_bytes(
        "a", b"b" + CHAIN_ID[:-1], CHAIN_ID[-1:] + b"c"
    )
    assert crypto.signed_bytes("header", CHAIN_ID, b"")[0] == 6


def test_hash_domains_separate() -> None:
    assert hash_bytes("leaf", b"x") != hash_bytes("branch", b"x")
    assert hash_bytes("leaf", b"x", b"y") == hash_bytes("leaf", b"xy")  # callers pass parts of fixed length
    assert len(hash_bytes("leaf")) == 32


def test_address_is_the_libp2p_peer_id() -> None:
    from libp2p.crypto.ed25519 import Ed25519PublicKey
    from libp2p.peer.id import ID

    for number in range(10):
        key = make_key(f"peer {number}")
        peer = ID.from_pubkey(Ed25519PublicKey.from_bytes(key.public_key))
        assert key.address == format_address(key.public_key) == str(peer)
        assert key.address.startswith("12D3KooW")
        assert parse_address(key.address) == key.public_key
        assert parse_address(f"  {key.address}\n") == key.public_key


@given(text=st.text(max_size=60))
def test_other_text_is_no_address(text: str) -> None:
    with pytest.raises(KeyFormatError):
        parse_address(text)


@given(
    position=st.integers(0, 51),
    letter=st.sampled_from("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz0OIl"),
)
def test_a_mistyped_address_is_refused_or_another_key(position: int, letter: str) -> None:
    address = make_key("a").address
    typed = address[:position] + letter + address[position + 1 :]
    try:
        key = parse_address(typed)
    except KeyFormatError:
        return
    assert format_address(key) == typed


def test_addresses_of_unusable_keys_are_refused() -> None:
    good = make_key("a").public_key
    for key in (bytes(32), good[:-1], good + b"\0", b"\x01" + bytes(31)):
        with pytest.raises(KeyFormatError):
            parse_address(format_address(key))
    for prefix in ("", "002408021220", "00002408011220", "1220"):
        with pytest.raises(KeyFormatError):
            parse_address(base58.b58encode(bytes.fromhex(prefix) + good).decode())


def test_key_pairs() -> None:
    assert make_key("a").public_key == make_key("a").public_key != make_key("b").public_key
    assert "seed" not in repr(make_key("a")) and make_key("a").seed.hex() not in repr(make_key("a"))
    for seed in (b"", bytes(31), bytes(33)):
        with pytest.raises(KeyFormatError):
            KeyPair(seed)
