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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import trio
import typer
from rich.console import Console

from chain.audit.audit import Source
from chain.audit.export import ExportSource
from chain.cli.app import DataDir, build_app, get_default_data_dir
from chain.crypto import KeyPair
from chain.exceptions import LedgerError, StoreDamaged, StoreError, StoreInUse
from chain.genesis import CREDIT, Genesis, Parameters, load_genesis, make_genesis, make_validator
from chain.keyfile import PassphraseNeeded, create_identity, load_identity
from chain.light.client import Checkpoint
from chain.store.kv import Store
from chain.store.writer import BlockStore
from consensus.engine import Engine, Settings
from consensus.housekeeping import Upkeep
from consensus.voting.disk import JOURNAL, DataDisk, Opened, open_disk
from consensus.voting.journal import Journal
from consensus.voting.vote_store import Voting
from p2p.discovery.dial_scheduler import get_addresses
from p2p.discovery.peer_store import PeerStore
from p2p.discovery.service import Discovery
from p2p.network import Network, NetworkError, RunnableNetwork
from p2p.runtime import RealRuntime, Runtime
from p2p.streams.exchanges import Streams
from serving.accounting.payments import PREFIX as PAYMENTS
from serving.accounting.payments import Payments
from serving.accounting.wallet import Wallet
from serving.advertiser import Presence
from serving.api import Api
from serving.backends.backend import Backend
from serving.cli.owner import ADMIN_ADDRESS, ADMIN_TOKEN, CommandError, add_commands
from serving.config.file import load_config, write_default_config
from serving.config.schema import ConfigError, EmbeddedModel, NodeConfig, OpenAIModel, parse_peer_address, parse_proxy
from serving.dispatcher import Market
from serving.http.server import HttpServer, ListenError
from serving.offload.executor import Executor
from serving.offload.originator import Router, RouterSettings
from serving.offload.protocol import PROTOCOL as OFFERS
from serving.offload.session import ExecutorSettings
from serving.scheduling.backend_pool import Services
from serving.scheduling.policy import Policy, load_policy

if TYPE_CHECKING:
    from p2p.dht.service import Rendezvous
    from p2p.host.network import Libp2pNetwork
    from serving.admin.server import Admin

MAX_OFFERS_PER_PEER = 64
WATCH_INTERVAL = 1.0
STARTUP_PATIENCE = 10.0
"""Seconds that a node waits for its backends before it joins without them."""


