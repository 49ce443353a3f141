"""The parameters of checks of the model: by how many, for what pay, and which differences are honest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from chain.codec import Bounds, Record
from chain.parameters.duels import Share, StageTime
from chain.types.checks import MAX_CHECKERS, PPM, SHORTFALL_OFFSET

Shortfall = Annotated[int, Bounds(1, SHORTFALL_OFFSET)]
"""Thousandths of a standard deviation."""
Distance = Annotated[int, Bounds(1, PPM)]
"""Parts per million of probability."""
HonestShare = Annotated[int, Bounds(1, PPM)]
"""Largest number of a million checks of honest answers that exceed a limit."""


@dataclass(frozen=True, slots=True)
class CheckParameters(Record):
    """What a check costs and brings, and when it is failed. Shares are thousandths of the amount captured.

    A check has ``checkers``, or the largest odd number of them that there is; with 0 there are no checks. Each earns
    ``checker``. ``levy`` times the rate of duels is what a capture pays for this, if its executor declares an identity.
    The stages last ``commit_ms`` and ``reveal_ms`` at most.

    A check is failed by a shortfall above ``max_shortfall``, or by a distance above ``max_distance``; honest answers
    fail it at most ``honest_shortfall_ppm`` and ``honest_distance_ppm`` times in a million. The defaults leave room for
    checkers that lie: a fifth of the stake under an identity is two of three in 104,000 of a million checks. Two
    reports agree if they are no more than ``shortfall_tolerance`` and ``distance_tolerance`` apart.

    ``max_distance`` lies between two distances that ``benchmarks.quality.substitution`` measures: that of honest pairs,
    even of two engines with activations of different formats, and that of weights of four bits or without two layers.
    Eight-bit weights in place of sixteen differ no more than honest engines do: no network-wide limit finds them.
    """

    checkers: Annotated[int, Bounds(0, MAX_CHECKERS)] = 3
    checker: Share = 80
    levy: Share = 240
    commit_ms: StageTime = 120_000
    reveal_ms: StageTime = 30_000
    max_shortfall: Shortfall = 2_500
    max_distance: Distance = 50_000
    honest_shortfall_ppm: HonestShare = 120_000
    honest_distance_ppm: HonestShare = 120_000
    shortfall_tolerance: Shortfall = 500
    distance_tolerance: Distance = 10_000

    @property
    def quorum(self) -> int:
        """Checkers that must agree, or a check counts for nothing: more than half of ``checkers``."""
        return self.checkers // 2 + 1


DEFAULT_CHECKS = CheckParameters()
"""Those of a chain whose genesis does not say otherwise."""
