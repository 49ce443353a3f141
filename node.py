"""The composition root and the command line: builds one node out of the four packages.

:class:`Node` is a node on whatever network, store and backends it is given, so that a simulation runs this very class;
:func:`run_node` gives it the real ones.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import trio
import typer
from rich.console import Console

from chain.blockstore import BlockStore
from chain.cli import CHAIN_DIRECTORY, DataDir, build_app, get_default_data_dir
from chain.crypto import KeyPair
from chain.exceptions import LedgerError, StoreError, StoreInUse
from chain.export import ExportSource
from chain.genesis import CREDIT, Genesis, GenesisAccount, load_genesis, make_genesis
from chain.store import LevelStore, Store
from chain.verify import Source
from consensus.agreement import Voting
from consensus.engine import Engine, Settings
from consensus.evidence import EvidenceStore
from consensus.journal import Journal, JournalDamaged
from p2p.discovery import Discovery
from p2p.identity import PassphraseNeeded, create_identity, load_identity
from p2p.network import Network, NetworkError, RunnableNetwork
from p2p.runtime import RealRuntime, Runtime
from p2p.streams import Streams
from serving.api import Api
from serving.backends.backend import Backend
from serving.commands import ADMIN_ADDRESS, ADMIN_TOKEN, CommandError, add_commands
from serving.config import ConfigError, EmbeddedModel, NodeConfig, OpenAIModel, parse_peer_address
from serving.config_file import load_config, write_default_config
from serving.executor import Executor, ExecutorSettings
from serving.http.server import HttpServer, ListenError
from serving.market import Market
from serving.offers import PROTOCOL as OFFERS
from serving.payments import Payments
from serving.policy import Policy, load_policy
from serving.presence import Presence
from serving.router import Router, RouterSettings
from serving.service import Services
from serving.wallet import Wallet

if TYPE_CHECKING:
    from serving.admin import Admin

MAX_OFFERS_PER_PEER = 64
STARTUP_PATIENCE = 10.0
"""Seconds that a node waits for its backends before it joins without them."""


class Node:
    """One node: ledger, overlay and market, wired together.

    ``voting`` makes it a validator if genesis does; ``backends`` come with the number of requests each may run at a
    time; ``bootstrap`` are (public key, multiaddress) pairs; ``stake`` is the bond to keep, in micro-credits; ``store``
    is where the purse keeps what must survive a restart.
    """

    def __init__(
        self,
        *,
        genesis: Genesis,
        key: KeyPair,
        network: Network,
        blocks: BlockStore,
        runtime: Runtime,
        policy: Policy,
        backends: Sequence[tuple[Backend, int]] = (),
        voting: Voting | None = None,
        bootstrap: Sequence[tuple[bytes, str]] = (),
        stake: int | None = None,
        store: Store | None = None,
        settings: Settings | None = None,
        executor_settings: ExecutorSettings | None = None,
        router_settings: RouterSettings | None = None,
    ) -> None:
        self.key = key
        self.network = network
        self.policy = policy
        self.streams = Streams(network)
        self.discovery = Discovery(network, self.streams, runtime, key, genesis.chain_id, bootstrap=bootstrap)
        self.engine = Engine(genesis, voting, network, self.streams, runtime, blocks, settings)
        self.services = Services(backends, policy)
        self.wallet = Wallet(key, self.engine)
        self.payments = Payments(key, self.engine, store)
        self.executor = Executor(key, self.engine, self.services, self.payments, policy, runtime, executor_settings)
        self.router = Router(
            key, self.engine, self.streams, self.payments, self.discovery.find, runtime, router_settings
        )
        self.market = Market(self.services, policy, self.router, runtime)
        self.presence = Presence(key, self.engine, self.discovery, self.services, self.wallet, stake)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled; the network must be running."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.services.run)
            await self.services.wait_alive(STARTUP_PATIENCE)
            await nursery.start(self.streams.run)
            await nursery.start(self.engine.run)
            self.streams.handle(OFFERS, self.executor.handle, MAX_OFFERS_PER_PEER)
            nursery.start_soon(self.payments.run)
            await nursery.start(self.discovery.run)
            nursery.start_soon(self.presence.run)
            task_status.started()


# The real node.

CONFIG, KEY, GENESIS = "config.yaml", "key", "genesis.json"
JOURNAL, LOCK = "votes.journal", "lock"
PASSPHRASE = "WWWSERVE_PASSPHRASE"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

EXPECTED = (LedgerError, NetworkError, ListenError, ConfigError, CommandError)
"""Errors that are answered with one line, not a traceback."""


@contextmanager
def lock_data_dir(path: Path) -> Iterator[None]:
    """Keep other processes off a data directory.

    Raises:
        StoreInUse: one has it already.
    """
    with (path / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreInUse(f"{path} is in use by another node process") from error
        yield


def build_backend(entry: EmbeddedModel | OpenAIModel, runtime: Runtime) -> Backend:
    """The backend that a configuration entry describes.

    Raises:
        ConfigError: its key is missing from the environment.
    """
    from serving.backends.embedded import EmbeddedBackend
    from serving.backends.openai_compatible import BackendTimeouts, OpenAICompatibleBackend

    timeouts = BackendTimeouts(first_byte=entry.first_token_timeout_s, stall=entry.stall_timeout_s)
    if isinstance(entry, EmbeddedModel):
        return EmbeddedBackend(runtime, parallel=entry.capacity, timeouts=timeouts)
    return OpenAICompatibleBackend(
        entry.base_url,
        api_key=entry.get_api_key(),
        models=entry.names,
        load_reader=entry.load,
        capacity=entry.capacity,
        timeouts=timeouts,
    )


def build_policy(config: NodeConfig) -> Policy:
    """The policy that the configuration names.

    Raises:
        ConfigError: none of that name is installed.
    """
    try:
        return load_policy(config.policy.name, config.policy.get_parameters())
    except ValueError as error:
        raise ConfigError(f"policy.name: {error}") from None


@contextmanager
def naming_key(section: str) -> Iterator[None]:
    """Say which keys of the configuration to change if an address cannot be listened on."""
    try:
        yield
    except ListenError as error:
        raise ListenError(f"{error}; choose another with {section}.host and {section}.port in {CONFIG}") from error


async def run_node(data_dir: Path, config: NodeConfig, key: KeyPair, genesis: Genesis) -> None:
    """Run a node on real sockets and files until it is told to stop (SIGINT, SIGTERM).

    Raises:
        StoreError, NetworkError, ListenError, ConfigError: it cannot start, or its disk fails.
    """
    from p2p.host import Libp2pNetwork
    from serving.admin import Admin

    runtime = RealRuntime()
    network = Libp2pNetwork(key, config.listen, runtime, announce=config.announce)
    store = LevelStore(data_dir / CHAIN_DIRECTORY)
    try:
        blocks = BlockStore(store, genesis)
        voting = None
        if config.votes and key.public_key in genesis.validators:
            journal = Journal.open(data_dir / JOURNAL, genesis.chain_id, key.public_key)
            voting = Voting(key, journal, EvidenceStore(store))
        node = Node(
            genesis=genesis,
            key=key,
            network=network,
            blocks=blocks,
            runtime=runtime,
            policy=build_policy(config),
            backends=[(build_backend(entry, runtime), entry.capacity) for entry in config.models],
            voting=voting,
            bootstrap=config.get_bootstrap(),
            stake=config.policy.stake,
            store=store,
            settings=Settings(block_spacing=config.block_spacing_ms / 1000),
        )
        # Both listeners are bound before anything else starts, so that a taken port is said at once.
        handle = Api(node.market, config.api.get_keys()).handle
        with naming_key("api"):
            front = await HttpServer.open(handle, config.api.host, config.api.port, runtime)
        with naming_key("admin"):
            admin = await Admin.open(node, config.admin.host, config.admin.port, data_dir / ADMIN_TOKEN)
        await _serve(node, network, front, admin, data_dir)
    except JournalDamaged as error:
        raise StoreError(
            f"{data_dir / JOURNAL}: {error}. A validator must not forget its votes: put the right file back, or set "
            f"'validate: false' in {data_dir / CONFIG} and run without voting"
        ) from error
    finally:
        store.close()


async def _serve(node: Node, network: RunnableNetwork, front: HttpServer, admin: Admin, data_dir: Path) -> None:
    """Run until a signal comes, then end in order.

    Only the first signal counts: an impatient second Ctrl-C must not cut the orderly end short.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # what holds again when the receiver is closed
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_start, node, network, front, admin, data_dir, nursery)
            async for _ in signals:
                break
            (data_dir / ADMIN_ADDRESS).unlink(missing_ok=True)
            await node.discovery.leave()
            nursery.cancel_scope.cancel()


