"""What a checker reports, and what it commits to."""

from __future__ import annotations

import pytest

from chain.crypto import hash_bytes
from chain.types.checks import (
    MEASURED,
    NO_TRANSCRIPT,
    PPM,
    SHORTFALL_OFFSET,
    CheckReport,
    compute_report_commitment,
    make_measured_report,
)


@pytest.mark.parametrize(
    ("shortfall", "distance", "expected"),
    [
        (0.0, 0.0, (SHORTFALL_OFFSET, 0)),
        (-1.2345, 0.0123456, (SHORTFALL_OFFSET - 1_234, 12_346)),
        (3.0, 1.0, (SHORTFALL_OFFSET + 3_000, PPM)),
        (5_000.0, 2.0, (2 * SHORTFALL_OFFSET, PPM)),
        (-5_000.0, -1.0, (0, 0)),
    ],
)
def test_a_measurement_is_reported_in_integers_within_bounds(
    shortfall: float, distance: float, expected: tuple[int, int]
) -> None:
    report = make_measured_report(shortfall, distance)
    assert (report.kind, report.shortfall, report.distance) == (MEASURED, *expected)
    assert CheckReport.decode(report.encode()) == report


def test_a_commitment_is_of_one_checker_one_check_and_one_report() -> None:
    hold, checker, salt, report = hash_bytes("hold"), hash_bytes("checker"), b"s" * 16, CheckReport(NO_TRANSCRIPT)
    commitments = {
        compute_report_commitment(hold, checker, salt, report),
        compute_report_commitment(hash_bytes("other"), checker, salt, report),
        compute_report_commitment(hold, hash_bytes("other"), salt, report),
        compute_report_commitment(hold, checker, b"t" * 16, report),
        compute_report_commitment(hold, checker, salt, make_measured_report(0, 0)),
    }
    assert len(commitments) == 5
