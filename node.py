"""The composition root: builds one node out of the four packages.

:class:`Node` runs on the network, the store and the backends that it is given; a simulation runs the same class.
:func:`run_node` gives it the real ones, for the command ``run``, which alone imports this module.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import trio

from chain.cli.contract import print_result
from chain.crypto import KeyPair
from chain.exceptions import StoreDamaged
from chain.genesis import Genesis
from chain.store.kv import MemoryStore, Store, WriteTimer
from chain.store.layout import PAYMENTS_PREFIX
from chain.store.writer import ChainStore
from consensus.engine import Engine, Settings
from consensus.validator_tasks import ValidatorTasks
from consensus.voting.disk import DataDisk, open_storage
from consensus.voting.vote_store import VoteStore
from p2p.discovery.peer_store import PeerStore
from p2p.discovery.service import Discovery
from p2p.network import Misbehaviour, Network, NetworkError, RunnableNetwork
from p2p.peers.table import PeerTable
from p2p.ping import MAX_PINGS_PER_PEER, PING_PROTOCOL, Pinger
from p2p.runtime import RealRuntime, Runtime
from p2p.streams.exchanges import Streams
from serving.accounting.payments import Payments
from serving.accounting.stake_keeper import StakeKeeper
from serving.accounting.wallet import Wallet
from serving.advertiser import Advertiser
from serving.api import Api
from serving.backends.backend import Backend
from serving.cli.main import chain_main, main
from serving.config.build import (
    build_backends,
    build_certificate,
    build_identities,
    build_judge,
    build_network,
    build_originator_settings,
    build_policy,
    check_api_keys,
)
from serving.config.data_directory import (
    ADMIN_ADDRESS_FILE,
    ADMIN_TOKEN_FILE,
    CONFIG_FILE,
    DUELS_DIRECTORY,
    KEYS_DIRECTORY,
    PEERS_FILE,
)
from serving.config.schema import NodeConfig
from serving.dispatcher import Dispatcher
from serving.failover.resent_requests import ResentRequests
from serving.http.access import AccessRules, is_loopback
from serving.http.limits import HttpLimits
from serving.http.server import HttpServer, ListenError
from serving.keys.keyring import Keyring, open_keyring
from serving.offload.context import OffloadContext
from serving.offload.executor.executor import Executor
from serving.offload.originator.dialer import ExecutorDialer
from serving.offload.originator.originator import Originator
from serving.offload.protocol import OFFLOAD_PROTOCOL
from serving.offload.settings import ExecutorSettings, OriginatorSettings
from serving.quality.duels.backend_work import DuelJudge, DuelJudgeSettings
from serving.quality.duels.handover import MAX_REQUESTS_PER_PEER
from serving.quality.duels.identities import Identities
from serving.quality.duels.protocol import DUEL_PROTOCOL
from serving.quality.duels.runner import DuelRunner
from serving.quality.duels.table import DuelTable, open_table
from serving.quality.model_reports import ModelReports
from serving.quality.same_model.identity import ModelIdentity
from serving.scheduling.availability import AvailabilityGate
from serving.scheduling.backend_pool import BackendPool
from serving.scheduling.policy import Policy

if TYPE_CHECKING:
    from p2p.dht.service import DhtDiscovery
    from serving.admin.health.machine import Machine
    from serving.admin.orders.policy_orders import Reload
    from serving.admin.server import Admin, Partition
    from serving.admin.service_manager import ServiceManager

log = structlog.get_logger(__name__)

MAX_OFFERS_PER_PEER = 64
"""Offers of one peer that are handled at a time."""
BACKENDS_TIMEOUT_S = 10.0
"""How long a node waits for its backends before it joins without them."""
DRAIN_CHECK_INTERVAL_S = 0.1
"""How often a node that ends looks whether all is done."""
CAPTURE_TIMEOUT_S = 5.0
"""How long a node that ends waits for what it earned to be final on the ledger."""
DAMAGE_CHECK_INTERVAL_S = 1.0
"""How often a node looks whether damage to its database was found."""
ORPHAN_PATIENCE_S = 8.0
"""How long a node may take to stop in order when the process that it belongs to has gone."""
INDEX_PAUSE_S = 0.02
"""Pause between two parts of the index of accounts, so that agreement comes first."""
INDEX_INTERVAL_S = 0.5
"""How often a node looks whether its index of accounts is complete: so far the index may be behind the chain."""


def make_peer_table(key: KeyPair, runtime: Runtime, bootstrap: Sequence[tuple[bytes, str]]) -> PeerTable:
    """The empty peer table of a node, which its network reads and its discovery fills."""
    return PeerTable(key.public_key, salt=runtime.random.randbytes(16), bootstrap=(peer for peer, _ in bootstrap))


class Node:
    """One node: ledger, overlay and market, wired together.

    ``vote_store`` makes it a validator if genesis does. ``backends`` come with the number of requests each may run at a
    time. ``bootstrap`` are (public key, multiaddress) pairs. ``stake`` is the bond to keep, in micro-credits. ``store``
    keeps what payments must know after a restart, and ``peers`` remembers where other peers were. ``peer_table`` is the
    one that ``network`` reads. ``dht_servers`` are servers of a DHT to ask first; with None the node takes no part in
    it. ``judge`` is how it judges duels, None if it does not, and ``duel_table`` what it remembers of them.
    ``identities`` are those of its models. ``keys`` say who may use its API (default: everybody). ``machine`` is what
    it is told of the machine that it runs on.
    """

    def __init__(
        self,
        *,
        genesis: Genesis,
        key: KeyPair,
        network: Network,
        blocks: ChainStore,
        runtime: Runtime,
        policy: Policy,
        backends: Sequence[tuple[Backend, int]] = (),
        vote_store: VoteStore | None = None,
        bootstrap: Sequence[tuple[bytes, str]] = (),
        stake: int | None = None,
        store: Store | None = None,
        settings: Settings | None = None,
        executor_settings: ExecutorSettings | None = None,
        originator_settings: OriginatorSettings | None = None,
        peer_table: PeerTable | None = None,
        peers: PeerStore | None = None,
        dht_servers: Sequence[tuple[bytes, str]] | None = None,
        judge: DuelJudgeSettings | None = None,
        duel_table: DuelTable | None = None,
        identities: Sequence[ModelIdentity] = (),
        keys: Keyring | None = None,
        machine: Machine | None = None,
    ) -> None:
        self.key = key
        self.machine = machine
        self.runtime = runtime
        self.network = network
        self.policy = policy
        self.bootstrap = tuple(bootstrap)
        self.streams = Streams(network)
        self.pinger = Pinger(network, self.streams, runtime)
        if peer_table is None:
            peer_table = make_peer_table(key, runtime, bootstrap)
        peer_table.weight = self._get_weight
        self.discovery = Discovery(
            network,
            self.streams,
            runtime,
            key,
            genesis.chain_id,
            table=peer_table,
            bootstrap=bootstrap,
            store=peers,
        )
        self.dht: DhtDiscovery | None = None
        if dht_servers is not None:
            from p2p.dht.service import DhtDiscovery

            self.dht = DhtDiscovery(network, self.discovery, runtime, genesis.chain_id, dht_servers)
        self.engine = Engine(
            genesis, vote_store, network, self.streams, runtime, blocks, settings, peer_table.get_addresses
        )
        self.backend_pool = BackendPool(backends, policy)
        self.availability = AvailabilityGate(policy, runtime)
        self.wallet = Wallet(key, self.engine)
        self.payments = Payments(key, self.engine, runtime, store)
        has_duels = genesis.parameters.duels.rate > 0
        table = duel_table if duel_table is not None else DuelTable(key, MemoryStore(), runtime.random)
        self.identities = Identities(self.backend_pool, identities if has_duels else ())
        keep = table.keep if has_duels else None
        context = OffloadContext(key, self.engine, self.payments, runtime, keep, self.identities.make_tap)
        dialer = ExecutorDialer(self.streams, self.discovery.find, peer_table.get_addresses, self.discovery.has_left)
        own_judge: DuelJudge | None = None
        if has_duels and judge is not None:
            own_judge = DuelJudge(judge, self.backend_pool, runtime, self.identities.find_digest)
        self.duels: DuelRunner | None = None
        if has_duels:
            self.duels = DuelRunner(
                key, self.engine, runtime, dialer, self.backend_pool, table, self.identities, own_judge
            )
        self.originator = Originator(context, dialer, originator_settings)
        self.executor = Executor(
            context,
            self.backend_pool,
            policy,
            self.availability,
            executor_settings,
            lambda peer: network.report_misbehaviour(peer, Misbehaviour.RATE),
            self.originator.predictor.lengths,
        )
        self.keys = keys if keys is not None else Keyring(MemoryStore(), runtime)
        self.dispatcher = Dispatcher(self.backend_pool, policy, self.originator, runtime, self.availability, self.keys)
        self.model_reports = ModelReports(self.engine)
        self.validator_tasks = ValidatorTasks(key, self.engine, self.wallet.submit, runtime)
        self.resent = ResentRequests()
        self.advertiser = Advertiser(self.discovery, self.backend_pool, self.availability)
        self.stake_keeper = StakeKeeper(
            key,
            self.engine,
            self.wallet,
            self.backend_pool.get_offered_models,
            stake,
            own_judge.declare if own_judge is not None else lambda: None,
            self.identities.get_declared,
        )

    def _get_weight(self, peer: bytes) -> int:
        """The bond of ``peer``, by which it keeps its places with others; 0 if it is too small to serve."""
        bond = self.engine.state.account(peer).bonded
        return bond if bond >= self.engine.genesis.parameters.min_service_bond else 0

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled; the network must be running.

        Raises:
            IdentityRefused: a backend cannot honour the identity of its model.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.backend_pool.run)
            await self.backend_pool.wait_alive(BACKENDS_TIMEOUT_S)
            await self.identities.try_living()
            nursery.start_soon(self.identities.run)
            await nursery.start(self.streams.run)
            await nursery.start(self.engine.run)
            await nursery.start(self.executor.run)
            self.streams.handle(PING_PROTOCOL, self.pinger.serve, MAX_PINGS_PER_PEER)
            self.streams.handle(OFFLOAD_PROTOCOL, self.executor.handle, MAX_OFFERS_PER_PEER)
            nursery.start_soon(self.payments.run)
            await nursery.start(self.resent.run)
            nursery.start_soon(self.keys.run)
            if self.duels is not None:
                self.streams.handle(DUEL_PROTOCOL, self.duels.server.handle, MAX_REQUESTS_PER_PEER)
                nursery.start_soon(self.duels.run)
            await nursery.start(self.discovery.run)
            if self.dht is not None:
                await nursery.start(self.dht.run)
            nursery.start_soon(self.advertiser.run)
            nursery.start_soon(self.stake_keeper.run)
            nursery.start_soon(self.validator_tasks.run)
            task_status.started()

    def take_nothing_new(self) -> None:
        """Refuse requests and offers from now on, because the node ends."""
        self.availability.is_ending = True

    async def drain(self) -> None:
        """Return once all that is under way is answered, and what it earned is final."""
        log.info("stopping", requests=self.dispatcher.under_way + self.executor.under_way)
        while self.dispatcher.under_way or self.executor.under_way:
            await trio.sleep(DRAIN_CHECK_INTERVAL_S)
        with trio.move_on_after(CAPTURE_TIMEOUT_S):
            while self.payments.payee.uncaptured:
                await trio.sleep(DRAIN_CHECK_INTERVAL_S)


# The real node.

_LOADED_AT = time.monotonic()
"""When this module was loaded, with which a node starts."""

TESTING_VARIABLE = "WWWSERVE_TESTING"
"""Environment variable that, set to anything, lets tests cut the node off from peers through its admin listener."""
Announce = Callable[[Node, HttpServer, "Admin"], None]
"""Says that a node is ready."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that end a node in order."""
RELOAD_SIGNAL = signal.SIGHUP
"""Signal on which a node reads the policy in its configuration file again."""


