"""Statistics of the executor lottery: how many draws each payer skipped, and how many chance would explain."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class PayerDraws:
    """How a payer used the lottery.

    Its ``holds``, the attempts it ``skipped`` to make them, and the sequence numbers below its highest that it left
    ``unused``: both are ways around a draw that a payer does not like, and both happen by chance too. ``expected`` is
    how many it would have skipped by chance: had each executor that it drew failed it as often as it failed all other
    payers. It is None if there is no other payer.
    """

    holds: int = 0
    skipped: int = 0
    unused: int = 0
    expected: float | None = None


class SkipStatistics:
    """How often executors were drawn and passed over, of all payers and of each."""

    def __init__(self) -> None:
        self._counts: dict[tuple[bytes | None, bytes | None], list[int]] = {}
        """Draws and skips, by payer and executor; None for all."""

    def add(self, payer: bytes, executor: bytes, is_skipped: bool) -> None:
        """Note one draw."""
        for key in ((payer, executor), (payer, None), (None, executor), (None, None)):
            counts = self._counts.setdefault(key, [0, 0])
            counts[0] += 1
            counts[1] += is_skipped

    def compute_expected(self) -> dict[bytes, float | None]:
        """How many draws each payer would have skipped by chance (:class:`PayerDraws`)."""
        expected: dict[bytes, float | None] = {}
        for (payer, executor), (draws, _) in self._counts.items():
            if payer is None or executor is None:
                continue
            # An executor that no other payer drew is taken to fail as often as the average.
            rate = self._get_rate(payer, executor)
            rate = self._get_rate(payer, None) if rate is None else rate
            before = expected.setdefault(payer, None if rate is None else 0.0)
            expected[payer] = None if rate is None or before is None else before + draws * rate
        return expected

    def _get_rate(self, payer: bytes, executor: bytes | None) -> float | None:
        """Which share of its draws other payers skipped; None if they had none."""
        all_draws, all_skips = self._counts[None, executor]
        draws, skips = self._counts[payer, executor]
        return (all_skips - skips) / (all_draws - draws) if all_draws > draws else None
