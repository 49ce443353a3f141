"""``chain restart``: how validators restart a chain that has lost its quorum, by propose, sign, show and apply.

The commands work on the data directory of a node that is stopped. :mod:`chain.transition.restart` says what a restart
is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from chain.cli.contract import CommandError, print_result
from chain.cli.options import AsJson, DataDir
from chain.cli.tree import Entry, build_group
from chain.crypto import KeyPair, format_address, parse_address
from chain.exceptions import KeyFormatError, RestartError
from chain.transition.block import state_transition, verify_finality
from chain.transition.epochs import Epoch, get_next_epoch
from chain.transition.restart_file import RestartFile, accept, build_restart
from chain.types.votes import is_slashable
from consensus.voting.disk import NodeStorage
from consensus.voting.vote_store import VoteStore
from p2p.runtime import RealRuntime

OpenStoppedNode = Callable[[Path | None], AbstractContextManager[tuple[NodeStorage, KeyPair]]]
"""Opens the data directory of a stopped node; see :func:`serving.cli.ledger.stopped_node.open_stopped_node`."""
ReplaceGenesis = Callable[[Path | None, str], None]
"""Puts another genesis file into a data directory; see :func:`serving.cli.ledger.stopped_node.replace_genesis`."""

File = Annotated[Path, typer.Argument(help="The restart file.")]


def build_restart_app(open_stopped_node: OpenStoppedNode, replace_genesis: ReplaceGenesis) -> typer.Typer:
    """The commands of ``chain restart``."""
    commands = _RestartCommands(open_stopped_node, replace_genesis)
    entries = {
        "propose": Entry(
            "Write a restart file, signed by this node's key. Do it where the chain is longest.",
            lambda: commands.propose,
            ("chain restart propose FILE --remove ADDRESS",),
        ),
        "sign": Entry(
            "Add this validator's vote to a restart file. Signing two different restarts can be punished.",
            lambda: commands.sign,
            ("chain restart sign FILE",),
        ),
        "show": Entry(
            "Say what a restart file would do to the chain in a data directory, and who has signed it.",
            lambda: commands.show,
            ("chain restart show FILE",),
        ),
        "apply": Entry(
            "Go on from a restart file that enough validators have signed. Every node must apply the same.",
            lambda: commands.apply,
            ("chain restart apply FILE --yes",),
        ),
    }
    return build_group(
        entries, "Go on without validators that are gone for good, if they held too much stake for a quorum."
    )


@dataclass(frozen=True, slots=True)
class _RestartCommands:
    open_stopped_node: OpenStoppedNode
    replace_genesis: ReplaceGenesis

    def propose(
        self,
        file: File,
        remove: Annotated[list[str], typer.Option(help="Address of a validator to strike off; once for each.")],
        data_dir: DataDir = None,
        as_json: AsJson = False,
    ) -> None:
        """Write a restart file, signed by this node's key. Do it where the chain is longest."""
        if file.exists():
            raise CommandError(f"{file} exists already; name another file")
        try:
            removed = [parse_address(address) for address in remove]
        except KeyFormatError as error:
            raise CommandError(f"--remove: {error}") from error
        with self.open_stopped_node(data_dir) as (opened, key):
            blocks, vote_store = opened.blocks, _get_voting(opened)
            now = RealRuntime().now()
            proposal = build_restart(blocks.genesis, key, blocks.header, blocks.state, removed, now)
            signed = _sign(file, proposal, key, vote_store)
            content, lines = _describe(signed, opened)
        print_result(content, as_json, *lines, f"hand {file} to the others: wwwserve chain restart sign {file}")

    def sign(self, file: File, data_dir: DataDir = None, as_json: AsJson = False) -> None:
        """Add this validator's vote to a restart file. Signing two different restarts can be punished."""
        content = _read(file)
        with self.open_stopped_node(data_dir) as (opened, key):
            epoch = content.check(opened.blocks.genesis, opened.blocks.header, opened.blocks.state)
            # All later blocks would have to be later still.
            ahead = content.block.header.timestamp - RealRuntime().now()
            if ahead > opened.blocks.genesis.parameters.timestamp_drift_ms:
                raise RestartError(f"the restart is dated {ahead / 1000:,.0f} s ahead of the clock here")
            if key.public_key not in epoch.validators:
                raise RestartError("the key here is none of the validators that remain")
            signed = _sign(file, content, key, _get_voting(opened))
            found, lines = _describe(signed, opened)
        print_result(found, as_json, *lines)

    def show(self, file: File, data_dir: DataDir = None, as_json: AsJson = False) -> None:
        """Say what a restart file would do to the chain in a data directory, and who has signed it."""
        content = _read(file)
        with self.open_stopped_node(data_dir) as (opened, _):
            content.check(opened.blocks.genesis, opened.blocks.header, opened.blocks.state)
            found, lines = _describe(content, opened)
        print_result(found, as_json, *lines)

    def apply(
        self,
        file: File,
        data_dir: DataDir = None,
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Go on from a restart file that enough validators have signed. Every node must apply the same."""
        content = _read(file)
        with self.open_stopped_node(data_dir) as (opened, _):
            blocks = opened.blocks
            if blocks.height_of_block(content.block.id) is not None:
                raise CommandError("this restart was applied already; start the node")
            epoch = content.check(blocks.genesis, blocks.header, blocks.state)
            found, lines = _describe(content, opened)
            if not as_json:
                print_result(found, as_json, *lines)
            certificate = content.find_certificate(epoch)
            if certificate is None:
                raise RestartError("not signed by more than 2/3 of the stake that remains; have the others sign it too")
            if not yes and as_json:
                raise CommandError("this asks before it goes on, and cannot ask with --json; add --yes")
            if not yes:
                typer.confirm("Trust those who signed, and go on from here?", abort=True)
            # Everything is checked before anything is written: a node cannot start from half a restart.
            transition = state_transition(
                accept(blocks.genesis, content.block.id), blocks.header, blocks.state, content.block
            )
            verify_finality(blocks.genesis, epoch.validators, content.block.header, certificate)
            genesis = blocks.accept_restart(content.block.id)
            self.replace_genesis(data_dir, genesis.to_json())
            journal = None if opened.vote_store is None else opened.vote_store.journal
            mark = None if journal is None else (journal.length, journal.head_hash)
            blocks.append([(content.block, transition)], certificate, mark)
        print_result(
            found,
            as_json,
            "restarted; the genesis file names it, and is what newcomers need. Start the node with: wwwserve run",
        )


def _read(file: Path) -> RestartFile:
    try:
        return RestartFile.read(file.read_bytes())
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from error


def _write(file: Path, content: RestartFile) -> None:
    try:
        file.write_bytes(content.encode())
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror}") from error


def _get_voting(opened: NodeStorage) -> VoteStore:
    if opened.vote_store is None or not opened.vote_store.lockout.may_vote(opened.blocks.state.beacon.epoch):
        raise CommandError("this node may not vote yet, because its vote journal was lost: it cannot sign")
    return opened.vote_store


def _sign(file: Path, content: RestartFile, key: KeyPair, vote_store: VoteStore) -> RestartFile:
    """Vote for a restart: durably in the journal before in the file, so that a second restart is refused."""
    vote = content.make_vote(key)
    earlier = vote_store.journal.votes(vote.epoch)
    if any(is_slashable(other, vote) for other in earlier):
        raise RestartError("this validator signed another restart of the same block; signing two can be punished")
    _write(
        file, content
    )  # first without the vote: a vote in the journal for a file that cannot be written binds for good
    if vote not in earlier:
        vote_store.persist(vote, None)
    signed = content.add(vote)
    _write(file, signed)
    return signed


def _describe(file: RestartFile, opened: NodeStorage) -> tuple[dict[str, Any], list[str]]:
    """What a restart would do, as JSON and as lines for people."""
    before: Epoch = get_next_epoch(opened.blocks.genesis, opened.blocks.state)
    after = file.check(opened.blocks.genesis, opened.blocks.header, opened.blocks.state).validators
    signed = after.get_stake(vote.signer for vote in file.votes) / after.total_stake
    remain = after.total_stake / before.validators.total_stake
    removed = [format_address(key) for key in file.block.body.removed]
    signers = [format_address(vote.signer) for vote in file.votes]
    content = {
        "height": file.block.height,
        "block_id": file.block.id.hex(),
        "parent_id": file.block.header.parent_id.hex(),
        "removed": removed,
        "remaining_validators": len(after),
        "remaining_share": remain,
        "signers": signers,
        "signed_share": signed,
    }
    return content, [
        f"restart    block {file.block.height} ({file.block.id.hex()})",
        f"on         block {file.block.height - 1} ({file.block.header.parent_id.hex()})",
        *(f"without    {address}" for address in removed),
        f"remain     {len(after)} validators with {remain:.1%} of the stake",
        *(f"signed by  {address}" for address in signers),
        f"signed     {signed:.1%} of the stake that remains (more than 66.7% are needed)",
    ]