@contextmanager
def name_setting(keys: str) -> Iterator[None]:
    """Add to an error of listening which keys of the configuration to change."""
    try:
        yield
    except (ListenError, NetworkError) as error:
        raise type(error)(f"{error}; choose another with {keys} in {CONFIG_FILE}") from error


async def run_node(
    data_dir: Path,
    config: NodeConfig,
    key: KeyPair,
    genesis: Genesis,
    as_json: bool = False,
    stop_with_stdin: bool = False,
) -> None:
    """Run a node on real sockets and files until it is told to stop (SIGINT, SIGTERM).

    It says where it is once it is ready, with ``as_json`` for programs. With ``stop_with_stdin`` it also stops when its
    standard input ends, as it does when the process that holds the other end of a pipe has gone.

    Raises:
        StoreError, NetworkError, ListenError, ConfigError, IdentityRefused: it cannot start, or its disk fails.
    """
    from serving.admin.health.machine import Machine
    from serving.admin.local_sockets import lend_ledger
    from serving.admin.observer import Observer
    from serving.admin.orders.policy_orders import reload_policy
    from serving.admin.service_manager import ServiceManager

    runtime = RealRuntime()
    judge = build_judge(config, data_dir)
    identities = build_identities(config, data_dir)
    peer_table = make_peer_table(key, runtime, config.get_bootstrap())
    network = build_network(config, key, runtime, peer_table)
    timer = WriteTimer(trio.lowlevel.current_clock().current_time)
    machine = Machine(data_dir, timer.times, runtime)
    disk = DataDisk(data_dir, runtime.now, timer)
    opened = open_storage(
        disk,
        genesis,
        key,
        runtime.random,
        votes=config.votes,
        kept=(PAYMENTS_PREFIX,),
        keep_epochs=config.keep_epochs,
        index_accounts=config.index_accounts,
    )
    required = not is_loopback(config.api.host)
    with (
        closing(opened),
        closing(_open_duel_table(data_dir, key, genesis, runtime)) as table,
        closing(open_keyring(data_dir / KEYS_DIRECTORY, runtime, config.api.get_keys(), required=required)) as keys,
        _noting_damage(disk),
    ):
        node = Node(
            genesis=genesis,
            key=key,
            network=network,
            blocks=opened.blocks,
            runtime=runtime,
            policy=build_policy(config),
            originator_settings=build_originator_settings(config),
            backends=build_backends(config, runtime),
            vote_store=opened.vote_store,
            bootstrap=config.get_bootstrap(),
            stake=config.policy.get_stake(),
            store=opened.store,
            peer_table=peer_table,
            peers=PeerStore(data_dir / PEERS_FILE),
            dht_servers=config.get_dht_servers(),
            judge=judge,
            duel_table=table,
            identities=identities,
            keys=keys,
            machine=machine,
            settings=Settings(block_spacing_s=config.block_spacing_ms / 1000, checkpoint=config.get_checkpoint()),
        )
        # Both listeners are bound before anything else starts, so that a taken port is an error at once.
        front = await _open_front(node, config, data_dir)
        reload = partial(reload_policy, node, config.policy.get_name(), data_dir / CONFIG_FILE)
        admin = await _open_admin(node, front, config, data_dir, reload, network.partition)
        public = await _open_public(node, config, admin)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, disk)
            nursery.start_soon(machine.run)
            nursery.start_soon(Observer(node).run)
            if stop_with_stdin:
                nursery.start_soon(_stop_with_stdin)
            if config.index_accounts:
                nursery.start_soon(_keep_index, opened.blocks)
            await nursery.start(lend_ledger, data_dir, opened.store)
            if public is not None:
                nursery.start_soon(public.run)
            manager = ServiceManager(os.environ, os.getpid())
            announce = partial(_announce, config=config, as_json=as_json)
            await _serve(node, network, front, admin, data_dir, reload, announce, manager, config.drain_timeout_s)
            nursery.cancel_scope.cancel()
        opened.blocks.extend_index()  # what came in last, for those who look while no node runs
    log.info("stopped", after_s=round(time.monotonic() - _LOADED_AT))