async def _start(
    node: Node, network: RunnableNetwork, front: HttpServer, admin: Admin, data_dir: Path, nursery: trio.Nursery
) -> None:
    await nursery.start(network.run)
    await nursery.start(node.run)
    nursery.start_soon(front.run)
    nursery.start_soon(admin.run)
    (data_dir / ADMIN_ADDRESS).write_text("{}:{}".format(*admin.address))
    print(f"api      http://{front.address[0]}:{front.address[1]}/v1")
    print(f"admin    http://{admin.address[0]}:{admin.address[1]}")
    for address in node.network.listen_addresses:
        print(f"peers    {address}/p2p/{node.key.address}", flush=True)


# The command line.

app = typer.Typer(
    help="An open market of LLM services without a centre.", no_args_is_help=True, pretty_exceptions_enable=False
)
add_commands(app)


@app.command()
def init(
    data_dir: DataDir = None,
    genesis: Annotated[Path | None, typer.Option(help="Genesis file of the chain to join.")] = None,
    new_chain: Annotated[
        str | None, typer.Option(help="Name of a new chain of one's own, with this node as its first validator.")
    ] = None,
) -> None:
    """Make a data directory: key, configuration, genesis."""
    directory = data_dir or get_default_data_dir()
    if (genesis is None) == (new_chain is None):
        raise CommandError("say which chain: --genesis FILE to join one, or --new-chain NAME to begin one")
    for name in (KEY, GENESIS, CONFIG):
        if (directory / name).exists():
            raise CommandError(f"{directory / name} exists already; choose another directory with -d")
    joined = load_genesis(genesis) if genesis is not None else None
    directory.mkdir(parents=True, exist_ok=True)
    key = create_identity(directory / KEY, os.environ.get(PASSPHRASE) or None)
    if joined is None:
        assert new_chain is not None
        account = GenesisAccount(key.public_key, 10_000 * CREDIT, 1_000 * CREDIT, (), True)
        joined = make_genesis(new_chain, RealRuntime().now(), secrets.token_bytes(32), [account])
    (directory / GENESIS).write_text(joined.to_json(), encoding="utf-8")
    write_default_config(directory / CONFIG)
    print(f"address  {key.address}")
    print(f"chain    {joined.name} ({joined.chain_id.hex()[:8]})")
    print(f"edit {directory / CONFIG}, then start the node with: wwwserve run -d {directory}")


