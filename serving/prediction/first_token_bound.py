"""By when a first token is expected: the predicted time, and a margin that follows how far predictions were off. Pure.

The margin is that of TCP's retransmission timer (RFC 6298): four times the mean deviation, and at least
:data:`MIN_MARGIN_S`. It is doubled each time that it was too short, once for all requests that were under way together.
About one honest first token in a hundred comes later. There is no bound before a few first tokens were measured: an
announcement is not a measurement.

A first token is *late* after half of the margin without doublings, as about one honest one in twenty is. Then another
node may be asked as well (``serving.offload.originator.hedging``), while this one may still answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from chain.collections import BoundedDict
from serving.prediction.correction import get_size_class
from serving.prediction.predicted_time import RequestSize

MIN_SAMPLES = 3
"""Measured first tokens without which there is no bound."""
MIN_MARGIN_S = 1.0
"""Least margin: a block that comes late is no stall."""
DEVIATIONS = 4.0
"""Margin as a multiple of the mean deviation."""
LATE_DEVIATIONS = 2.0
"""The same after which a first token is late."""
MIN_LATE_MARGIN_S = 0.5
"""Least margin of that."""
DEVIATION_WEIGHT = 0.25
"""Weight of a new deviation, beside all before it."""
MAX_DOUBLINGS = 3
"""Most doublings of a margin. They bound how long a user waits when an executor that fell silent is tried again."""
MAX_BOUNDS = 4096
"""Deviations that are kept; beyond it, the one that changed longest ago is forgotten."""


@dataclass(frozen=True, slots=True)
class _Deviation:
    """How far predicted first tokens were off, in seconds."""

    mean_s: float = 0.0
    samples: int = 0
    doublings: int = 0
    doubled_at: float = -math.inf


class FirstTokenBounds:
    """The bounds for all peers that this node has measured, by model and class of size."""

    def __init__(self) -> None:
        self._deviations: BoundedDict[tuple[bytes, str, int], _Deviation] = BoundedDict(MAX_BOUNDS)

    def __len__(self) -> int:
        """Deviations that are kept."""
        return len(self._deviations)

    def note(self, node: bytes, model: str, size: RequestSize, predicted_s: float, measured_s: float) -> None:
        """The first token of a request of ``size`` took ``measured_s``."""
        key, off_s = (node, model, get_size_class(size)), abs(measured_s - predicted_s)
        before = self._deviations.get(key)
        if before is None or not before.samples:
            self._deviations[key] = _Deviation(off_s, 1)
        else:
            mean_s = before.mean_s + DEVIATION_WEIGHT * (off_s - before.mean_s)
            self._deviations[key] = _Deviation(mean_s, min(MIN_SAMPLES, before.samples + 1))

    def note_late(self, node: bytes, model: str, size: RequestSize, begun_at: float, now: float) -> None:
        """A first token did not come within the bound: the next one gets twice the margin.

        Of requests that had the same margin only the first counts: one stall is one error of the margin, however many
        requests wait in it.
        """
        key = (node, model, get_size_class(size))
        before = self._deviations.get(key)
        if before is not None and begun_at >= before.doubled_at:
            doublings = min(MAX_DOUBLINGS, before.doublings + 1)
            self._deviations[key] = replace(before, doublings=doublings, doubled_at=now)

    def get(self, node: bytes, model: str, size: RequestSize, predicted_s: float) -> float | None:
        """Seconds within which a first token that is predicted after ``predicted_s`` should be there; None: unknown."""
        found = self._find(node, model, size)
        if found is None:
            return None
        return predicted_s + max(MIN_MARGIN_S, DEVIATIONS * found.mean_s) * (1 << found.doublings)

    def get_late(self, node: bytes, model: str, size: RequestSize, predicted_s: float) -> float | None:
        """Seconds after which a first token that is predicted after ``predicted_s`` is late; None: unknown."""
        found = self._find(node, model, size)
        if found is None:
            return None
        return predicted_s + max(MIN_LATE_MARGIN_S, LATE_DEVIATIONS * found.mean_s)

    def _find(self, node: bytes, model: str, size: RequestSize) -> _Deviation | None:
        """What was measured, if that is enough."""
        found = self._deviations.get((node, model, get_size_class(size)))
        return None if found is None or found.samples < MIN_SAMPLES else found
