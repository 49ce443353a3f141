"""The command line ``wwwserve``: ``init``, ``run`` and ``demo`` here, the owner's commands and ``chain`` beside it."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import structlog
import trio
import typer
from rich.console import Console

from chain.check_economics import check_checks
from chain.cli.app import DataDir, get_default_data_dir
from chain.cli.format import print_line
from chain.crypto import KeyPair
from chain.duel_economics import check_duels
from chain.duel_parameters import DuelParameters
from chain.genesis import Genesis, load_genesis, make_genesis, make_validator
from chain.keyfile import create_identity
from chain.light.client import Checkpoint
from chain.parameters import CREDIT, Parameters
from consensus.voting.disk import JOURNAL_FILE
from consensus.voting.journal import Journal
from p2p.addresses import parse_proxy
from p2p.runtime import RealRuntime
from serving.cli.calibrate import calibrate_check
from serving.cli.chain import build_chain_app
from serving.cli.dashboard import dashboard
from serving.cli.errors import CommandError
from serving.cli.judge import build_judge_app
from serving.cli.keys import build_keys_app
from serving.cli.owner import add_owner_commands
from serving.cli.stopped_node import get_passphrase, load_key, load_own_genesis
from serving.config.data_directory import (
    CONFIG_FILE,
    GENESIS_FILE,
    KEY_FILE,
    create_private,
    lock_data_dir,
    make_data_dir,
)
from serving.config.file import load_config, write_default_config
from serving.config.schema import ApiConfig, ApiKeyConfig, NodeConfig
from serving.keys.records import make_secret

log = structlog.get_logger(__name__)

RunNode = Callable[[Path, NodeConfig, KeyPair, Genesis], Awaitable[None]]
"""Runs the node in a data directory until it is told to stop."""


def build_wwwserve_app(run_node: RunNode) -> typer.Typer:
    """The whole command line; ``run_node`` is what ``run`` runs."""
    app = typer.Typer(
        help="An open market of LLM services without a centre.", no_args_is_help=True, pretty_exceptions_enable=False
    )
    app.command()(init)

    @app.command()
    def run(
        data_dir: DataDir = None,
        anonymous: Annotated[
            bool, typer.Option("--anonymous", help="Listen nowhere and connect to the bootstrap peers alone.")
        ] = False,
        socks5: Annotated[
            str | None, typer.Option(metavar="HOST:PORT", help="Dial every peer through this proxy.")
        ] = None,
    ) -> None:
        """Run the node in a data directory until it is stopped."""
        from serving.cli.logs import configure_logs

        directory = data_dir or get_default_data_dir()
        if not (directory / KEY_FILE).exists():
            raise CommandError(f"no node in {directory}; make one with: wwwserve init -d {directory} …")
        config = load_config(directory / CONFIG_FILE)
        if socks5 is not None:
            try:
                parse_proxy(socks5)
            except ValueError as error:
                raise CommandError(f"--socks5: {error}") from None
            config = config.model_copy(update={"socks5": socks5})
        if anonymous or config.anonymous:
            config = config.as_anonymous()
        configure_logs(config.log.level, config.log.format)
        genesis = load_own_genesis(directory)
        key = load_key(directory / KEY_FILE)
        with lock_data_dir(directory) as was_open:
            if was_open:
                log.warning("the data directory was open to other users, and is closed now", directory=str(directory))
            trio.run(run_node, directory, config, key, genesis)

    @app.command()
    def share(
        url: Annotated[str, typer.Argument(help="Where the server answers, such as http://127.0.0.1:11434.")],
        data_dir: DataDir = None,
        model: Annotated[
            list[str] | None,
            typer.Option("--model", help="A model to share, repeatable; default: all that are loaded."),
        ] = None,
        genesis: Annotated[
            Path | None, typer.Option(help="Genesis file of the chain to join, if the directory has no node yet.")
        ] = None,
        new_chain: Annotated[str | None, typer.Option(help="Or the name of a new chain of one's own.")] = None,
        api_key_env: Annotated[
            str | None, typer.Option(metavar="NAME", help="Environment variable with the API key of the server.")
        ] = None,
        only: Annotated[bool, typer.Option("--only", help="Share no other server any more.")] = False,
        no_run: Annotated[
            bool, typer.Option("--no-run", help="Write the configuration, and do not run the node.")
        ] = False,
    ) -> None:
        """Share a server that runs already: vLLM, SGLang, Ollama, llama.cpp, LM Studio, LiteLLM or any like them."""
        from serving.cli.share import (
            change_config,
            check_entry,
            choose_models,
            describe_entry,
            find_server,
            print_server,
        )

        directory = data_dir or get_default_data_dir()
        is_new = not (directory / KEY_FILE).exists()
        if is_new and (genesis is None) == (new_chain is None):
            raise CommandError(
                f"no node in {directory} yet: say which chain it belongs to, by --genesis FILE or --new-chain NAME"
            )
        server = find_server(url, api_key_env)
        chosen = choose_models(server, model or ())
        entry = describe_entry(url, server, chosen, api_key_env)
        check_entry(entry)
        print_server(url, server, chosen)
        if is_new:
            init(directory, genesis, new_chain)
        for path, value in change_config(directory, entry, only=only).items():
            if path[-1] == "port":
                print_line(
                    f"{'.'.join(map(str, path))} is {value} from now on, because the server has the port before it"
                )
        if not no_run:
            run(directory)

    app.command()(demo)
    app.command("calibrate")(calibrate_check)
    add_owner_commands(app)
    app.add_typer(build_keys_app(), name="keys")
    app.command()(dashboard)
    app.add_typer(build_judge_app(), name="judge")
    app.add_typer(build_chain_app(), name="chain")
    return app


def init(
    data_dir: DataDir = None,
    genesis: Annotated[Path | None, typer.Option(help="Genesis file of the chain to join.")] = None,
    new_chain: Annotated[
        str | None, typer.Option(help="Name of a new chain of one's own, with this node as its first validator.")
    ] = None,
    duel_rate: Annotated[
        int,
        typer.Option(
            min=0, max=1_000, help="Of 1,000 paid answers on the new chain, how many are answered again and judged."
        ),
    ] = 0,
    checkpoint: Annotated[
        str | None, typer.Option(help="A recent block of that chain that you trust, HEIGHT:BLOCKID: begin from there.")
    ] = None,
    api_key: Annotated[
        bool,
        typer.Option("--api-key", help="Make a key for users of the API, which other machines need, and print it."),
    ] = False,
) -> None:
    """Make a data directory: key, configuration, genesis, and a journal without votes."""
    directory = data_dir or get_default_data_dir()
    if (genesis is None) == (new_chain is None):
        raise CommandError("say which chain: --genesis FILE to join one, or --new-chain NAME to begin one")
    if duel_rate and new_chain is None:
        raise CommandError("the chain that you join says how many duels there are: --duel-rate goes with --new-chain")
    if checkpoint is not None:
        if new_chain is not None:
            raise CommandError("a new chain has no block yet: --checkpoint goes with --genesis")
        try:
            Checkpoint.parse(checkpoint)
        except ValueError as error:
            raise CommandError(f"--checkpoint: {error}") from None
    for name in (KEY_FILE, GENESIS_FILE, CONFIG_FILE):
        if (directory / name).exists():
            raise CommandError(f"{directory / name} exists already; choose another directory with -d")
    joined = load_genesis(genesis) if genesis is not None else None
    parameters = Parameters(duels=DuelParameters(rate=duel_rate))
    check_duels(parameters)
    check_checks(parameters)
    try:
        make_data_dir(directory)
        with create_private():
            secret = make_secret() if api_key else None
            key, joined = _make_files(directory, joined, new_chain or "", parameters, checkpoint, secret)
    except OSError as error:
        raise CommandError(f"cannot write {directory}: {error.strerror}; choose another directory with -d") from error
    print_line(f"address  {key.address}")
    print_line(f"chain    {joined.name} ({joined.chain_id.hex()[:8]})")
    if secret is not None:
        print_line(f"api key  {secret}  (kept in {directory / CONFIG_FILE})")
    print_line(f"edit {directory / CONFIG_FILE}, then start the node with: wwwserve run -d {directory}")


def _make_files(
    directory: Path,
    genesis: Genesis | None,
    new_chain: str,
    parameters: Parameters,
    checkpoint: str | None,
    api_key: str | None,
) -> tuple[KeyPair, Genesis]:
    """Write the files of a new node; without ``genesis`` it begins the chain ``new_chain`` as its only validator.

    ``parameters`` are those of the chain that it begins.

    Raises:
        OSError: one cannot be written.
    """
    key = create_identity(directory / KEY_FILE, get_passphrase())
    if genesis is None:
        beacon = secrets.token_bytes(32)
        account = make_validator(key, beacon, parameters, 10_000 * CREDIT, 1_000 * CREDIT)
        genesis = make_genesis(new_chain, RealRuntime().now(), beacon, [account], parameters)
    (directory / GENESIS_FILE).write_text(genesis.to_json(), encoding="utf-8")
    keys = () if api_key is None else (ApiKeyConfig(key=api_key),)
    write_default_config(directory / CONFIG_FILE, NodeConfig(checkpoint=checkpoint, api=ApiConfig(keys=keys)))
    Journal.open(directory / JOURNAL_FILE, genesis.chain_id, key.public_key).close()
    return key, genesis


def demo(
    once: Annotated[bool, typer.Option("--once", help="Send twenty prompts, audit the ledgers and stop.")] = False,
    directory: Annotated[
        Path | None, typer.Option(help="Where to keep the nodes (default: a new temporary one).")
    ] = None,
) -> None:
    """Run a network of four nodes with real models on this machine."""
    from serving.cli.demo import DemoFailed, run_demo

    console = Console()
    if directory is not None and directory.exists() and any(directory.iterdir()):
        raise CommandError(f"{directory} is not empty; remove it or name another directory")
    directory = directory or Path(tempfile.mkdtemp(prefix="wwwserve-demo-"))
    try:
        run_demo(directory, once, console)
    except DemoFailed as error:
        raise CommandError(f"{error} (the nodes' directories are kept: {directory})") from error
