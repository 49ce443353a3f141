"""The executors of each model by the ledger, for those who choose one: their results in duels, the weights that they
declare, and the findings of checks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import trio

from chain.state.sequential_test import AccountHistory
from chain.state.state import StateReader
from consensus.engine import Engine

REPORT_INTERVAL_S = 10.0
"""Seconds for which a report is not made again: it reads the rating of every executor."""


@dataclass(slots=True)
class IdentityReport:
    """The executors that declare one identity of a model, with the numbers of their checks, and of failures by each
    statistic."""

    executors: int = 0
    checks: int = 0
    shortfall_failures: int = 0
    distance_failures: int = 0

    def add(self, history: AccountHistory) -> None:
        """Add one executor with its checks."""
        self.executors += 1
        self.checks += history.distance.checks
        self.shortfall_failures += history.shortfall.failures
        self.distance_failures += history.distance.failures


@dataclass(slots=True)
class ModelReport:
    """The executors of one model in this serving period.

    ``duels`` is the number of duels in their ratings that compared two answers. ``won_points`` counts two for each duel
    that the executor won and one for each tie. An account has one rating for all models that it serves. ``identities``
    are those that executors declare, by digest.
    """

    executors: int = 0
    duels: int = 0
    won_points: int = 0
    identities: dict[bytes, IdentityReport] = field(default_factory=dict)

    @property
    def win_rate(self) -> float | None:
        """Share of the duels that were won, a tie counting half, from 0 to 1; None without any duel."""
        return self.won_points / (2 * self.duels) if self.duels else None

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        rate = self.win_rate
        return {
            "executors": self.executors,
            "duels": self.duels,
            "win_rate": None if rate is None else round(rate, 4),
            "identities": [
                {"digest": digest.hex(), **asdict(report)} for digest, report in sorted(self.identities.items())
            ],
        }


def make_reports(state: StateReader) -> dict[str, ModelReport]:
    """The reports by model, of every model that has an executor in the serving table in force."""
    table = state.serving_table(state.serving_periods.current.first_round)
    reports: dict[str, ModelReport] = {}
    for entry in () if table is None else table.entries:
        rating = state.rating(entry.public_key)
        for model in entry.models:
            report = reports.setdefault(model, ModelReport())
            report.executors += 1
            report.duels += rating.compared
            report.won_points += rating.won_points
        for identity in entry.identities:
            found = reports[identity.model].identities.setdefault(identity.digest, IdentityReport())
            found.add(state.check_history(entry.public_key, identity.digest))
    return reports


class ModelReports:
    """The reports of one node, as of its last final state but for :data:`REPORT_INTERVAL_S`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._made_at = float("-inf")
        self._reports: dict[str, ModelReport] = {}

    def find(self, model: str) -> ModelReport:
        """The report of a model; an empty one if it has no executor."""
        now = trio.current_time()
        if now - self._made_at >= REPORT_INTERVAL_S:
            self._made_at, self._reports = now, make_reports(self._engine.state)
        return self._reports.get(model) or ModelReport()
