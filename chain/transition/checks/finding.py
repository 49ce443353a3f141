"""What the reports of a check say. Pure.

A number proves that its checker has scored the transcript only if others get the same. So two reports *agree* if both
of their numbers are within the tolerances. A report counts if it agrees with more than half of the measurements, itself
included. The finding is the median of the reports that count; of an even number it is the lower of the middle two, in
favour of the executor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from chain.parameters.checks import CheckParameters
from chain.state.check_records import ModelCheck
from chain.types.checks import ABSTAINED, MEASURED, NO_TRANSCRIPT, NOT_CHECKABLE, SHORTFALL_OFFSET, CheckReport


class CheckOutcome(Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    NO_TRANSCRIPT = "no transcript"
    """The executor did not hand over the transcript that it has committed to, or committed to none: both statistics
    fail."""
    NOT_CHECKABLE = "not checkable"
    INCONCLUSIVE = "inconclusive"
    """No majority of the checkers agrees, or none revealed a report."""


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """An outcome, the checkers whose measurements ``agreed``, and those whose measurements ``differed`` from theirs.

    If some differed, there are at least three measurements: of two that differ, neither agrees with a majority.

    ``shortfall`` is in thousandths of a standard deviation, ``distance`` in parts per million; both are None where
    nothing was measured. The check adds to the history of the executor if it ``is_counted``.
    """

    outcome: CheckOutcome
    agreed: tuple[bytes, ...] = ()
    differed: tuple[bytes, ...] = ()
    shortfall: int | None = None
    distance: int | None = None
    shortfall_failed: bool = False
    distance_failed: bool = False
    is_counted: bool = False


def decide(parameters: CheckParameters, check: ModelCheck) -> CheckFinding:
    """The finding of a check in which no more reports will be revealed."""
    reports = {seat.public_key: seat.report for seat in check.seats if seat.report is not None}
    said = [report for report in reports.values() if report.kind != ABSTAINED]
    kinds = (MEASURED, NO_TRANSCRIPT, NOT_CHECKABLE)
    counts = {kind: sum(report.kind == kind for report in said) for kind in kinds}
    kind = next((kind for kind in kinds if 2 * counts[kind] > len(said)), None)
    if kind == NO_TRANSCRIPT:
        is_counted = counts[kind] >= parameters.quorum
        return CheckFinding(
            CheckOutcome.NO_TRANSCRIPT, shortfall_failed=True, distance_failed=True, is_counted=is_counted
        )
    if kind == NOT_CHECKABLE:
        return CheckFinding(CheckOutcome.NOT_CHECKABLE)
    measured = {key: report for key, report in reports.items() if report.kind == MEASURED}
    agreed = {
        key: report
        for key, report in measured.items()
        if 2 * sum(_agree(parameters, report, other) for other in measured.values()) > len(measured)
    }
    if kind is None or not agreed:
        return CheckFinding(CheckOutcome.INCONCLUSIVE)
    shortfall = _compute_median(report.shortfall for report in agreed.values()) - SHORTFALL_OFFSET
    distance = _compute_median(report.distance for report in agreed.values())
    shortfall_failed, distance_failed = shortfall > parameters.max_shortfall, distance > parameters.max_distance
    return CheckFinding(
        outcome=CheckOutcome.FAILED if shortfall_failed or distance_failed else CheckOutcome.PASSED,
        agreed=tuple(agreed),
        differed=tuple(key for key in measured if key not in agreed),
        shortfall=shortfall,
        distance=distance,
        shortfall_failed=shortfall_failed,
        distance_failed=distance_failed,
        is_counted=len(agreed) >= parameters.quorum,
    )


def _agree(parameters: CheckParameters, first: CheckReport, second: CheckReport) -> bool:
    """Whether two measurements are as near to each other as honest ones are."""
    return (
        abs(first.shortfall - second.shortfall) <= parameters.shortfall_tolerance
        and abs(first.distance - second.distance) <= parameters.distance_tolerance
    )


def _compute_median(values: Iterable[int]) -> int:
    """The middle of some values, of an even number the lower one."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]
