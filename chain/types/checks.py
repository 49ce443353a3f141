"""Checks of the model as records: the identities that an account declares, and what a checker reports.

An account declares beside the name of a model its *identity*: a digest of the weights, the number formats and the
engine. A *check* has other accounts with an equal identity score what the executor's backend reported beside an answer,
its *transcript* (:mod:`chain.transition.checks`). A check is named by the hold of the request; its operations cost no
fee.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from chain import crypto
from chain.codec import Bounds, Hash, ModelName, Record

MAX_CHECKERS = 9
"""Checkers of one check."""
REPORT_SALT_BYTES = 16
"""Length of the salt that keeps a committed report from being guessed."""

MEASURED = 1
"""The checker has scored the transcript."""
NO_TRANSCRIPT = 2
"""The checker could not obtain the transcript, or it is not the one that was committed to."""
NOT_CHECKABLE = 3
"""The request changes what is drawn, so that its answer cannot be checked."""
ABSTAINED = 4
"""The checker could not score the transcript: its backend was busy, or did not answer."""

SHORTFALL_OFFSET = 1_000_000
"""What a report adds to a shortfall, in thousandths of a standard deviation: records have no negative integers."""
PPM = 1_000_000
"""Parts per million in one."""


@dataclass(frozen=True, slots=True)
class DeclaredIdentity(Record):
    """The identity under which an account serves one of its models."""

    model: ModelName
    digest: Hash


@dataclass(frozen=True, slots=True)
class CheckReport(Record):
    """What a checker found: :data:`MEASURED`, :data:`NO_TRANSCRIPT`, :data:`NOT_CHECKABLE` or :data:`ABSTAINED`.

    ``shortfall`` is in thousandths of a standard deviation above −:data:`SHORTFALL_OFFSET`, ``distance`` in parts per
    million. Both count only if the ``kind`` is :data:`MEASURED`.
    """

    kind: Annotated[int, Bounds(MEASURED, ABSTAINED)]
    shortfall: Annotated[int, Bounds(0, 2 * SHORTFALL_OFFSET)] = 0
    distance: Annotated[int, Bounds(0, PPM)] = 0


@dataclass(frozen=True, slots=True)
class CheckCommit(Record):
    """A checker commits to its report (:func:`compute_report_commitment`) before any other is known."""

    TAG = 19
    hold: Hash
    commitment: Hash


@dataclass(frozen=True, slots=True)
class CheckReveal(Record):
    """A checker shows the report that it has committed to."""

    TAG = 20
    hold: Hash
    report: CheckReport
    salt: Annotated[bytes, Bounds(REPORT_SALT_BYTES, REPORT_SALT_BYTES)]


CheckOperation = CheckCommit | CheckReveal


def make_measured_report(shortfall: float, distance: float) -> CheckReport:
    """The report of a shortfall in standard deviations and of a distance from 0 to 1, as near as a record comes."""
    thousandths = max(-SHORTFALL_OFFSET, min(SHORTFALL_OFFSET, round(1_000 * shortfall)))
    return CheckReport(MEASURED, SHORTFALL_OFFSET + thousandths, max(0, min(PPM, round(PPM * distance))))


def compute_report_commitment(hold: bytes, checker: bytes, salt: bytes, report: CheckReport) -> bytes:
    """What a checker commits to. It names the checker, so that a copied commitment can never be opened."""
    return crypto.hash_bytes("check report", hold, checker, salt, report.encode())