@app.command()
def run(data_dir: DataDir = None) -> None:
    """Run the node in a data directory until it is stopped."""
    from serving.logs import configure_logs

    directory = data_dir or get_default_data_dir()
    if not (directory / KEY).exists():
        raise CommandError(f"no node in {directory}; make one with: wwwserve init -d {directory} …")
    config = load_config(directory / CONFIG)
    configure_logs(config.log.level, config.log.format)
    genesis = load_genesis(directory / GENESIS)
    key = _load_key(directory / KEY)
    with lock_data_dir(directory):
        trio.run(run_node, directory, config, key, genesis)


def _load_key(path: Path) -> KeyPair:
    try:
        return load_identity(path, os.environ.get(PASSPHRASE) or None)
    except PassphraseNeeded as error:
        if not sys.stdin.isatty():
            raise PassphraseNeeded(f"{error}, in the environment variable {PASSPHRASE}") from error
    return load_identity(path, typer.prompt("passphrase", hide_input=True))


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Send twenty prompts, audit the ledgers and stop.")] = False,
    directory: Annotated[
        Path | None, typer.Option(help="Where to keep the nodes (default: a new temporary one).")
    ] = None,
) -> None:
    """Run a network of four nodes with real models on this machine."""
    from serving.demo import DemoFailed, run_demo

    console = Console()
    place = directory or Path(tempfile.mkdtemp(prefix="wwwserve-demo-"))
    try:
        run_demo(place, once, console)
    except DemoFailed as error:
        raise CommandError(f"{error} (kept for a look: {place})") from error


def open_remote(multiaddress: str, genesis: Path | None) -> Source:
    """Fetch the whole chain of a running node into a temporary file, for the audit; nothing in it is believed."""
    from consensus.fetch import fetch_chain
    from p2p.host import Libp2pNetwork

    try:
        peer, address = parse_peer_address(multiaddress)
    except ValueError as error:
        raise StoreError(str(error)) from error
    trusted = load_genesis(genesis or get_default_data_dir() / GENESIS)
    runtime = RealRuntime()
    file = Path(tempfile.mkdtemp(prefix="wwwserve-verify-")) / "chain.export"
    network = Libp2pNetwork(KeyPair(secrets.token_bytes(32)), (), runtime)
    trio.run(fetch_chain, network, trusted, peer, address, file)
    return ExportSource(file)


def chain_main() -> None:
    """Entry point of the ``chain`` command."""
    _run_app(build_app(open_remote))


def main() -> None:
    """Entry point of the ``wwwserve`` command."""
    app.add_typer(build_app(open_remote), name="chain")
    _run_app(app)


def _run_app(command_line: typer.Typer) -> None:
    """Run a command line; an expected error becomes one line on stderr and exit code 1."""
    try:
        command_line()
    except (*EXPECTED, BaseExceptionGroup) as error:
        expected = _find_expected(error)
        if expected is None:
            raise
        print(f"error: {expected}", file=sys.stderr)
        raise SystemExit(1) from None


def _find_expected(error: BaseException) -> BaseException | None:
    """The expected error in ``error``, which nurseries may have wrapped in groups; None if anything else is in it."""
    if isinstance(error, BaseExceptionGroup):
        found = [_find_expected(part) for part in error.exceptions]
        return found[0] if found and None not in found else None
    return error if isinstance(error, EXPECTED) else None


if __name__ == "__main__":
    main()