class Node:
    """One node: ledger, overlay and market, wired together.

    ``voting`` makes it a validator if genesis does; ``backends`` come with the number of requests each may run at a
    time; ``bootstrap`` are (public key, multiaddress) pairs; ``stake`` is the bond to keep, in micro-credits; ``store``
    is where the purse keeps what must survive a restart, and ``peers`` remembers where others were. ``rendezvous`` are
    servers of a hash table to begin with; with None the node takes no part in one.
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
        peers: PeerStore | None = None,
        rendezvous: Sequence[tuple[bytes, str]] | None = None,
    ) -> None:
        self.key = key
        self.runtime = runtime
        self.network = network
        self.policy = policy
        self._bootstrap = frozenset(peer for peer, _ in bootstrap)
        self.streams = Streams(network)
        self.discovery = Discovery(
            network,
            self.streams,
            runtime,
            key,
            genesis.chain_id,
            bootstrap=bootstrap,
            weight=self._get_bonded,
            store=peers,
        )
        self.rendezvous: Rendezvous | None = None
        if rendezvous is not None:
            from p2p.dht.service import Rendezvous

            self.rendezvous = Rendezvous(network, self.discovery, runtime, genesis.chain_id, rendezvous)
        self.engine = Engine(genesis, voting, network, self.streams, runtime, blocks, settings)
        self.services = Services(backends, policy)
        self.wallet = Wallet(key, self.engine)
        self.payments = Payments(key, self.engine, store)
        self.executor = Executor(key, self.engine, self.services, self.payments, policy, runtime, executor_settings)
        discovery = self.discovery
        self.router = Router(
            key, self.engine, self.streams, self.payments, discovery.find, discovery.has_left, runtime, router_settings
        )
        self.market = Market(self.services, policy, self.router, runtime)
        self.upkeep = Upkeep(key, self.engine, self.wallet.submit, runtime)
        self.presence = Presence(key, self.engine, self.discovery, self.services, self.wallet, stake)

    def _get_bonded(self, peer: bytes) -> float:
        """What makes a peer worth keeping in view."""
        return self.engine.state.account(peer).bonded

    def is_kept(self, peer: bytes) -> bool:
        """Whether ``peer`` keeps its connection when there are too many: it has a stake, or is a bootstrap peer."""
        return peer in self._bootstrap or self._get_bonded(peer) > 0

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled; the network must be running."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.services.run)
            await self.services.wait_alive(STARTUP_PATIENCE)
            await nursery.start(self.streams.run)
            await nursery.start(self.engine.run)
            await nursery.start(self.executor.run)
            self.streams.handle(OFFERS, self.executor.handle, MAX_OFFERS_PER_PEER)
            nursery.start_soon(self.payments.run)
            await nursery.start(self.discovery.run)
            if self.rendezvous is not None:
                await nursery.start(self.rendezvous.run)
            nursery.start_soon(self.presence.run)
            nursery.start_soon(self.upkeep.run)
            task_status.started()


# The real node.

CONFIG, KEY, GENESIS, PEERS = "config.yaml", "key", "genesis.json", "peers.db"
LOCK = "lock"
PASSPHRASE = "WWWSERVE_PASSPHRASE"
TESTING = "WWWSERVE_TESTING"
"""Environment variable that, set to anything, lets tests cut the node off from peers through its admin listener."""
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


def build_network(config: NodeConfig, key: KeyPair, runtime: Runtime) -> Libp2pNetwork:
    """The network as the configuration describes it: public, behind a NAT, or anonymous."""
    from p2p.host.connection_gater import DoorLimits
    from p2p.host.network import Libp2pNetwork
    from p2p.host.transport import DialRules
    from p2p.nat.relay_server import RelayLimits

    rules = DialRules(proxy=config.get_proxy())
    if config.anonymous:
        rules = DialRules.only([place for _, place in config.get_bootstrap()], config.get_proxy())
    relays = config.relay.serve and config.get_listen() and config.reachability != "private"
    limits = RelayLimits(config.relay.max_reservations, config.relay.max_circuits) if relays else None
    return Libp2pNetwork(
        key,
        config.get_listen(),
        runtime,
        announce=config.announce,
        rules=rules,
        relay=limits,
        public={"public": True, "private": False, "auto": None}[config.reachability],
        upnp=config.upnp,
        hole_punching=config.hole_punching and not config.anonymous,
        limits=DoorLimits(
            max_connections=config.limits.max_connections,
            max_per_address=config.limits.max_per_address,
            exempt_loopback=config.limits.exempt_loopback,
        ),
    )


def locate(discovery: Discovery, peer: bytes) -> tuple[str, ...]:
    """Where ``peer`` says it can be dialled, directly and through its relays."""
    return get_addresses(discovery.find(peer))


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
    from serving.admin.server import Admin

    runtime = RealRuntime()
    network = build_network(config, key, runtime)
    disk = DataDisk(data_dir, runtime.now)
    opened = open_disk(
        disk, genesis, key, runtime.random, votes=config.votes, kept=(PAYMENTS,), keep_epochs=config.keep_epochs
    )
    try:
        node = Node(
            genesis=genesis,
            key=key,
            network=network,
            blocks=opened.blocks,
            runtime=runtime,
            policy=build_policy(config),
            backends=[(build_backend(entry, runtime), entry.capacity) for entry in config.models],
            voting=opened.voting,
            bootstrap=config.get_bootstrap(),
            stake=config.policy.stake,
            store=opened.store,
            peers=PeerStore(data_dir / PEERS),
            rendezvous=config.get_rendezvous(),
            settings=Settings(block_spacing=config.block_spacing_ms / 1000, checkpoint=config.get_checkpoint()),
        )
        network.locate = partial(locate, node.discovery)
        network.is_kept = node.is_kept
        # Both listeners are bound before anything else starts, so that a taken port is said at once.
        handle = Api(node.market, config.api.get_keys()).handle
        with naming_key("api"):
            front = await HttpServer.open(handle, config.api.host, config.api.port, runtime)
        with naming_key("admin"):
            partition = network.partition if os.environ.get(TESTING) else None
            admin = await Admin.open(
                node, config.admin.host, config.admin.port, data_dir / ADMIN_TOKEN, partition=partition
            )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, disk)
            await _serve(node, network, front, admin, data_dir)
            nursery.cancel_scope.cancel()
    except BaseException as error:
        damage = _find_damage(error)
        if damage is not None:
            disk.note_fault(damage)
        raise
    finally:
        if disk.fault is not None:
            disk.note_fault(disk.fault)
        opened.close()


def _find_damage(error: BaseException) -> StoreDamaged | None:
    """What ``error`` says about the database, if that is damage."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for part in error.exceptions if (found := _find_damage(part)) is not None), None)
    return error if isinstance(error, StoreDamaged) else None


