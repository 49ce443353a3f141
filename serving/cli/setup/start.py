"""``wwwserve run`` and ``demo``, and the making of a data directory."""

from __future__ import annotations

import secrets
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import structlog
import trio
import typer

from chain.cli.contract import CommandError
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.crypto import KeyPair
from chain.genesis import MAX_CHAIN_NAME_BYTES, Genesis, load_genesis, make_genesis, make_validator
from chain.keyfile import create_identity
from chain.light.client import Checkpoint
from chain.parameters.check_economics import check_checks
from chain.parameters.duel_economics import check_duels
from chain.parameters.parameters import CREDIT, choose_parameters
from consensus.voting.disk import JOURNAL_FILE
from consensus.voting.journal import Journal
from p2p.addresses import parse_proxy
from p2p.runtime import RealRuntime
from serving.cli.ledger.stopped_node import get_passphrase, load_key, load_own_genesis
from serving.config.data_directory import (
    CONFIG_FILE,
    GENESIS_FILE,
    KEY_FILE,
    create_private,
    lock_data_dir,
    make_data_dir,
)
from serving.config.file import load_config, write_default_config
from serving.config.schema import ApiKeyConfig, NodeConfig
from serving.config.start_note import end_start, note_start
from serving.keys.records import make_secret

log = structlog.get_logger(__name__)

DEFAULTS = NodeConfig()
"""The configuration of a node that is made without a word about it."""
DuelRate = Annotated[
    int,
    typer.Option(
        min=0,
        max=1_000,
        help="Of 1,000 paid answers on the new chain, how many are answered again and judged. Below 50, fines and "
        "bonds rise as duels get rarer.",
    ),
]
"""The option ``--duel-rate`` of the commands that make a chain."""

RunNode = Callable[..., Awaitable[None]]
"""Runs the node in a data directory, with its configuration, key and genesis, until it is told to stop. ``as_json``:
say as JSON that it is ready; ``stop_with_stdin``: stop when standard input ends, too."""


def make_run(load_run_node: Callable[[], RunNode]) -> Callable[..., None]:
    """The command ``run``; ``load_run_node`` imports what it runs."""

    def run(
        data_dir: DataDir = None,
        anonymous: Annotated[
            bool, typer.Option("--anonymous", help="Listen nowhere and connect to the bootstrap peers alone.")
        ] = False,
        socks5: Annotated[
            str | None, typer.Option(metavar="HOST:PORT", help="Dial every peer through this proxy.")
        ] = None,
        vllm: Annotated[
            str | None, typer.Option("--vllm", metavar="MODEL", help="Run 'vllm serve MODEL' and share it.")
        ] = None,
        llama_cpp: Annotated[
            str | None, typer.Option("--llama-cpp", metavar="MODEL", help="The same with 'llama-server'.")
        ] = None,
        arguments: Annotated[list[str] | None, typer.Argument(help="After --: more arguments of that server.")] = None,
        stop_with_stdin: Annotated[
            bool, typer.Option("--stop-with-stdin", help="Stop when standard input ends, as with its writer.")
        ] = False,
        as_json: AsJson = False,
    ) -> None:
        """Run the node in a data directory until it is stopped."""
        from serving.backends.embedded import end_process
        from serving.cli.setup.init import init, is_terminal
        from serving.cli.setup.own_server import add_llama_cpp, add_vllm
        from serving.logs.console import configure_logs
        from serving.logs.file import LogFile

        directory = data_dir or get_default_data_dir()
        if not (directory / KEY_FILE).exists():
            if any((directory / name).exists() for name in (GENESIS_FILE, JOURNAL_FILE)):
                raise CommandError(f"the key of the node in {directory} is gone: put '{KEY_FILE}' back from a backup")
            if not is_terminal(as_json):
                raise CommandError(f"no node in {directory}; make one with: wwwserve init -d {directory}")
            typer.confirm(f"There is no node in {directory}. Make one?", default=True, abort=True)
            init(directory)
        config = load_config(directory / CONFIG_FILE)
        if socks5 is not None:
            try:
                parse_proxy(socks5)
            except ValueError as error:
                raise CommandError(f"--socks5: {error}") from None
            config = config.model_copy(update={"socks5": socks5})
        if anonymous or config.anonymous:
            config = config.as_anonymous()
        if vllm is not None and llama_cpp is not None:
            raise CommandError("--vllm and --llama-cpp: choose one, and put other servers into config.yaml")
        if vllm is not None:
            config = add_vllm(config, vllm, arguments or ())
        elif llama_cpp is not None:
            config = add_llama_cpp(config, llama_cpp, arguments or ())
        elif arguments:
            raise CommandError(f"{arguments[0]!r}: arguments of a server go with --vllm or --llama-cpp")
        configure_logs(config.log.level, config.log.format)
        genesis = load_own_genesis(directory)
        key = load_key(directory / KEY_FILE)
        with lock_data_dir(directory) as was_open:
            if config.log.file_mib:
                file = LogFile(directory, config.log.file_mib << 20)
                configure_logs(config.log.level, config.log.format, file)
            if was_open:
                log.warning("the data directory was open to other users, and is closed now", directory=str(directory))
            given = {
                name: True for name, value in (("as_json", as_json), ("stop_with_stdin", stop_with_stdin)) if value
            }
            note_start(directory, "loading its program")
            try:
                trio.run(partial(load_run_node(), **given), directory, config, key, genesis)
            finally:
                end_start(directory)
        end_process()

    return run