def _open_duel_table(data_dir: Path, key: KeyPair, genesis: Genesis, runtime: Runtime) -> DuelTable:
    """What the node remembers of duels; nothing on the disk on a chain without any."""
    if not genesis.parameters.duels.rate:
        return DuelTable(key, MemoryStore(), runtime.random)
    return open_table(data_dir / DUELS_DIRECTORY, key, runtime.random)


async def _open_front(node: Node, config: NodeConfig, data_dir: Path) -> HttpServer:
    api = config.api
    access = AccessRules(api.host, api.allowed_hosts, api.allowed_origins)
    check_api_keys(config, bool(node.keys.get_records()))
    front = Api(node.dispatcher, node.keys, access, node.model_reports, node.resent)
    limits = HttpLimits(connections_per_address=api.max_per_address)
    certificate = build_certificate(config, data_dir)
    with name_setting("api.host and api.port"):
        return await HttpServer.open(front.handle, api.host, api.port, node.runtime, limits, front.admit, certificate)


async def _open_admin(
    node: Node, front: HttpServer, config: NodeConfig, data_dir: Path, reload: Reload, partition: Partition
) -> Admin:
    from serving.admin.local_sockets import ADMIN_SOCKET_FILE, listen_locally
    from serving.admin.server import Admin
    from serving.dashboard.pages import Dashboard

    with name_setting("admin.host and admin.port"):
        return await Admin.open(
            node,
            config.admin.host,
            config.admin.port,
            data_dir / ADMIN_TOKEN_FILE,
            reload,
            partition if os.environ.get(TESTING_VARIABLE) else None,
            partial(Dashboard, api_url=_get_api_url(front)),
            listen_locally(data_dir / ADMIN_SOCKET_FILE),
        )