async def _watch(disk: DataDisk) -> None:
    """End the node once damage was found on disk: whoever found it may have had somebody else to answer.

    Raises:
        StoreDamaged: it was.
    """
    while disk.fault is None:
        await trio.sleep(WATCH_INTERVAL)
    raise disk.fault


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
    checkpoint: Annotated[
        str | None, typer.Option(help="A recent block of that chain that you trust, HEIGHT:BLOCKID: begin from there.")
    ] = None,
) -> None:
    """Make a data directory: key, configuration, genesis, and a journal without votes."""
    directory = data_dir or get_default_data_dir()
    if (genesis is None) == (new_chain is None):
        raise CommandError("say which chain: --genesis FILE to join one, or --new-chain NAME to begin one")
    if checkpoint is not None:
        if new_chain is not None:
            raise CommandError("a new chain has no block yet: --checkpoint goes with --genesis")
        try:
            Checkpoint.parse(checkpoint)
        except ValueError as error:
            raise CommandError(f"--checkpoint: {error}") from None
    for name in (KEY, GENESIS, CONFIG):
        if (directory / name).exists():
            raise CommandError(f"{directory / name} exists already; choose another directory with -d")
    joined = load_genesis(genesis) if genesis is not None else None
    directory.mkdir(parents=True, exist_ok=True)
    key = create_identity(directory / KEY, os.environ.get(PASSPHRASE) or None)
    if joined is None:
        assert new_chain is not None
        beacon = secrets.token_bytes(32)
        account = make_validator(key, beacon, Parameters(), 10_000 * CREDIT, 1_000 * CREDIT)
        joined = make_genesis(new_chain, RealRuntime().now(), beacon, [account])
    (directory / GENESIS).write_text(joined.to_json(), encoding="utf-8")
    write_default_config(directory / CONFIG, NodeConfig(checkpoint=checkpoint))
    Journal.open(directory / JOURNAL, joined.chain_id, key.public_key).close()
    print(f"address  {key.address}")
    print(f"chain    {joined.name} ({joined.chain_id.hex()[:8]})")
    print(f"edit {directory / CONFIG}, then start the node with: wwwserve run -d {directory}")


@app.command()
def run(
    data_dir: DataDir = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Listen nowhere and connect to the bootstrap peers alone.")
    ] = False,
    socks5: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Dial every peer through this proxy.")] = None,
) -> None:
    """Run the node in a data directory until it is stopped."""
    from serving.cli.logs import configure_logs

    directory = data_dir or get_default_data_dir()
    if not (directory / KEY).exists():
        raise CommandError(f"no node in {directory}; make one with: wwwserve init -d {directory} …")
    config = load_config(directory / CONFIG)
    if socks5 is not None:
        try:
            parse_proxy(socks5)
        except ValueError as error:
            raise CommandError(f"--socks5: {error}") from None
        config = config.model_copy(update={"socks5": socks5})
    if anonymous or config.anonymous:
        config = config.as_anonymous()
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
    from serving.cli.demo import DemoFailed, run_demo

    console = Console()
    place = directory or Path(tempfile.mkdtemp(prefix="wwwserve-demo-"))
    try:
        run_demo(place, once, console)
    except DemoFailed as error:
        raise CommandError(f"{error} (kept for a look: {place})") from error


def open_remote(multiaddress: str, genesis: Path | None, socks5: str | None) -> Source:
    """Fetch the whole chain of a running node into a temporary file, for the audit; nothing in it is believed."""
    from consensus.sync.download import fetch_chain
    from p2p.host.network import Libp2pNetwork
    from p2p.host.transport import DialRules

    try:
        peer, address = parse_peer_address(multiaddress)
    except ValueError as error:
        raise StoreError(str(error)) from error
    try:
        rules = DialRules(proxy=None if socks5 is None else parse_proxy(socks5))
    except ValueError as error:
        raise StoreError(f"--socks5: {error}") from error
    trusted = load_genesis(genesis or get_default_data_dir() / GENESIS)
    runtime = RealRuntime()
    network = Libp2pNetwork(KeyPair(secrets.token_bytes(32)), (), runtime, rules=rules)
    with tempfile.TemporaryDirectory(prefix="wwwserve-verify-") as directory:
        file = Path(directory) / "chain.export"
        trio.run(fetch_chain, network, trusted, peer, address, file)
        return ExportSource(file)  # which holds the file open: it needs no name any more


def find_checkpoint(data_dir: Path) -> Checkpoint | None:
    """The checkpoint in the configuration of a data directory, if there is any."""
    path = data_dir / CONFIG
    return load_config(path).get_checkpoint() if path.exists() else None


@contextmanager
def open_offline(data_dir: Path | None) -> Iterator[tuple[Opened, KeyPair]]:
    """The ledger, the votes and the key of a node that is stopped.

    Raises:
        StoreInUse: it is running.
    """
    directory = data_dir or get_default_data_dir()
    if not (directory / KEY).exists():
        raise CommandError(f"no node in {directory}; name its data directory with -d")
    genesis, key, runtime = load_genesis(directory / GENESIS), _load_key(directory / KEY), RealRuntime()
    with lock_data_dir(directory):
        disk = DataDisk(directory, runtime.now)
        opened = open_disk(disk, genesis, key, runtime.random, votes=True, kept=(PAYMENTS,))
        try:
            yield opened, key
        finally:
            opened.close()


def write_genesis(data_dir: Path | None, content: str) -> None:
    """Put another genesis file in the place of the one in a data directory, in one step that is on disk at the end."""
    path = (data_dir or get_default_data_dir()) / GENESIS
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def build_chain_app() -> typer.Typer:
    """The ``chain`` commands."""
    from serving.cli.restart import build_restart_app

    chain = build_app(open_remote, find_checkpoint)
    chain.add_typer(build_restart_app(open_offline, write_genesis), name="restart")
    return chain


def chain_main() -> None:
    """Entry point of the ``chain`` command."""
    _run_app(build_chain_app())


def main() -> None:
    """Entry point of the ``wwwserve`` command."""
    app.add_typer(build_chain_app(), name="chain")
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
