"""The ``chain`` command: what it prints, its exit codes, and one clear line for each thing that is wrong."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chain.blockstore import BlockStore
from chain.cli import build_app
from chain.crypto import format_address
from chain.exceptions import StoreError
from chain.export import ExportSource, export_chain
from chain.store import LevelStore
from chain.verify import StoreSource, verify_chain
from tests.chain.builders import Chain
from tests.chain.test_blockstore import append, make_chain

APP = build_app()


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """A chain of four blocks, in ``tmp_path/chain`` as a node keeps it."""
    chain = make_chain()
    store = LevelStore(tmp_path / "chain")
    append(BlockStore(store, chain.genesis), chain, 4)
    store.close()
    return chain


def test_verify_says_ok(chain: Chain, tmp_path: Path) -> None:
    code, text, _ = run("verify", tmp_path)
    assert code == 0 and text.startswith("ok, confirmed by ") and chain.head.id.hex()[:16] in text
    code, text, _ = run("verify", tmp_path, "--json")
    report = json.loads(text)
    assert code == 0 and report["ok"] and report["height"] == 4 and report["state_root"] == chain.state.root.hex()


def test_verify_names_height_and_field_of_a_fault(chain: Chain, tmp_path: Path) -> None:
    store = LevelStore(tmp_path / "chain")
    raw = bytearray(chain.blocks[1].encoded)
    raw[-1] ^= 1
    store.write({b"b" + (2).to_bytes(8, "big"): bytes(raw)})
    store.close()
    code, text, _ = run("verify", tmp_path)
    assert code == 1 and text.startswith("FAULT at height 2, ")
    code, text, _ = run("verify", tmp_path, "--json")
    assert code == 1 and json.loads(text)["fault"]["height"] == 2


def test_an_export_can_be_verified_anywhere(chain: Chain, tmp_path: Path) -> None:
    code, text, _ = run("export", tmp_path / "out.chain", "-d", tmp_path)
    assert code == 0 and "4 blocks" in text
    assert run("verify", tmp_path / "out.chain")[0] == 0
    code, _, errors = run("export", tmp_path / "out.chain", "-d", tmp_path)
    assert code == 1 and "exists already" in errors


def test_every_cut_of_an_export_is_noticed(chain: Chain, tmp_path: Path) -> None:
    store = LevelStore(tmp_path / "chain")
    export_chain(StoreSource(store), tmp_path / "whole")
    store.close()
    raw = (tmp_path / "whole").read_bytes()
    for size in [*range(0, len(raw), 97), len(raw) - 1, len(raw) + 1]:
        (tmp_path / "cut").write_bytes((raw + b"x")[:size])
        with suppress(StoreError):
            assert not verify_chain(ExportSource(tmp_path / "cut"), threads=1).ok, size


def test_show_and_account(chain: Chain, tmp_path: Path) -> None:
    _, text, _ = run("show", "2", "-d", tmp_path)
    block = json.loads(text)
    assert block["id"] == chain.blocks[1].id.hex() and block["final_by"]["height"] == 4
    assert "available" in block["operations"][0]["failure"] and block["operations"][1]["failure"] is None
    operation = chain.blocks[1].body.operations[1]
    assert json.loads(run("show", operation.id.hex(), "-d", tmp_path)[1])["kind"] == "bond"
    assert json.loads(run("show", chain.blocks[2].id.hex(), "-d", tmp_path)[1])["header"]["height"] == 3
    assert json.loads(run("show", "-d", tmp_path)[1])["header"]["height"] == 4
    user = chain.users[1]
    account = json.loads(run("account", format_address(user.public_key), "-d", tmp_path, "--json")[1])
    assert (account["bonded"], account["height"]) == (5_000, 4)
    assert account["available"] == chain.account(user).available


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "{dir}/nothing"), "no chain in"),
        (("verify", "/ip4/127.0.0.1/tcp/1/p2p/12D3KooW"), "cannot reach other nodes"),
        (("show", "99", "-d", "{dir}"), "the last final block is 4"),
        (("show", "zz", "-d", "{dir}"), "neither a height nor a block or operation id"),
        (("show", "00" * 32, "-d", "{dir}"), "no final block or operation"),
        (("account", "12D3KooW", "-d", "{dir}"), "not the address of a usable Ed25519 key"),
        (("account", "0OIl", "-d", "{dir}"), "is not an address"),
        (("export", "{dir}/no/such/place", "-d", "{dir}"), "No such file"),
    ],
)
def test_wrong_ways_get_one_clear_line(chain: Chain, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    code, text, errors = run(*[argument.replace("{dir}", str(tmp_path)) for argument in arguments])
    assert (code, text) == (1, "")
    assert errors.startswith("error: ") and message in errors and errors.count("\n") == 1


def test_a_file_of_another_kind_is_no_export(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    code, _, errors = run("verify", tmp_path / "file")
    assert code == 1 and "not a chain export" in errors