def _get_api_url(front: HttpServer) -> str:
    return f"{front.scheme}://{front.address[0]}:{front.address[1]}/v1"


async def _open_public(node: Node, config: NodeConfig, admin: Admin) -> HttpServer | None:
    """The listener of the public level, if the owner wants one."""
    if not config.dashboard.public:
        return None
    from serving.dashboard.public import open_public

    with name_setting("dashboard.host and dashboard.port"):
        return await open_public(admin.make_public_app(), config.dashboard, node.runtime)


@contextmanager
def _noting_damage(disk: DataDisk) -> Iterator[None]:
    """Note damage to the database on disk when the node ends, so that the next start repairs it."""
    try:
        yield
    except BaseException as error:
        damage = _find_damage(error)
        if damage is not None:
            disk.note_fault(damage)
        raise
    finally:
        if disk.fault is not None:
            disk.note_fault(disk.fault)


def _find_damage(error: BaseException) -> StoreDamaged | None:
    """The damage to the database that ``error`` is or contains, if it does."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for part in error.exceptions if (found := _find_damage(part)) is not None), None)
    return error if isinstance(error, StoreDamaged) else None


async def _watch(disk: DataDisk) -> None:
    """End the node once damage to the database was found. It may have been found while a peer was answered.

    Raises:
        StoreDamaged: the damage.
    """
    while disk.fault is None:
        await trio.sleep(DAMAGE_CHECK_INTERVAL_S)
    raise disk.fault


async def _stop_with_stdin() -> None:
    """Send this process the signal to stop when standard input ends, and end it by force if that takes too long.

    No other process is left to do that. The kernel does it, because a model server that is ended may hang in native
    code, where no thread of Python runs any more. What a node has on disk is whole at any moment.
    """
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
        while await stream.receive_some():
            pass
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, ORPHAN_PATIENCE_S)
    os.kill(os.getpid(), signal.SIGTERM)


async def _keep_index(blocks: ChainStore) -> None:
    """Index the accounts of blocks from before there was an index, and of those that come in."""
    while True:
        is_behind = not blocks.is_index_complete and await trio.to_thread.run_sync(blocks.extend_index)
        await trio.sleep(INDEX_PAUSE_S if is_behind else INDEX_INTERVAL_S)


async def _serve(
    node: Node,
    network: RunnableNetwork,
    front: HttpServer,
    admin: Admin,
    data_dir: Path,
    reload: Reload,
    announce: Announce,
    manager: ServiceManager,
    drain_timeout_s: float,
) -> None:
    """Run until a signal to stop comes, then end in order: finish what is under way, for ``drain_timeout_s`` at most.

    A second signal ends that at once. What follows it, which takes a moment, no signal interrupts. A node that is still
    starting has nothing under way, and does not know yet which peers it knew: it ends at once.
    """
    from serving.admin.orders.policy_orders import reload_on_signal

    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # trio puts this handler back when the receiver is closed
    with trio.open_signal_receiver(*STOP_SIGNALS, RELOAD_SIGNAL) as signals:
        async with trio.open_nursery() as nursery:
            is_running = trio.Event()
            nursery.start_soon(_start, node, network, front, admin, data_dir, announce, manager, nursery, is_running)
            async for received in signals:
                if received in STOP_SIGNALS:
                    break
                reload_on_signal(reload)
            _withdraw_addresses(data_dir)
            manager.notify("STOPPING=1")
            if is_running.is_set():
                node.take_nothing_new()
                await node.discovery.leave()
                await _drain(node, signals, drain_timeout_s)
            nursery.cancel_scope.cancel()
    _withdraw_addresses(data_dir)  # again, for a listener that had only just begun


def _withdraw_addresses(data_dir: Path) -> None:
    """Say no more where the owner's listener is."""
    from serving.admin.local_sockets import ADMIN_SOCKET_FILE

    for name in (ADMIN_ADDRESS_FILE, ADMIN_SOCKET_FILE):
        (data_dir / name).unlink(missing_ok=True)


