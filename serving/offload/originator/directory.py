"""The directory: which executors the ledger has for a model, and what those that are present announce."""

from __future__ import annotations

from collections.abc import Iterator

from chain.state.lottery import ServingTable
from p2p.peers.announcement import Announcement, PeerLoad
from serving.offload.context import OffloadContext
from serving.offload.originator.dialer import ExecutorDialer
from serving.offload.originator.draws import Draws
from serving.openai.provider_rules import ANYBODY, ProviderRules
from serving.prediction.announced_load import read_model_load
from serving.prediction.predicted_time import UNKNOWN_SPEED, ServiceSpeed

NO_LOAD = PeerLoad()
"""What a peer that announced nothing says of its load."""


class ExecutorDirectory:
    """The executors of this serving period, as this node sees them; none if it does not offload."""

    def __init__(self, context: OffloadContext, dialer: ExecutorDialer, *, is_enabled: bool) -> None:
        self._me = context.key.public_key
        self._bond_per_hold = context.engine.genesis.parameters.bond_per_hold
        self._dialer = dialer
        self._is_enabled = is_enabled
        self._draws = Draws(context)

    @property
    def first_round(self) -> int:
        """The first round of the present serving period."""
        return self._draws.first_round

    @property
    def _table(self) -> ServingTable | None:
        return self._draws.table if self._is_enabled else None

    def has_executors(self, model: str, rules: ProviderRules = ANYBODY) -> bool:
        """Whether another node that ``rules`` allow serves ``model``."""
        table = self._table
        return table is not None and any(
            model in entry.models and entry.public_key != self._me and self._is_allowed(entry.public_key, model, rules)
            for entry in table.entries
        )

    def _is_allowed(self, executor: bytes, model: str, rules: ProviderRules) -> bool:
        """Whether a node may answer, with the number formats that it announces."""
        if not rules.allows(executor):
            return False
        return not rules.has_formats or rules.allows_formats(self.read_load(executor, model)[1].number_formats)

    def get_models(self) -> set[str]:
        """Every model that a node stands behind."""
        table = self._table
        return {model for entry in table.entries for model in entry.models} if table is not None else set()

    def find_speeds(self) -> dict[str, list[ServiceSpeed]]:
        """The speeds that the other present executors announce, by model."""
        table, found = self._table, dict[str, list[ServiceSpeed]]()
        for entry in table.entries if table is not None else ():
            for model in entry.models:
                announcement = None if entry.public_key == self._me else self._find_present(entry.public_key, model)
                if announcement is not None:
                    found.setdefault(model, []).append(_read(announcement, model)[1])
        return found

    def draw(
        self, model: str, first_round: int, seq: int, amount: int = 0
    ) -> Iterator[tuple[int, bytes, PeerLoad, ServiceSpeed]]:
        """Positions and keys of the reachable candidates for a hold of ``amount``, in the order of the draw.

        Each comes with its announcement, and with what that says of the model.
        """
        least_bond = self._bond_per_hold * amount  # executors decline dearer holds
        for drawn in self._draws.draw(model, first_round, seq):
            if drawn.free_bond >= least_bond:
                announcement = self._find_present(drawn.executor, model)
                if announcement is not None:
                    yield drawn.number, drawn.executor, *_read(announcement, model)

    def _find_present(self, executor: bytes, model: str) -> Announcement | None:
        """The announcement of a peer, if it is present and announces a living backend of ``model``."""
        announcement = self._dialer.find(executor)
        return announcement if announcement is not None and model in announcement.models else None

    def read_load(self, executor: bytes, model: str) -> tuple[PeerLoad, ServiceSpeed]:
        """What an executor announces of itself, and of a model."""
        announcement = self._dialer.find(executor)
        return (NO_LOAD, UNKNOWN_SPEED) if announcement is None else _read(announcement, model)


def _read(announcement: Announcement, model: str) -> tuple[PeerLoad, ServiceSpeed]:
    """What an announcement says of its node, and of a model."""
    load = announcement.load.find(model)
    return announcement.load, UNKNOWN_SPEED if load is None else read_model_load(load)
