"""The parts of a node that the admin listener reports on and acts through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from chain.crypto import KeyPair
from consensus.engine import Engine
from p2p.discovery.service import Discovery
from p2p.network import Network
from p2p.ping import Pinger
from p2p.runtime import Runtime
from serving.accounting.payments import Payments
from serving.accounting.stake_keeper import StakeKeeper
from serving.accounting.wallet import Wallet
from serving.admin.health.machine import Machine
from serving.dispatcher import Dispatcher
from serving.keys.keyring import Keyring
from serving.offload.executor.executor import Executor
from serving.quality.duels.runner import DuelRunner
from serving.quality.model_reports import ModelReports
from serving.scheduling.availability import AvailabilityGate
from serving.scheduling.backend_pool import BackendPool
from serving.scheduling.policy import Policy


class NodeView(Protocol):
    """The parts of one node, as ``node.Node`` has them."""

    @property
    def key(self) -> KeyPair: ...
    @property
    def bootstrap(self) -> Sequence[tuple[bytes, str]]: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def runtime(self) -> Runtime: ...
    @property
    def machine(self) -> Machine | None: ...
    @property
    def discovery(self) -> Discovery: ...
    @property
    def pinger(self) -> Pinger: ...
    @property
    def network(self) -> Network: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def backend_pool(self) -> BackendPool: ...
    @property
    def availability(self) -> AvailabilityGate: ...
    @property
    def stake_keeper(self) -> StakeKeeper: ...
    @property
    def wallet(self) -> Wallet: ...
    @property
    def payments(self) -> Payments: ...
    @property
    def executor(self) -> Executor: ...
    @property
    def keys(self) -> Keyring: ...
    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def duels(self) -> DuelRunner | None: ...
    @property
    def model_reports(self) -> ModelReports: ...