async def _drain(node: Node, signals: AsyncIterator[int], timeout_s: float) -> None:
    """Finish what is under way, until the time is over or another signal to stop comes."""
    with trio.move_on_after(timeout_s):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wait_to_stop, signals, nursery.cancel_scope)
            await node.drain()
            nursery.cancel_scope.cancel()


async def _wait_to_stop(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for received in signals:
        if received in STOP_SIGNALS:
            log.warning("ends at once, as told")
            scope.cancel()


async def _start(
    node: Node,
    network: RunnableNetwork,
    front: HttpServer,
    admin: Admin,
    data_dir: Path,
    announce: Announce,
    manager: ServiceManager,
    nursery: trio.Nursery,
    is_running: trio.Event,
) -> None:
    with name_setting("listen"):
        await nursery.start(network.run)
    await nursery.start(node.run)
    is_running.set()
    nursery.start_soon(front.run)
    nursery.start_soon(admin.run)
    (data_dir / ADMIN_ADDRESS_FILE).write_text("{}:{}".format(*admin.address))
    announce(node, front, admin)
    manager.notify("READY=1", f"STATUS={_describe_briefly(node)}")
    nursery.start_soon(manager.run, partial(_describe_briefly, node))


def _describe_briefly(node: Node) -> str:
    """How the node is, in one line for the service manager."""
    from serving.admin.health.health import find_node_troubles
    from serving.admin.health.troubles import judge

    troubles = find_node_troubles(node)
    found = "; ".join(trouble.text for trouble in troubles)
    return f"{judge(troubles).value}, height {node.engine.header.height:,}" + (f": {found}" if found else "")


def _announce(node: Node, front: HttpServer, admin: Admin, *, config: NodeConfig, as_json: bool) -> None:
    """Say that the node is ready: who it is, where, and what is wrong."""
    from serving.admin.health.health import get_version
    from serving.admin.reports import report_status
    from serving.cli.running.status import describe_start

    api = _get_api_url(front)
    owner = f"http://{admin.address[0]}:{admin.address[1]}"
    peers = [f"{address}/p2p/{node.key.address}" for address in node.network.listen_addresses]
    status = report_status(node)
    content = {"address": node.key.address, "api": api, "admin": owner, "peers": peers, "troubles": status["troubles"]}
    taken = time.monotonic() - _LOADED_AT
    lines = describe_start(status, api, bool(config.api.keys), owner, peers)
    log.info(
        "ready",
        after_s=round(taken, 1),
        version=get_version(),
        address=node.key.address,
        chain=node.engine.genesis.name,
        api=api,
        admin=owner,
        models=status["models"],
    )
    print_result(content, as_json, *lines, f"ready in {taken:.1f} s. Stop with Ctrl-C.")
    sys.stdout.flush()


__all__ = ["Node", "chain_main", "main", "make_peer_table", "name_setting", "run_node"]

if __name__ == "__main__":
    main()
