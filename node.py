"""The composition root: builds one node out of the four packages.

:class:`Node` runs on the network, the store and the backends that it is given; a simulation runs the same class.
:func:`run_node` gives it the real ones and :mod:`serving.daemon` around it, for the command ``run``, which alone
imports this module.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import trio

from chain.crypto import KeyPair
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
from p2p.network import Misbehaviour, Network
from p2p.peers.table import PeerTable
from p2p.ping import MAX_PINGS_PER_PEER, PING_PROTOCOL, Pinger
from p2p.runtime import RealRuntime, Runtime
from p2p.streams.exchanges import Streams
from serving.accounting.payments import Payments
from serving.accounting.stake_keeper import StakeKeeper
from serving.accounting.wallet import Wallet
from serving.advertiser import Advertiser
from serving.backends.backend import Backend
from serving.cli.main import chain_main, main
from serving.config.build import (
    build_backends,
    build_identities,
    build_judge,
    build_network,
    build_originator_settings,
    build_policy,
)
from serving.config.data_directory import CONFIG_FILE, DUELS_DIRECTORY, KEYS_DIRECTORY, PEERS_FILE
from serving.config.schema import NodeConfig
from serving.config.start_note import note_start
from serving.dispatcher import Dispatcher
from serving.failover.resent_requests import ResentRequests
from serving.http.access import is_loopback
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
from serving.scheduling.availability import AvailabilityGate, Ending
from serving.scheduling.backend_pool import BackendPool
from serving.scheduling.policy import Policy

if TYPE_CHECKING:
    from p2p.dht.service import DhtDiscovery
    from serving.admin.health.machine import Machine

log = structlog.get_logger(__name__)

MAX_OFFERS_PER_PEER = 64
"""Offers of one peer that are handled at a time."""
BACKENDS_TIMEOUT_S = 10.0
"""How long a node waits for servers before it joins without them. For models that it loads itself it waits without a
limit."""
DRAIN_CHECK_INTERVAL_S = 0.1
"""How often a node that ends looks whether all is done."""
CAPTURE_TIMEOUT_S = 5.0
"""How long a stopping node waits until its earnings are final on the ledger."""


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
    ``identities`` are those of its models. ``keys`` say who may use its API (default: everybody). ``machine`` measures
    the machine that it runs on. ``note_start`` is called with each step of the start.
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
        note_start: Callable[[str], None] = lambda doing: None,
    ) -> None:
        self.key = key
        self.machine = machine
        self._note_start = note_start
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
            self.originator.predictor,
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
            self._note_start("waiting for its model servers")
            await self.backend_pool.wait_alive(BACKENDS_TIMEOUT_S)
            self._note_start("trying its models")
            await self.identities.try_living()
            self._note_start("joining the network")
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

    def take_nothing_new(self, timeout_s: float) -> None:
        """Refuse requests and offers from now on, because the node ends, after ``timeout_s`` at most."""
        now = trio.current_time()
        self.availability.ending = Ending(now, now + timeout_s)

    @property
    def under_way(self) -> int:
        """Requests of users and of other nodes that are not answered yet."""
        return self.dispatcher.under_way + self.executor.under_way

    async def drain(self) -> None:
        """Return once all requests under way are answered, and its earnings are final."""
        log.info("stopping", requests=self.under_way)
        while self.under_way:
            await trio.sleep(DRAIN_CHECK_INTERVAL_S)
        with trio.move_on_after(CAPTURE_TIMEOUT_S):
            while self.payments.payee.uncaptured:
                await trio.sleep(DRAIN_CHECK_INTERVAL_S)


# The real node.

_LOADED_AT = time.monotonic()
"""When this module was loaded, with which a node starts."""


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
    from serving.daemon.lifecycle import serve
    from serving.daemon.listeners import open_admin, open_front, open_public_page
    from serving.daemon.notices import announce, print_notice, say_nothing
    from serving.daemon.upkeep import keep_index, noting_damage, stop_with_parent, watch_disk

    runtime = RealRuntime()
    judge = build_judge(config, data_dir)
    identities = build_identities(config, data_dir)
    peer_table = make_peer_table(key, runtime, config.get_bootstrap())
    network = build_network(config, key, runtime, peer_table)
    timer = WriteTimer(trio.lowlevel.current_clock().current_time)
    machine = Machine(data_dir, timer.times, runtime)
    note_start(data_dir, "opening its ledger")
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
        noting_damage(disk),
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
            note_start=partial(note_start, data_dir),
            settings=Settings(block_spacing_s=config.block_spacing_ms / 1000, checkpoint=config.get_checkpoint()),
        )
        # Both listeners are bound before anything else starts, so that a taken port is an error at once.
        front = await open_front(node, config, data_dir)
        reload = partial(reload_policy, node, config.policy.get_name(), data_dir / CONFIG_FILE)
        admin = await open_admin(node, front, config, data_dir, reload, network.partition)
        public = await open_public_page(node, config, admin)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_disk, disk)
            nursery.start_soon(machine.run)
            nursery.start_soon(Observer(node).run)
            if stop_with_stdin:
                nursery.start_soon(stop_with_parent)
            if config.index_accounts:
                nursery.start_soon(keep_index, opened.blocks)
            await nursery.start(lend_ledger, data_dir, opened.store)
            if public is not None:
                nursery.start_soon(public.run)
            manager = ServiceManager(os.environ, os.getpid())
            tell = partial(announce, config=config, as_json=as_json, loaded_at=_LOADED_AT)
            say = say_nothing if as_json else print_notice
            await serve(node, network, front, admin, data_dir, reload, tell, manager, config.drain_timeout_s, say)
            nursery.cancel_scope.cancel()
        opened.blocks.extend_index()  # what came in last, for those who look while no node runs
    log.info("stopped", after_s=round(time.monotonic() - _LOADED_AT))


def _open_duel_table(data_dir: Path, key: KeyPair, genesis: Genesis, runtime: Runtime) -> DuelTable:
    """What the node remembers of duels; nothing on the disk on a chain without any."""
    if not genesis.parameters.duels.rate:
        return DuelTable(key, MemoryStore(), runtime.random)
    return open_table(data_dir / DUELS_DIRECTORY, key, runtime.random)


__all__ = ["Node", "chain_main", "main", "make_peer_table", "run_node"]

if __name__ == "__main__":
    main()