def create_node(
    directory: Path,
    genesis: Path | Genesis | None,
    new_chain: str | None,
    duel_rate: int = 0,
    checkpoint: str | None = None,
    api_key: bool = False,
    config: NodeConfig = DEFAULTS,
) -> tuple[dict[str, Any], list[str]]:
    """Make a data directory, of the chain in a genesis file or in a genesis. Returns what was made, as JSON and as
    lines for people. ``config`` says what else than the checkpoint and the key of the API differs from the defaults.

    Raises:
        CommandError: the arguments contradict each other, or it cannot be written.
        GenesisError: there is no such chain.
    """
    if (genesis is None) == (new_chain is None):
        raise CommandError("say which chain: --genesis FILE to join one, or --new-chain NAME to begin one")
    if new_chain is not None and not 1 <= len(new_chain.encode()) <= MAX_CHAIN_NAME_BYTES:
        raise CommandError(f"--new-chain: a name has 1 to {MAX_CHAIN_NAME_BYTES} bytes")
    if duel_rate and new_chain is None:
        raise CommandError("the chain that you join says how many duels there are: --duel-rate goes with --new-chain")
    if checkpoint is not None:
        if new_chain is not None:
            raise CommandError("a new chain has no block yet: --checkpoint goes with --genesis")
        try:
            Checkpoint.parse(checkpoint)
        except ValueError as error:
            raise CommandError(f"--checkpoint: {error}") from None
    check_is_new(directory)
    joined = load_genesis(genesis) if isinstance(genesis, Path) else genesis
    parameters = choose_parameters(duel_rate)
    check_duels(parameters)
    check_checks(parameters)
    try:
        make_data_dir(directory)
        with create_private():
            secret = make_secret() if api_key else None
            keys = () if secret is None else (ApiKeyConfig(key=secret),)
            config = config.model_copy(
                update={"checkpoint": checkpoint, "api": config.api.model_copy(update={"keys": keys})}
            )
            key = create_identity(directory / KEY_FILE, get_passphrase())
            if joined is None:
                beacon = secrets.token_bytes(32)
                account = make_validator(key, beacon, parameters, 10_000 * CREDIT, 1_000 * CREDIT)
                joined = make_genesis(new_chain or "", RealRuntime().now(), beacon, [account], parameters)
            write_node(directory, key, joined, config)
    except OSError as error:
        raise CommandError(f"cannot write {directory}: {error.strerror}; choose another directory with -d") from error
    file = directory / CONFIG_FILE
    content = {
        "address": key.address,
        "chain": joined.name,
        "chain_id": joined.chain_id.hex(),
        "directory": str(directory),
        **({} if secret is None else {"api_key": secret}),
    }
    return content, [
        f"address  {key.address}",
        f"chain    {joined.name} ({joined.chain_id.hex()[:8]})",
        *(() if secret is None else (f"api key  {secret}  (kept in {file})",)),
        f"edit {file}, then start the node with: wwwserve run -d {directory}",
    ]


def check_is_new(directory: Path) -> None:
    """Check that there is no node in a directory.

    Raises:
        CommandError: there is, or a part of one.
    """
    for name in (KEY_FILE, GENESIS_FILE, CONFIG_FILE):
        if (directory / name).exists():
            raise CommandError(f"{directory / name} exists already; choose another directory with -d")


def write_node(directory: Path, key: KeyPair, genesis: Genesis, config: NodeConfig) -> None:
    """Write the files of a new node beside its key: genesis, configuration, and a journal without votes.

    Raises:
        OSError: one cannot be written.
    """
    (directory / GENESIS_FILE).write_text(genesis.to_json(), encoding="utf-8")
    write_default_config(directory / CONFIG_FILE, config)
    Journal.open(directory / JOURNAL_FILE, genesis.chain_id, key.public_key).close()


def demo(
    once: Annotated[bool, typer.Option("--once", help="Send twenty prompts, audit the ledgers and stop.")] = False,
    directory: Annotated[
        Path | None, typer.Option(help="Where to keep the nodes (default: a temporary one that is removed at the end).")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary directory.")] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65_524,
            help="First of twelve ports: API, dashboard and peers of each node (default: any free ones).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a network of four nodes with real models on this machine."""
    from rich.console import Console

    from serving.cli.demo.demo import DemoFailed, find_ports, run_demo

    console = Console(stderr=as_json)
    if directory is not None and directory.exists() and any(directory.iterdir()):
        raise CommandError(f"{directory} is not empty; remove it or name another directory")
    try:
        ports = find_ports(port)
    except DemoFailed as error:
        raise CommandError(str(error)) from error
    is_temporary = directory is None and not keep
    directory = directory or Path(tempfile.mkdtemp(prefix="wwwserve-demo-"))
    end_as_by_ctrl_c()
    try:
        run_demo(directory, ports, once, console, as_json)
    except DemoFailed as error:
        raise CommandError(f"{error} (the nodes' directories are kept: {directory})") from error
    if is_temporary:
        shutil.rmtree(directory, ignore_errors=True)


def end_as_by_ctrl_c() -> None:
    """Have SIGTERM and SIGHUP do what a Ctrl-C does, so that the nodes are stopped then too.

    They come in as SIGINT, which trio raises only where its own state is whole. A shell ignores that for what runs in
    its background.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
