"""When the failed checks of one account under one identity are proof: a sequential test in integers.

**Assumption**, established by calibration: whatever happened before, an honest check fails with a probability of at
most p₀. **Claim**: the probability that an honest account *ever* crosses, in however many checks, is at most α.

Each check multiplies the evidence by the likelihood ratio of p₁ (a cheat) to p₀: by p₁/p₀ if it failed and by
(1 − p₁)/(1 − p₀) if it passed, whose expectation is at most 1 for an honest account. A node may begin to cheat after
any number of honest checks. So the test bets on all beginnings s = 1, 2, … at once, with weights w(s) = 1/(s(s+1)),
which sum to 1: after t checks it holds ::

    M(t) = E(t) + 1/(t+1)    with    E(t) = (E(t−1) + w(t)) · ratio(t),    E(0) = 0

M is a non-negative supermartingale with M(0) = 1, therefore P(E(t) ≥ 1/α for any t) ≤ α (Ville, *Étude critique de la
notion de collectif*, 1939). The ratio is Wald's (*Sequential Analysis*, 1947). The mixture over beginnings is an
e-detector with weights that sum to 1 (Shin, Ramdas and Rinaldo, *E-detectors*, 2024). A long honest past costs a
cheat's finder 2·ln(t) nats, not t times the weight of a passed check, so honesty cannot be saved up to be spent on
cheating.

E is kept in units of 10⁻¹² and rounded down, which can only lower it. Nodes that add the same checks in the same order
hold the same integers.
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.codec import Natural, Record

PPM = 1_000_000
"""Parts per million in one."""
FALSE_ALARM_PPM = 100
"""Highest probability that an honest account is ever found guilty: 10⁻⁴."""
E_VALUE_UNIT = 10**12
"""Units of the e-value in one."""


@dataclass(frozen=True, slots=True)
class CheckHistory(Record):
    """The checks of one account by one statistic: how many, how many of them failed, and the e-value E."""

    checks: Natural = 0
    failures: Natural = 0
    e_value: Natural = 0


@dataclass(frozen=True, slots=True)
class SequentialTest:
    """The parameters, in parts per million: p₀ (``honest_ppm``), p₁ (``cheating_ppm``) and α (``false_alarm_ppm``)."""

    honest_ppm: int
    cheating_ppm: int = PPM // 2
    false_alarm_ppm: int = FALSE_ALARM_PPM

    def __post_init__(self) -> None:
        if not 0 < self.honest_ppm < self.cheating_ppm < PPM:
            raise ValueError("a cheat must fail more often than an honest node, and neither never nor always")
        if not 0 < self.false_alarm_ppm < PPM:
            raise ValueError("the probability of a false alarm lies between 0 and 1")

    @property
    def threshold(self) -> int:
        """The e-value from which on the failures are proof: 1/α, rounded up."""
        return -(-E_VALUE_UNIT * PPM // self.false_alarm_ppm)

    def add(self, history: CheckHistory, is_failed: bool) -> CheckHistory:
        """The history after one more check. The e-value ends at the threshold, so that it has a largest value."""
        checks = history.checks + 1
        bet = history.e_value + E_VALUE_UNIT // (checks * (checks + 1))
        if is_failed:
            e_value = bet * self.cheating_ppm // self.honest_ppm
        else:
            e_value = bet * (PPM - self.cheating_ppm) // (PPM - self.honest_ppm)
        return CheckHistory(checks, history.failures + is_failed, min(e_value, self.threshold))

    def is_crossed(self, history: CheckHistory) -> bool:
        """Whether the failures are proof of a substitution."""
        return history.e_value >= self.threshold

    def count_failures_needed(self, passed: int = 0) -> int:
        """Failures in a row that cross, after ``passed`` checks that were passed."""
        history = CheckHistory()
        for _ in range(passed):
            history = self.add(history, is_failed=False)
        while not self.is_crossed(history):
            history = self.add(history, is_failed=True)
        return history.failures


@dataclass(frozen=True, slots=True)
class AccountHistory(Record):
    """The checks of one account under one identity, by either statistic."""

    shortfall: CheckHistory = CheckHistory()
    distance: CheckHistory = CheckHistory()


@dataclass(frozen=True, slots=True)
class SubstitutionTest:
    """A test for each statistic; the probabilities of a false alarm add up."""

    shortfall: SequentialTest
    distance: SequentialTest

    @classmethod
    def make(cls, shortfall_ppm: int, distance_ppm: int, false_alarm_ppm: int = FALSE_ALARM_PPM) -> SubstitutionTest:
        """The test with these bounds on an honest failure; either statistic gets half of the false alarms."""
        tests = [SequentialTest(ppm, false_alarm_ppm=false_alarm_ppm // 2) for ppm in (shortfall_ppm, distance_ppm)]
        return cls(*tests)

    def add(self, history: AccountHistory, shortfall_failed: bool, distance_failed: bool) -> AccountHistory:
        """The history after one more check."""
        return AccountHistory(
            self.shortfall.add(history.shortfall, shortfall_failed),
            self.distance.add(history.distance, distance_failed),
        )

    def is_substitution(self, history: AccountHistory) -> bool:
        """Whether the failures by either statistic are proof."""
        return self.shortfall.is_crossed(history.shortfall) or self.distance.is_crossed(history.distance)
