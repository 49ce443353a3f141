"""``chain prove`` and ``chain check-proof``."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from chain.audit.proof_builder import prove_balance, prove_operation
from chain.cli.contract import ExitCode, print_result
from chain.cli.format import describe_proof, proof_to_plain
from chain.cli.options import AccountAddress, AsJson, Output, Place, Proxy, Since, TrustedGenesis
from chain.cli.places import OpenRemote, open_chain, parse_checkpoint
from chain.cli.text import print_line, print_lines
from chain.cli.tree import Entry, build_group
from chain.crypto import parse_address
from chain.exceptions import ProofError
from chain.genesis import load_genesis
from chain.light.client import Checkpoint
from chain.light.proofs import MAX_PROOF_BYTES, Proof, VerifiedProof, check_proof, format_proof, parse_proof


def build_prove_app(open_remote: OpenRemote | None) -> typer.Typer:
    """The commands of ``chain prove``."""

    def balance(
        address: AccountAddress,
        data_dir: Place = None,
        genesis: TrustedGenesis = None,
        checkpoint: Since = None,
        socks5: Proxy = None,
        output: Output = None,
        as_json: AsJson = False,
    ) -> None:
        """Prove what an account has after the last final block, or that there is no such account."""
        key, since = parse_address(address), parse_checkpoint(checkpoint)
        with open_chain(data_dir, genesis, open_remote, socks5, output) as chain:
            _hand_out(prove_balance(chain, key, since), since, output, as_json)

    def operation(
        operation_id: Annotated[str, typer.Argument(help="Id of the operation (64 hexadecimal digits).")],
        data_dir: Place = None,
        genesis: TrustedGenesis = None,
        checkpoint: Since = None,
        socks5: Proxy = None,
        output: Output = None,
        as_json: AsJson = False,
    ) -> None:
        """Prove that a final block has an operation."""
        wanted, since = _parse_operation_id(operation_id), parse_checkpoint(checkpoint)
        with open_chain(data_dir, genesis, open_remote, socks5, output) as chain:
            _hand_out(prove_operation(chain, wanted, since), since, output, as_json)

    entries = {
        "balance": Entry(
            "Prove what an account has after the last final block, or that there is no such account.",
            lambda: balance,
            ("chain prove balance ADDRESS -o FILE",),
        ),
        "operation": Entry(
            "Prove that a final block has an operation.", lambda: operation, ("chain prove operation ID",)
        ),
    }
    return build_group(entries, "Write a proof that anyone can check with the genesis file and a checkpoint.")


def check_proof_file(
    file: Annotated[Path, typer.Argument(help="File with the proof ('-': standard input).", allow_dash=True)],
    genesis: Annotated[Path, typer.Option(help="Genesis file of the chain.")],
    checkpoint: Since = None,
    as_json: AsJson = False,
) -> None:
    """Check a proof, trusting nothing but the genesis file and the checkpoint.

    Exit code: 0 it shows what it claims, 6 it does not.
    """
    trusted, since = load_genesis(genesis), parse_checkpoint(checkpoint)
    with nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb") as stream:
        raw = stream.read(2 * MAX_PROOF_BYTES + 1)
    verified: VerifiedProof | None = None
    fault: str | None = None
    try:
        verified = check_proof(trusted, since, parse_proof(raw.decode("utf-8", errors="replace")))
    except ProofError as error:
        fault = str(error)
    if as_json:
        content = {} if verified is None else proof_to_plain(trusted, verified)
        print_line(json.dumps({"ok": fault is None, "fault": fault, **content}))
    elif verified is None:
        print_line(f"REFUSED: {fault}")
    else:
        print_lines(describe_proof(trusted, verified))
    raise typer.Exit(ExitCode.OK if fault is None else ExitCode.NOT_PROVEN)


def _parse_operation_id(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise ProofError(f"{text!r} is not the id of an operation (64 hexadecimal digits)")
    return raw


def _hand_out(proof: Proof, checkpoint: Checkpoint | None, output: Path | None, as_json: bool) -> None:
    """Write a proof to a file, or else print it."""
    text = format_proof(proof)
    since = None if checkpoint is None else str(checkpoint)
    if output is None:
        print_result({"proof": text, "checkpoint": since}, as_json, text.removesuffix("\n"))
        return
    with output.open("x", encoding="ascii") as file:
        file.write(text)
    option = "" if since is None else f" --checkpoint {since}"
    print_result(
        {"file": str(output), "checkpoint": since},
        as_json,
        f"proof written to {output}; check it with: chain check-proof {output} --genesis GENESIS-FILE{option}",
    )
