"""Correction of predictions by what was measured. Pure: times are seconds of one monotonic clock.

For each node, model and class of size there is a factor, measured time by predicted time, for the first token and for
the whole answer. It rises fast, falls slowly, and never below a half. A node that announces too much speed, which costs
nothing, loses its attraction with one request and wins it back with several. A difference that may be chance counts
little; otherwise each of several honest nodes would be taken for slow in turn. A factor goes back to 1 with time, so
that a node that was repaired is asked again.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field

from chain.collections import BoundedDict
from serving.prediction.predicted_time import PredictedTime, RequestSize

HALF_LIFE_S = 600.0
"""Time after which half of a correction (of its logarithm) is left."""
RISE = 0.6
"""Weight of a measurement above the factor, relative to all before it; the first one has all the weight."""
FALL = 0.25
"""The same of one below it."""
CHANCE_FACTOR = 1.5
"""Up to this factor, measurements differ by chance, such as by the other requests that run at the time."""
CHANCE = 0.1
"""Weight of such a measurement: many together are believed, but no single one decides between equal nodes."""
MIN_FACTOR = 0.5
"""Least factor: being slower than announced for a while earns nothing."""
MAX_FACTOR = 10_000.0
"""Largest factor."""
OFFSET_S = 0.25
"""Added to both times before they are compared, so that an error of milliseconds does not count."""
SIZE_CLASSES = (512, 4096)
"""Tokens of prompt and expected output at which the next class begins."""
MAX_FACTORS = 4096
"""Factors that are kept; beyond it, the one that changed longest ago is forgotten."""
_CLASSES = range(len(SIZE_CLASSES) + 1)
_NEAREST_CLASSES = [sorted(_CLASSES, key=lambda each: abs(each - size_class)) for size_class in _CLASSES]
"""For each class all of them, itself first."""


@dataclass(slots=True)
class _Factor:
    """The logarithm of a factor, and when it was true."""

    log: float = 0.0
    updated_at: float = 0.0
    is_known: bool = False

    def get_log(self, now: float) -> float:
        age_s = max(0.0, now - self.updated_at)
        return float(self.log * 0.5 ** (age_s / HALF_LIFE_S))

    def note(self, predicted: float, measured: float, now: float) -> None:
        ratio = (measured + OFFSET_S) / (predicted + OFFSET_S)
        found, before = math.log(min(MAX_FACTOR, max(MIN_FACTOR, ratio))), self.get_log(now)
        if abs(found - before) <= math.log(CHANCE_FACTOR):
            weight = CHANCE
        else:
            weight = (RISE if self.is_known else 1.0) if found > before else FALL
        self.log, self.updated_at, self.is_known = before + weight * (found - before), now, True

    def apply(self, seconds: float, now: float) -> float:
        return max(0.0, (seconds + OFFSET_S) * math.exp(self.get_log(now)) - OFFSET_S)


@dataclass(slots=True)
class _Factors:
    first_token: _Factor = field(default_factory=_Factor)
    total: _Factor = field(default_factory=_Factor)


class Corrections:
    """The factors of all nodes that this node has measured, itself among them."""

    def __init__(self) -> None:
        self._factors: BoundedDict[tuple[bytes, str, int], _Factors] = BoundedDict(MAX_FACTORS)

    def __len__(self) -> int:
        """Classes of size that are kept, of all nodes and models."""
        return len(self._factors)

    def correct(self, node: bytes, model: str, size: RequestSize, time: PredictedTime, now: float) -> PredictedTime:
        """The corrected prediction for a request of ``size``. A class without measurements takes the nearest one's
        factors."""
        factors = self._find(node, model, get_size_class(size))
        if factors is None:
            return time
        first_token = factors.first_token.apply(time.first_token, now)
        return PredictedTime(first_token, max(first_token, factors.total.apply(time.total, now)))

    def note(
        self,
        node: bytes,
        model: str,
        size: RequestSize,
        predicted: PredictedTime,
        now: float,
        first_token_s: float | None,
        total_s: float | None,
    ) -> None:
        """Note the times that a request of ``size`` took, and the ``predicted`` ones. None: not known."""
        key = (node, model, get_size_class(size))
        factors = self._factors.get(key) or _Factors()
        if first_token_s is not None:
            factors.first_token.note(predicted.first_token, first_token_s, now)
        if total_s is not None:
            factors.total.note(predicted.total, total_s, now)
        self._factors[key] = factors

    def has_total(self, node: bytes, model: str, size: RequestSize) -> bool:
        """Whether times of whole answers were measured: in the class of ``size``, or else in the nearest class
        known."""
        factors = self._find(node, model, get_size_class(size))
        return factors is not None and factors.total.is_known

    def _find(self, node: bytes, model: str, size_class: int) -> _Factors | None:
        for each in _NEAREST_CLASSES[size_class]:
            if (factors := self._factors.get((node, model, each))) is not None:
                return factors
        return None


def get_size_class(size: RequestSize) -> int:
    """The class of a request."""
    return bisect_right(SIZE_CLASSES, size.prompt + size.output)
