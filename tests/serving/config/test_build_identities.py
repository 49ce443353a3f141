"""Identities from a configuration: the digest of the weights is given, or read from files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from p2p.runtime import RealRuntime
from serving.backends.embedded import MODEL, find_smollm2
from serving.config.build import build_backend, build_identities
from serving.config.fields import ConfigError
from serving.config.file import parse_config
from serving.quality.same_model.identity import ModelIdentity
from serving.quality.same_model.weights import hash_weights

ENTRY = """models:
  - kind: openai
    base_url: http://x
    names: [a]
    identity: {{{}, quantization: w8a16-kv16, engine: vllm}}
"""


def digest(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=32).digest()


def test_a_digest_is_taken_as_it_is_given(tmp_path: Path) -> None:
    config = parse_config(ENTRY.format(f"weights: {'0a' * 32}"))
    assert build_identities(config, tmp_path) == [ModelIdentity("a", b"\x0a" * 32, "w8a16-kv16", "vllm")]


def test_a_backend_knows_the_number_formats_that_are_declared_alone_or_in_an_identity() -> None:
    text = ENTRY.format(f"weights: {'0a' * 32}") + "    quantizations: {b: Q4_K_M}\n"
    (entry,) = parse_config(text.replace("names: [a]", "names: [a, b, c-fp8, d]")).models
    backend = build_backend(entry, RealRuntime())
    assert [backend.get_limits(name).quantization for name in "abd"] == ["w8a16-kv16", "Q4_K_M", ""]
    assert backend.get_limits("c-fp8").quantization == "fp8", "as its name says"


def test_files_are_read_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"weights")
    (identity,) = build_identities(parse_config(ENTRY.format("weight_files: [m.gguf]")), tmp_path)
    assert identity.weights == digest(b"weights")


def test_the_digest_of_several_files_depends_on_their_names_not_on_their_places(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    one, two = tmp_path / "y" / "1.safetensors", tmp_path / "x" / "2.safetensors"
    one.write_bytes(b"one")
    two.write_bytes(b"two")
    assert hash_weights([one, two]) == hash_weights([two, one]) == digest(digest(b"one") + digest(b"two"))
    for wrong in ([], [one, one]):
        with pytest.raises(ValueError, match="names of their own"):
            hash_weights(wrong)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"weight_files of an identity: .*m\.gguf"):
        build_identities(parse_config(ENTRY.format("weight_files: [m.gguf]")), tmp_path)


def test_the_embedded_model_knows_its_own_weights(tmp_path: Path) -> None:
    (identity,) = build_identities(parse_config("models: [{kind: embedded, declare_identity: true}]"), tmp_path)
    assert (identity.model, identity.engine) == (MODEL, "llamacpp")
    assert identity.weights == hash_weights([find_smollm2()])
    assert build_identities(parse_config("models: [{kind: embedded}]"), tmp_path) == []
