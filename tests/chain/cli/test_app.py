"""The ``chain`` command: what it prints, its exit codes, and one clear line for each thing that is wrong."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chain.audit.audit import audit_chain
from chain.audit.export import ExportSource, ExportWriter, export_chain
from chain.audit.report import Fault
from chain.audit.sources import ChainSource, StoreSource
from chain.cli.app import build_app
from chain.cli.contract import REPAIR, ExitCode
from chain.cli.format import account_to_rows
from chain.cli.report_text import describe_report
from chain.cli.text import (
    format_credits,
    format_duration,
    format_rows,
    format_time,
    print_line,
    print_lines,
)
from chain.crypto import format_address
from chain.exceptions import StoreError
from chain.genesis import load_genesis
from chain.state.records import Account
from chain.store.kv import LevelStore, MemoryStore
from chain.store.reader import ChainReader
from chain.store.writer import ChainStore
from chain.types.blocks import sign_block
from tests.chain.store.samples import append, make_chain
from tests.support.chain_builder import START, Chain
from tests.support.chains.busy_chain import make_busy_chain
from tests.support.chains.chain_store import fill_store
from tests.support.chains.restarted_chain import append_after, go_on, make_halted, propose
from tests.support.commands import run_cli
from tests.support.keys import make_key

ROOT = Path(__file__).resolve().parents[3]
APP = build_app()
FAULT, NOT_PROVEN = ExitCode.FAULT, ExitCode.NOT_PROVEN
STRANGER = format_address(make_key("stranger").public_key)


def run(*arguments: object) -> tuple[int, str, str]:
    return run_cli(APP, *arguments)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """A chain of four blocks, in ``tmp_path/chain`` as a node keeps it."""
    chain = make_chain()
    store = LevelStore(tmp_path / "chain")
    append(ChainStore(store, chain.genesis), chain, 4)
    store.close()
    (tmp_path / "genesis.json").write_text(chain.genesis.to_json())
    return chain


def test_verify_says_ok(chain: Chain, tmp_path: Path) -> None:
    code, text, _ = run("verify", tmp_path)
    assert code == 0 and text.startswith("ok, confirmed by ") and chain.head.id.hex()[:16] in text
    code, text, _ = run("verify", tmp_path, "--json")
    report = json.loads(text)
    assert code == 0 and report["ok"] and report["height"] == 4 and report["state_root"] == chain.state.root.hex()


@pytest.mark.parametrize("place", ["directory", "export", "remote"])
def test_verify_accepts_no_restart_that_the_named_genesis_file_does_not_list(tmp_path: Path, place: str) -> None:
    """The genesis in a directory is as much the writer's as its blocks."""
    chain = make_halted()
    finals = {height: chain.finality(chain.blocks[height - 1]) for height in (4, 6)}
    finals[7] = go_on(chain, propose(chain))
    finals[8] = chain.finality(append_after(chain, finals[7]))
    store = LevelStore(tmp_path / "chain")
    fill_store(store, chain, finals)
    assert ChainReader(store).genesis.restarts == (chain.blocks[6].id,)
    export_chain(StoreSource(store), tmp_path / "export")
    store.close()
    (listing := tmp_path / "accepts.json").write_text(chain.genesis.to_json())
    (other := tmp_path / "refuses.json").write_text(replace(chain.genesis, restarts=()).to_json())

    def open_remote(address: str, genesis: Path | None, proxy: str | None) -> ChainSource:
        source = ExportSource(tmp_path / "export")
        source.genesis = load_genesis(genesis or listing)
        return source

    def verify(*options: object) -> tuple[int, str]:
        target = {"directory": tmp_path, "export": tmp_path / "export", "remote": "/ip4/192.0.2.1/tcp/1"}[place]
        return run_cli(build_app(open_remote), "verify", target, *options)[:2]

    for options in ((), ("--genesis", other)):
        code, text = verify(*options)
        assert code == FAULT and text.startswith("FAULT at height 7, restart") and "accepted by no genesis file" in text
        code, text = verify(*options, "--json")
        report = json.loads(text)
        assert code == FAULT and not report["ok"] and report["restarts"][0]["accepted_by"] is None
    code, text = verify("--genesis", listing)
    assert code == 0 and text.startswith("ok") and f"of the stake; accepted by {listing}" in text
    report = json.loads(verify("--genesis", listing, "--json")[1])
    assert report["ok"] and report["restarts"][0]["accepted_by"] == str(listing)


