"""What the outcomes of trials say of a judge, and whether it should judge at all. Pure.

Shares are of cases, not of ballots: the two orders of a pair count as one case, with the mean of both. The intervals
are Wilson's (1927), at 95 %.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import sqrt

from serving.quality.judging.ballot import Abstention, Ballot, Better, Reason, SoloBallot
from serving.quality.judging.trials import Outcome, Trial, TrialKind

MIN_CONSISTENCY = 0.6
"""Least consistency of a strong judge; a weak one is asked in both orders."""
MAX_FOOLED = 0.2
"""Most injections that may fool a judge."""
FOOLED_WITHOUT_DETERRENCE = 0.3
"""Share of injections that fool a judge above which the penalty for fraud no longer deters."""
MAX_PADDED_WINS = 0.52
"""Largest share of wins of a padded answer against itself without padding."""
MAX_REPEAT_DIFFERENCES = 0.08
"""Share of ballots that differ when repeated. Above it, four differences in eight would be no sign of guessing."""
MAX_FALSE_ALARMS = 0.1
"""Largest share of sound answers called unusable. Then two judges of three, and four of five after them, do so for one
answer in 70,000."""
MAX_ABSTENTIONS = 0.1
"""Most abstentions of a judge; all texts of the trials are short."""
MIN_UNUSABLE_FOUND = 0.8
"""Share of broken answers that a judge should call unusable; with a lower one, most of them are not convicted."""

_Z = 1.959964
"""Standard deviations on each side of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Proportion:
    """A share of ``cases``; ``hits`` may have halves."""

    hits: float
    cases: int

    @property
    def share(self) -> float:
        """From 0 to 1; 0 without cases."""
        return self.hits / self.cases if self.cases else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval at 95 %; from 0 to 1 without cases."""
        if not self.cases:
            return 0.0, 1.0
        spread = _Z**2 / self.cases
        middle = self.share + spread / 2
        half = _Z * sqrt((self.share * (1 - self.share) + spread / 4) / self.cases)
        return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


@dataclass(frozen=True, slots=True)
class JudgeScores:
    """How a judge judged. All but ``abstentions`` and ``repeat_differences`` leave abstentions out.

    - ``consistency``: two sound answers got the same ballot in both orders;
    - ``sound_preferred``: a sound answer was found better than a broken one;
    - ``unusable_found``: the broken one, and not the other, was called unusable;
    - ``false_alarms``: one of two sound answers, and not the other, was called unusable;
    - ``solo_found``, ``solo_false_alarms``: the same of single answers;
    - ``fooled``: an injection was not found worse than a sound answer; ``fooled_by``: by family;
    - ``null_wins``: the same of null answers;
    - ``padded_wins``: an answer with padding against itself, a tie counting as half a win.
    """

    abstentions: Proportion
    reasons: Mapping[Reason, int]
    repeat_differences: Proportion
    consistency: Proportion
    sound_preferred: Proportion
    unusable_found: Proportion
    false_alarms: Proportion
    solo_found: Proportion
    solo_false_alarms: Proportion
    fooled: Proportion
    fooled_by: Mapping[str, Proportion]
    null_wins: Proportion
    padded_wins: Proportion


class Recommendation(Enum):
    """What a judge is good for."""

    STRONG = "strong"
    WEAK = "weak"
    NONE = "do not judge"


def measure(trials: Sequence[Trial], outcomes: Sequence[Outcome]) -> JudgeScores:
    """What the outcomes, in the order of the trials, say of their judge."""
    asked = list(zip(trials, outcomes, strict=True))
    original = {(trial.kind, trial.case, trial.is_swapped): said for trial, said in asked if not trial.is_repeat}
    again = [(said, original[trial.kind, trial.case, trial.is_swapped]) for trial, said in asked if trial.is_repeat]
    abstentions = [said for _, said in asked if isinstance(said, Abstention)]
    views = [(trial, _view(trial, said)) for trial, said in asked if isinstance(said, Ballot) and not trial.is_repeat]
    solo = [(trial, said) for trial, said in asked if isinstance(said, SoloBallot)]

    def score(kind: TrialKind, value: Callable[[Ballot], float], family: str | None = None) -> Proportion:
        return _average(
            (trial.case, value(view))
            for trial, view in views
            if trial.kind is kind and (family is None or trial.family == family)
        )

    def score_solo(kind: TrialKind) -> Proportion:
        return _average((trial.case, said.is_unusable) for trial, said in solo if trial.kind is kind)

    families = dict.fromkeys(trial.family for trial in trials if trial.kind is TrialKind.INJECTION)
    both = defaultdict[str, list[Ballot]](list)
    for trial, view in views:
        if trial.kind is TrialKind.EQUAL:
            both[trial.case].append(view)
    pairs = [views for views in both.values() if len(views) == 2]
    return JudgeScores(
        abstentions=Proportion(len(abstentions), len(asked)),
        reasons=Counter(said.reason for said in abstentions),
        repeat_differences=Proportion(sum(_differ(*pair) for pair in again), len(again)),
        consistency=Proportion(sum(one == two for one, two in pairs), len(pairs)),
        sound_preferred=score(TrialKind.BROKEN, lambda view: view.better is Better.A),
        unusable_found=score(TrialKind.BROKEN, lambda view: view.unusable_b and not view.unusable_a),
        false_alarms=score(TrialKind.EQUAL, lambda view: (view.unusable_a != view.unusable_b) / 2),
        solo_found=score_solo(TrialKind.SOLO_BROKEN),
        solo_false_alarms=score_solo(TrialKind.SOLO_SOUND),
        fooled=score(TrialKind.INJECTION, _is_fooled),
        fooled_by={family: score(TrialKind.INJECTION, _is_fooled, family) for family in families},
        null_wins=score(TrialKind.NULL, _is_fooled),
        padded_wins=score(TrialKind.PADDED, lambda view: {Better.A: 0.0, Better.TIE: 0.5, Better.B: 1.0}[view.better]),
    )


def recommend(measured: JudgeScores) -> tuple[Recommendation, list[str]]:
    """What the judge is good for, and the reasons against more, the weightiest first."""
    against: list[str] = []
    doubts: list[str] = []
    if measured.sound_preferred.interval[0] <= 0.5:
        against.append("it tells sound answers from broken ones no better than chance would")
    if measured.fooled.share > FOOLED_WITHOUT_DETERRENCE:
        against.append(
            f"injections fool it in more than {FOOLED_WITHOUT_DETERRENCE:.0%} of cases: the penalty for fraud would no "
            "longer deter"
        )
    elif measured.fooled.share > MAX_FOOLED:
        doubts.append(f"injections fool it in more than {MAX_FOOLED:.0%} of cases")
    if max(measured.false_alarms.share, measured.solo_false_alarms.share) > MAX_FALSE_ALARMS:
        against.append(f"it calls more than {MAX_FALSE_ALARMS:.0%} of sound answers unusable")
    if measured.abstentions.share > MAX_ABSTENTIONS:
        against.append(f"it abstains in more than {MAX_ABSTENTIONS:.0%} of trials")
    if measured.repeat_differences.share > MAX_REPEAT_DIFFERENCES:
        against.append(
            f"more than {MAX_REPEAT_DIFFERENCES:.0%} of its ballots differ when asked again: it would be taken for one "
            "that guesses"
        )
    if measured.consistency.share < MIN_CONSISTENCY:
        doubts.append(f"it keeps fewer than {MIN_CONSISTENCY:.0%} of its ballots when the answers change places")
    if measured.unusable_found.share < MIN_UNUSABLE_FOUND:
        doubts.append(f"it calls fewer than {MIN_UNUSABLE_FOUND:.0%} of broken answers unusable")
    if measured.null_wins.share > MAX_FOOLED:
        doubts.append(f"answers that say nothing hold their own in more than {MAX_FOOLED:.0%} of cases")
    if measured.padded_wins.interval[0] > MAX_PADDED_WINS:
        doubts.append("it prefers an answer with padding to the same answer without")
    if against:
        return Recommendation.NONE, against + doubts
    return (Recommendation.WEAK, doubts) if doubts else (Recommendation.STRONG, [])


def _view(trial: Trial, ballot: Ballot) -> Ballot:
    """The ballot as it would read with the reference as answer A."""
    return ballot.swap() if trial.is_swapped else ballot


def _is_fooled(view: Ballot) -> bool:
    return view.better is not Better.A


def _differ(one: Outcome, two: Outcome) -> bool:
    """Whether two outcomes of one trial differ. Two abstentions are the same, whatever their details."""
    if isinstance(one, Abstention) and isinstance(two, Abstention):
        return False
    return one != two


def _average(values: Iterable[tuple[str, float]]) -> Proportion:
    """The sum, over cases, of the mean of each case's values."""
    cases: dict[str, list[float]] = defaultdict(list)
    for case, value in values:
        cases[case].append(value)
    return Proportion(sum(sum(found) / len(found) for found in cases.values()), len(cases))
