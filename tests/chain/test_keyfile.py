"""The key file: what is written is read back, and whatever is wrong is said in one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
from nacl.pwhash import argon2id

import chain.sealing
from chain.exceptions import KeyFormatError, LedgerError
from chain.keyfile import IdentityError, create_identity, load_identity

SEED = bytes(range(32))


@pytest.fixture(autouse=True)
def cheap_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain.sealing, "KDF_PASSES", argon2id.OPSLIMIT_MIN)
    monkeypatch.setattr(chain.sealing, "KDF_MEMORY_BYTES", argon2id.MEMLIMIT_MIN)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "key"


@pytest.mark.parametrize("passphrase", [None, "correct horse", "", "пароль\n"])
def test_what_is_created_is_loaded(path: Path, passphrase: str | None) -> None:
    key = create_identity(path, passphrase, SEED)
    assert key.seed == SEED
    assert load_identity(path, passphrase).public_key == key.public_key
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path], "no draft is left"
    assert key.address in path.read_text()
    assert (SEED.hex() in path.read_text()) is (passphrase is None)


def test_seeds_are_random_and_checked(tmp_path: Path) -> None:
    assert create_identity(tmp_path / "a").seed != create_identity(tmp_path / "b").seed
    with pytest.raises(KeyFormatError):
        create_identity(tmp_path / "c", seed=b"short")
    assert not (tmp_path / "c").exists()


def test_a_passphrase_for_an_open_file_is_not_needed(path: Path) -> None:
    create_identity(path, None, SEED)
    assert load_identity(path, "anything").seed == SEED


def test_a_key_is_never_overwritten(path: Path) -> None:
    create_identity(path, None, SEED)
    with pytest.raises(IdentityError, match="never overwritten"):
        create_identity(path)
    assert load_identity(path).seed == SEED
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o611])
def test_a_file_that_others_may_access_is_refused(path: Path, mode: int) -> None:
    create_identity(path, None, SEED)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"mode {mode:04o}.*run chmod 600"):
        load_identity(path)
    path.chmod(0o400)
    assert load_identity(path).seed == SEED


def test_passphrases_needed_and_wrong(path: Path) -> None:
    create_identity(path, "right", SEED)
    with pytest.raises(IdentityError, match="passphrase is needed"):
        load_identity(path)
    with pytest.raises(IdentityError, match="passphrase is wrong"):
        load_identity(path, "wrong")
    assert issubclass(IdentityError, LedgerError)


def test_a_missing_file_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="there is no key file"):
        load_identity(tmp_path / "key")
    with pytest.raises(IdentityError, match="cannot be written: No such file"):
        create_identity(tmp_path / "nowhere" / "key")
    with pytest.raises(IdentityError, match="cannot be read: Is a directory"):
        load_identity(tmp_path)


@pytest.mark.parametrize("passphrase", [None, "right"])
def test_no_damaged_byte_goes_unnoticed(path: Path, passphrase: str | None) -> None:
    create_identity(path, passphrase, SEED)
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(IdentityError):
            load_identity(path, passphrase)
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(IdentityError):
            load_identity(path, passphrase)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is not a key file"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "is not a key file"),
        ("wwwserve key 1\n", "address is missing|limits is missing|passphrase is needed"),
        ("wwwserve key 1\nseed: 00\n", "is damaged"),
        ("wwwserve key 1\nseed: zz\n", "is damaged"),
        ("wwwserve key 1\nseed: " + SEED.hex() + "\n", "address is missing"),
        ("wwwserve key 1\naddress: x\nseed: " + SEED.hex() + "\n", "not that of the seed"),
        ("wwwserve key 1\naddress: x\naddress: x\n", "is damaged"),
        ("x" * 5000, "too large"),
    ],
)
def test_files_that_are_no_keys(path: Path, content: str, reason: str) -> None:
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(IdentityError, match=reason):
        load_identity(path)


def test_a_file_cannot_ask_for_endless_work(path: Path) -> None:
    create_identity(path, "right", SEED)
    limits = f"limits: {argon2id.OPSLIMIT_MIN} {argon2id.MEMLIMIT_MIN}"
    assert limits in path.read_text()
    for absurd in ("limits: 4000000000 8192", "limits: 1 4000000000000", "limits: -1 8192", "limits: 1"):
        content = path.read_text()
        path.write_text(content.replace(limits, absurd))
        with pytest.raises(IdentityError, match="is damaged"):
            load_identity(path, "right")
        path.write_text(content)