def test_verify_names_height_and_field_of_a_fault(chain: Chain, tmp_path: Path) -> None:
    store = LevelStore(tmp_path / "chain")
    raw = bytearray(chain.blocks[1].encoded)
    raw[-1] ^= 1
    store.write({b"b" + (2).to_bytes(8, "big"): bytes(raw)})
    store.close()
    code, text, _ = run("verify", tmp_path)
    assert code == FAULT and text.startswith("FAULT at height 2, ")
    code, text, _ = run("verify", tmp_path, "--json")
    assert code == FAULT and json.loads(text)["fault"]["height"] == 2


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
            assert not audit_chain(ExportSource(tmp_path / "cut"), threads=1).ok, size


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
        (("account", "", "-d", "{dir}"), "is not the address"),
        (("show", "²", "-d", "{dir}"), "neither a height nor"),
        (("show", "", "-d", "{dir}"), "no final block or operation"),
        (("show", "9" * 30, "-d", "{dir}"), "no final block or operation"),
        (("show", "1", "-d", "{dir}/nothing"), "no chain in"),
        (("account", "12D3KooW", "-d", "{dir}/nothing"), "not the address"),
        (("export", "{dir}/no/such/place", "-d", "{dir}"), "No such file"),
        (("export", "{dir}", "-d", "{dir}"), "exists already"),
        (("export", "{dir}/out", "-d", "{dir}/nothing"), "no chain in"),
        (("verify", "{dir}", "--genesis", "{dir}/nothing"), "cannot read the genesis file"),
        (("checkpoint", "-d", "{dir}/nothing"), "no chain in"),
        (("prove", "balance", "12D3KooW", "-d", "{dir}"), "not the address of a usable Ed25519 key"),
        (("prove", "balance", STRANGER, "-d", "{dir}/nothing"), "no chain in"),
        (("prove", "balance", STRANGER, "-d", "/ip4/127.0.0.1/tcp/1/p2p/12D3KooW"), "cannot reach other nodes"),
        (("prove", "balance", STRANGER, "-d", "{dir}", "--checkpoint", "4"), "--checkpoint: expected HEIGHT:BLOCKID"),
        (("prove", "balance", STRANGER, "-d", "{dir}", "--checkpoint", "9:" + "00" * 32), "above the last final block"),
        (("prove", "balance", STRANGER, "-d", "{dir}", "--checkpoint", "3:" + "00" * 32), "not a final block of this"),
        (("prove", "balance", STRANGER, "-d", "{dir}", "-o", "{dir}/chain"), "exists already"),
        (("prove", "balance", STRANGER, "-d", "{dir}", "-o", "{dir}/no/such/place"), "No such file"),
        (("prove", "operation", "00" * 32, "-d", "{dir}"), "no final operation 0000"),
        (("prove", "operation", "00", "-d", "{dir}"), "'00' is not the id of an operation"),
        (("prove", "operation", "zz", "-d", "{dir}"), "'zz' is not the id of an operation"),
        (("check-proof", "{dir}/nothing", "--genesis", "{dir}/genesis.json"), "No such file"),
        (("check-proof", "{dir}/nothing", "--genesis", "{dir}/nothing"), "cannot read the genesis file"),
        (
            ("check-proof", "-", "--genesis", "{dir}/genesis.json", "--checkpoint", "x"),
            "--checkpoint: expected HEIGHT:BLOCKID",
        ),
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


def test_a_file_that_ends_or_lies_about_its_length(chain: Chain, tmp_path: Path) -> None:
    run("export", tmp_path / "whole", "-d", tmp_path)
    raw = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(raw[:-1])
    code, text, errors = run("verify", tmp_path / "cut", "--json")
    fault = json.loads(text)["fault"]
    assert (code, errors) == (FAULT, "") and fault["height"] == 4 and "cut short" in fault["reason"]
    magic = raw.index(b"\n") + 1
    (tmp_path / "longer").write_bytes(raw[:magic] + b"\xff" * 8 + raw[magic + 8 :])
    code, text, _ = run("verify", tmp_path / "longer")
    assert code == FAULT and text.startswith("FAULT at height 5, database: ") and "cut short" in text
    (tmp_path / "shorter").write_bytes(raw[:magic] + (3).to_bytes(8, "big") + raw[magic + 8 :])
    code, text, _ = run("verify", tmp_path / "shorter")
    assert code == FAULT and "something after its last block" in text
    (tmp_path / "huge").write_bytes(raw[: magic + 8] + b"\xff" * 4)
    code, text, errors = run("verify", tmp_path / "huge")
    assert code == 1 and "is damaged near byte" in errors


def test_an_export_that_fails_leaves_no_file(chain: Chain, tmp_path: Path) -> None:
    store = LevelStore(tmp_path / "chain")
    store.write({b"b" + (3).to_bytes(8, "big"): None})
    store.close()
    code, _, errors = run("export", tmp_path / "out", "-d", tmp_path)
    assert code == 1 and "block 3 is missing" in errors
    assert not (tmp_path / "out").exists()


def test_a_trusted_genesis_is_compared(chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(Chain(name="other").genesis.to_json())
    run("export", tmp_path / "out", "-d", tmp_path)
    for target in (tmp_path, tmp_path / "out"):
        assert run("verify", target, "--genesis", tmp_path / "genesis.json")[0] == 0
        code, text, errors = run("verify", target, "--genesis", tmp_path / "other.json")
        assert (code, text) == (1, "") and "the chain is 'test'" in errors and "'other'" in errors


HOLDER = """
import sys
from pathlib import Path
from chain.store.kv import LevelStore
store = LevelStore(Path(sys.argv[1]), create=False)
print("open", flush=True)
sys.stdin.read()
"""


def test_a_database_that_a_node_has_open(chain: Chain, tmp_path: Path) -> None:
    """Every command says so while that node is not ready, and what to do."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "chain")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as node:
        assert node.stdout is not None and node.stdout.readline() == b"open\n"
        for arguments in (
            ("verify", tmp_path),
            ("show", "-d", tmp_path),
            ("account", format_address(chain.users[0].public_key), "-d", tmp_path),
            ("export", tmp_path / "out", "-d", tmp_path),
            ("checkpoint", "-d", tmp_path),
            ("prove", "balance", STRANGER, "-d", tmp_path),
            ("prove", "operation", "00" * 32, "-d", tmp_path),
        ):
            code, text, errors = run(*arguments)
            assert (code, text) == (1, "") and errors.count("\n") == 1
            assert "is in use by another process; the node that runs there does not lend its ledger yet" in errors
        assert node.stdin is not None
        node.stdin.close()
    assert run("verify", tmp_path)[0] == 0


def test_a_damaged_database(chain: Chain, tmp_path: Path) -> None:
    (log,) = (tmp_path / "chain").glob("*.log")
    raw = bytearray(log.read_bytes())
    raw[100] ^= 1
    log.write_bytes(raw)
    for arguments in (("verify", tmp_path), ("show", "-d", tmp_path)):
        code, text, errors = run(*arguments)
        assert (code, text) == (FAULT, "") and errors.startswith("error: ") and "is damaged" in errors
        assert errors.endswith(f"; {REPAIR}\n")


def test_wrong_command_lines_exit_with_2(tmp_path: Path) -> None:
    for arguments in (
        ("verify", "--no-such-option"),
        ("no-such-command",),
        ("account",),
        ("export",),
        ("prove", "balance"),
        ("prove", "nothing"),
        ("check-proof", "file"),
    ):
        code, _, errors = run(*arguments)
        assert code == 2 and "Usage" in errors and "Traceback" not in errors
    for command in ("verify", "show", "account", "export", "checkpoint", "prove", "prove balance", "check-proof"):
        code, text, _ = run(*command.split(), "--help")
        assert code == 0 and "Usage" in text


def test_a_new_chain_can_be_shown_and_verified(tmp_path: Path) -> None:
    chain = Chain()
    store = LevelStore(tmp_path / "chain")
    ChainStore(store, chain.genesis)
    store.close()
    for arguments in (("show", "-d", tmp_path), ("show", "0", "-d", tmp_path)):
        block = json.loads(run(*arguments)[1])
        assert block["id"] == chain.genesis.header.id.hex() and block["operations"] == []
    code, text, _ = run("verify", tmp_path)
    assert code == 0 and "height       0" in text
    assert run("show", "1", "-d", tmp_path)[0] == 1


def test_every_kind_of_operation_can_be_shown_and_the_draws_are_reported(tmp_path: Path) -> None:
    chain, finals = make_busy_chain(24)
    store = LevelStore(tmp_path / "chain")
    fill_store(store, chain, finals)
    store.close()
    kinds = set()
    for block in chain.blocks:
        code, text, _ = run("show", str(block.height), "-d", tmp_path, "--json")
        shown = json.loads(text)
        assert code == 0 and shown["header"]["height"] == block.height
        ends = {*finals, *range(4, 25, 4)}  # that of an epoch has a certificate of its own
        assert shown["final_by"]["height"] == min(height for height in ends if height >= block.height)
        kinds |= {operation["kind"] for operation in shown["operations"]}
        assert [operation["id"] for operation in shown["operations"]] == [o.id.hex() for o in block.body.operations]
    assert kinds == {
        "transfer", "bond", "unbond", "withdraw", "serve", "hold", "capture", "release", "dispute",
        "enroll", "retire", "unjail", "recommit", "evidence",
    }  # fmt: skip
    code, text, _ = run("verify", tmp_path)
    assert code == 0 and "each to its drawn executor" in text
    assert format_address(chain.users[1].public_key) in text
    report = json.loads(run("verify", tmp_path, "--json")[1])
    assert report["payers"][format_address(chain.users[1].public_key)]["skipped_draws"] == 4
    code, text, _ = run("account", format_address(chain.users[0].public_key), "-d", tmp_path)
    assert code == 0 and format_credits(chain.account(chain.users[0]).available) in text


def test_a_balance_is_proven_and_checked(chain: Chain, tmp_path: Path) -> None:
    user = chain.users[1]
    address = format_address(user.public_key)
    code, text, errors = run("prove", "balance", address, "-d", tmp_path, "-o", tmp_path / "proof")
    assert (code, errors) == (0, "") and f"chain check-proof {tmp_path / 'proof'} --genesis" in text
    code, text, errors = run("check-proof", tmp_path / "proof", "--genesis", tmp_path / "genesis.json")
    assert (code, errors) == (0, "")
    assert text.startswith(f"ok: {address} has {format_credits(chain.account(user).total)} credits after block 4 (")
    assert format_time(chain.head.timestamp) in text and format_credits(chain.account(user).bonded) in text
    assert "100 % of the stake of epoch 0 at height 4" in text and chain.head.id.hex() in text
    assert f"height 0 ({format_time(START)}), older than that by 0 epochs or 4 s" in text
    code, text, _ = run("check-proof", tmp_path / "proof", "--genesis", tmp_path / "genesis.json", "--json")
    report = json.loads(text)
    assert code == 0 and report["ok"] and report["fault"] is None
    assert report["account"]["address"] == address and report["account"]["exists"]
    assert report["account"]["bonded"] == 5_000 and report["height"] == 4
    assert (report["share"], report["smallest_share"]) == (1, 1)
    assert report["checkpoint"]["height"] == 0 and report["checkpoint"]["ms_before"] == 4_000
    code, text, _ = run("prove", "balance", address, "-d", tmp_path)
    assert text == (tmp_path / "proof").read_text(), "printed where no file is named"


def test_that_there_is_no_account(chain: Chain, tmp_path: Path) -> None:
    run("prove", "balance", STRANGER, "-d", tmp_path, "-o", tmp_path / "proof")
    code, text, _ = run("check-proof", tmp_path / "proof", "--genesis", tmp_path / "genesis.json")
    assert code == 0 and text.startswith(f"ok: {STRANGER} has no account and no credits after block 4")
    code, text, _ = run("check-proof", tmp_path / "proof", "--genesis", tmp_path / "genesis.json", "--json")
    assert not json.loads(text)["account"]["exists"] and json.loads(text)["account"]["available"] == 0


def test_operations_are_proven_from_a_checkpoint(chain: Chain, tmp_path: Path) -> None:
    code, text, _ = run("checkpoint", "-d", tmp_path)
    checkpoint = text.strip()
    assert code == 0 and checkpoint == f"4:{chain.head.id.hex()}"
    code, text, _ = run("checkpoint", "-d", tmp_path, "--json")
    assert json.loads(text) == {
        "checkpoint": checkpoint,
        "height": 4,
        "block_id": chain.head.id.hex(),
        "epoch": 0,
        "timestamp": chain.head.timestamp,
    }
    options = ("--genesis", tmp_path / "genesis.json", "--checkpoint", checkpoint)
    for height, kind, effect in ((1, "transfer", "not shown"), (2, "transfer", "not shown"), (3, "hold", "succeeded")):
        operation = chain.blocks[height - 1].body.operations[0]
        file = tmp_path / f"proof {height}"
        code, text, _ = run("prove", "operation", operation.id.hex(), "-d", tmp_path, *options[2:], "-o", file)
        assert code == 0 and f"--checkpoint {checkpoint}" in text
        code, text, _ = run("check-proof", file, *options)
        assert code == 0 and text.startswith(f"ok: {kind} {operation.id.hex()} is in block {height} (")
        assert effect in text and format_address(operation.signer) in text
        assert "  the checkpoint\n" in text and "older than" not in text
        code, text, _ = run("check-proof", file, *options, "--json")
        report = json.loads(text)
        assert (report["height"], report["index"], report["share"]) == (height, 0, None)
        assert report["operation"]["id"] == operation.id.hex() and report["shows_effect"] == (kind == "hold")
        code, text, _ = run("check-proof", file, *options[:2])
        assert (
            code == NOT_PROVEN and text.startswith("REFUSED: the proof starts from block 4") and text.count("\n") == 1
        )


def test_a_proof_from_an_export_or_a_node_is_that_of_the_directory(chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(Chain(name="other").genesis.to_json())
    run("export", tmp_path / "out", "-d", tmp_path)
    operation = chain.blocks[0].body.operations[0].id.hex()

    def open_remote(address: str, genesis: Path | None, proxy: str | None) -> ChainSource:
        return ExportSource(tmp_path / "out")

    remote = build_app(open_remote)
    for what in (("balance", STRANGER), ("operation", operation)):
        code, proof, _ = run("prove", *what, "-d", tmp_path)
        assert code == 0 and proof.startswith("-----BEGIN")
        for target in (tmp_path, tmp_path / "out"):
            assert run("prove", *what, "-d", target, "--genesis", tmp_path / "genesis.json") == (0, proof, "")
            code, text, errors = run("prove", *what, "-d", target, "--genesis", tmp_path / "other.json")
            assert (code, text) == (1, "") and errors.startswith("error: the ") and "'other'" in errors
        result = CliRunner().invoke(remote, ["prove", *what, "-d", "/ip4/127.0.0.1/tcp/1/p2p/12D3KooW"])
        assert (result.exit_code, result.stdout) == (0, proof)


@pytest.mark.parametrize("signer", [63, 1 << 40])
def test_a_proof_from_an_export_that_lies_about_its_signers(chain: Chain, tmp_path: Path, signer: int) -> None:
    first, second = chain.blocks[:2]
    certificate = second.body.parent_certificate
    assert certificate is not None
    forged = replace(certificate, signers=(*certificate.signers[:-1], signer))
    body = replace(second.body, parent_certificate=forged)
    block = sign_block(chain.leader(2), replace(second.header, body_root=body.root), body)
    with ExportWriter(tmp_path / "out", chain.genesis) as writer:
        writer.add(first.encoded, chain.finality(first).encode())
        writer.add(block.encoded, chain.finality(block).encode())
    for command in (("verify", tmp_path / "out"), ("prove", "balance", STRANGER, "-d", tmp_path / "out")):
        code, text, errors = run(*command)
        assert code in (1, FAULT) and f"signer {signer} is outside" in text + errors


def test_a_refused_proof(chain: Chain, tmp_path: Path) -> None:
    genesis = ("--genesis", tmp_path / "genesis.json")
    _, proof, _ = run("prove", "balance", STRANGER, "-d", tmp_path)
    for content, message in ((proof[:-30], "cut short"), ("hello", "not a proof"), ("\xff\0", "not a proof")):
        (tmp_path / "proof").write_text(content, encoding="latin1")
        code, text, errors = run("check-proof", tmp_path / "proof", *genesis)
        assert (code, errors) == (NOT_PROVEN, "") and text.startswith("REFUSED: ") and message in text
        code, text, _ = run("check-proof", tmp_path / "proof", *genesis, "--json")
        assert code == NOT_PROVEN and not json.loads(text)["ok"] and message in json.loads(text)["fault"]
    (tmp_path / "other.json").write_text(Chain(name="other").genesis.to_json())
    result = CliRunner().invoke(APP, ["check-proof", "-", "--genesis", str(tmp_path / "other.json")], input=proof)
    assert result.exit_code == NOT_PROVEN and result.stdout.startswith("REFUSED: the proof starts from block 0")
    result = CliRunner().invoke(APP, ["check-proof", "-", *map(str, genesis)], input=proof)
    assert result.exit_code == 0 and result.stdout.startswith("ok: ")


def test_an_old_checkpoint_is_refused_with_the_reason(tmp_path: Path) -> None:
    chain = Chain()
    chain.append_epochs(4)
    store = LevelStore(tmp_path / "chain")
    fill_store(store, chain, {block.height: chain.finality(block) for block in chain.blocks})
    store.close()
    code, text, errors = run("prove", "balance", STRANGER, "-d", tmp_path)
    assert (code, text) == (1, "") and errors.startswith(
        "error: the checkpoint at height 0 is too old, 3 epochs before"
    )
    since = f"5:{chain.blocks[4].id.hex()}"
    assert run("prove", "balance", STRANGER, "-d", tmp_path, "--checkpoint", since)[0] == 0


def test_times_are_printed_by_their_largest_units() -> None:
    assert format_time(1_700_000_000_999) == "2023-11-14 22:13:20 UTC"
    assert format_time(2**63 - 1) == f"{2**63 - 1} ms"
    durations = {0: "0 s", 59_999: "59 s", 60_000: "1 min 0 s", 3_600_000: "1 h", 3_723_000: "1 h 2 min"}
    durations |= {90_000_000: "1 d 1 h", 86_400_000 * 2000: "2,000 d"}
    assert {ms: format_duration(ms) for ms in durations} == durations


def test_credits_are_printed_exactly() -> None:
    assert format_credits(0) == "0.000000"
    assert format_credits(2**63 - 1) == "9,223,372,036,854.775807"
    assert format_credits(-1) == "-0.000001"
    assert format_credits(1_234_567_890) == "1,234.567890"


def test_a_running_node_is_audited_through_the_callable() -> None:
    chain = make_chain()
    asked = []

    def open_remote(address: str, genesis: Path | None, proxy: str | None) -> ChainSource:
        asked.append((address, genesis, proxy))
        if genesis is None:
            raise StoreError("no genesis")
        store = MemoryStore()
        append(ChainStore(store, chain.genesis), chain, 4)
        return StoreSource(store)

    address = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooW"
    assert run_cli(build_app(open_remote), "verify", address, "--genesis", "file").code == 0
    assert asked == [(address, Path("file"), None)]
    CliRunner().invoke(build_app(open_remote), ["verify", address, "--socks5", "127.0.0.1:9050", "--genesis", "file"])
    assert asked[1:] == [(address, Path("file"), "127.0.0.1:9050")]
    result = run_cli(build_app(open_remote), "verify", address)
    assert result == (1, "", "error: no genesis\n")


def test_the_real_command(chain: Chain, tmp_path: Path) -> None:
    def execute(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from chain.cli.app import main; main()", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    fine = execute("verify", str(tmp_path), "--json")
    assert fine.returncode == 0 and json.loads(fine.stdout)["ok"] and fine.stderr == ""
    wrong = execute("verify", str(tmp_path / "nothing"))
    assert wrong.returncode == 1 and wrong.stdout == ""
    assert wrong.stderr.startswith("error: no chain in ") and wrong.stderr.count("\n") == 1


EVIL = "\x1b[2J\x1b]0;owned\x07\u202e\nforged line"


def is_shown_safely(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text) and "\nforged" not in text


def test_names_and_reasons_of_others_are_not_obeyed_by_the_terminal(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = LevelStore(tmp_path / "chain")
    report = audit_chain(StoreSource(store), threads=1)
    store.close()
    for shown in (
        replace(report, name=EVIL),
        replace(report, name=EVIL, doubt=EVIL),
        replace(report, name=EVIL, fault=Fault(3, EVIL, EVIL)),
    ):
        print_lines(describe_report(shown))
        assert is_shown_safely(capsys.readouterr().out)
    print_lines(format_rows(account_to_rows(Account(models=(EVIL, "honest")))))
    assert is_shown_safely(capsys.readouterr().out)
    print_lines(json.dumps({"models": [EVIL]}, indent=2, ensure_ascii=False))
    text = capsys.readouterr().out
    assert is_shown_safely(text) and json.loads(text) == {"models": [EVIL]}
    print_line(f"error: {EVIL}", to_stderr=True)
    assert is_shown_safely(capsys.readouterr().err)


def test_commands_print_by_nothing_else() -> None:
    """All that a command prints is escaped, because none of them calls ``print``."""
    modules = [*(ROOT / "chain" / "cli").glob("*.py"), *(ROOT / "serving" / "cli").glob("*.py")]
    assert len(modules) > 10
    for module in modules:
        calls = [node.func for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]
        names = {call.id for call in calls if isinstance(call, ast.Name)}
        assert "print" not in names or module.name in ("contract.py", "text.py"), module
