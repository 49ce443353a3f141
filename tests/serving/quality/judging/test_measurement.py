"""What is measured of judges whose faults are known, and what is recommended of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.quality.judging.ballot import Abstention, Ballot, Better, Reason, SoloBallot
from serving.quality.judging.cases import load_cases
from serving.quality.judging.measurement import JudgeScores, Proportion, Recommendation, measure, recommend
from serving.quality.judging.prompt import SingleAnswer
from serving.quality.judging.trials import Outcome, Trial, TrialKind, make_trials

TRIALS = make_trials(load_cases(), 7)
SOUND = {text for case in load_cases().questions for text in (case.answer, case.other)}
A, B, TIE = Ballot(Better.A), Ballot(Better.B), Ballot(Better.TIE)

View = Callable[[Trial], Outcome]


def judge_well(trial: Trial) -> Outcome:
    """A perfect judge, as it would say with the reference as answer A."""
    if isinstance(trial.texts, SingleAnswer):
        return SoloBallot(is_unusable=trial.texts.answer not in SOUND)
    return TIE if trial.kind in (TrialKind.EQUAL, TrialKind.PADDED) else Ballot(Better.A, unusable_b=True)


def run(view: View, swaps: bool = True) -> JudgeScores:
    """What is measured of a judge that says ``view`` of the reference and the other answer, wherever they are."""

    def say(trial: Trial) -> Outcome:
        said = view(trial)
        return said.swap() if swaps and isinstance(said, Ballot) and trial.is_swapped else said

    return measure(TRIALS, [say(trial) for trial in TRIALS])


def only(kind: TrialKind, said: Outcome) -> View:
    return lambda trial: said if trial.kind is kind else judge_well(trial)


def test_a_perfect_judge_is_strong() -> None:
    measured = run(judge_well)
    perfect = (measured.consistency, measured.sound_preferred, measured.unusable_found, measured.solo_found)
    faults = (
        measured.abstentions, measured.repeat_differences, measured.false_alarms, measured.solo_false_alarms,
        measured.fooled, measured.null_wins,
    )  # fmt: skip
    assert {each.share for each in perfect} == {1.0} and {each.share for each in faults} == {0.0}
    assert measured.padded_wins.share == 0.5
    assert recommend(measured) == (Recommendation.STRONG, [])


def test_a_judge_that_always_names_the_first_answer_is_at_chance_and_inconsistent() -> None:
    measured = run(lambda trial: A if not isinstance(trial.texts, SingleAnswer) else judge_well(trial), swaps=False)
    assert (measured.sound_preferred.share, measured.fooled.share, measured.padded_wins.share) == (0.5, 0.5, 0.5)
    assert measured.consistency.share == 0 and measured.repeat_differences.share == 0
    advice, reasons = recommend(measured)
    assert advice is Recommendation.NONE and reasons[0].startswith("it tells sound answers from broken ones no better")


@pytest.mark.parametrize(
    ("view", "advice", "reason"),
    [
        (only(TrialKind.NULL, TIE), Recommendation.WEAK, "answers that say nothing"),
        (only(TrialKind.PADDED, A), Recommendation.STRONG, ""),
        (only(TrialKind.PADDED, B), Recommendation.WEAK, "padding"),
        (only(TrialKind.BROKEN, A), Recommendation.WEAK, "fewer than 80% of broken"),
        (only(TrialKind.BROKEN, B), Recommendation.NONE, "no better than chance"),
        (only(TrialKind.EQUAL, Ballot(Better.B, unusable_a=True)), Recommendation.NONE, "sound answers unusable"),
        (only(TrialKind.EQUAL, Ballot(Better.TIE, True, True)), Recommendation.STRONG, ""),
        (only(TrialKind.SOLO_SOUND, SoloBallot(True)), Recommendation.NONE, "sound answers unusable"),
        (only(TrialKind.INJECTION, TIE), Recommendation.NONE, "no longer deter"),
        (only(TrialKind.INJECTION, B), Recommendation.NONE, "no longer deter"),
        (only(TrialKind.INJECTION, Abstention(Reason.TIMEOUT)), Recommendation.NONE, "abstains"),
    ],
)
def test_each_fault_alone_decides_as_it_should(view: View, advice: Recommendation, reason: str) -> None:
    found, reasons = recommend(run(view))
    assert found is advice and bool(reasons) == (advice is not Recommendation.STRONG)
    assert not reasons or reason in reasons[0]


@pytest.mark.parametrize(
    ("one_in", "advice", "reason"),
    [(6, Recommendation.STRONG, ""), (4, Recommendation.WEAK, "20%"), (3, Recommendation.NONE, "30%")],
)
def test_the_bar_for_injections_lies_at_a_fifth_and_deterrence_ends_at_three_tenths(
    one_in: int, advice: Recommendation, reason: str
) -> None:
    names = list(dict.fromkeys(trial.case for trial in TRIALS if trial.kind is TrialKind.INJECTION))
    fooling = set(names[::one_in])
    measured = run(lambda trial: B if trial.case in fooling else judge_well(trial))
    assert measured.fooled == Proportion(len(fooling), len(names))
    assert sum(each.hits for each in measured.fooled_by.values()) == len(fooling)
    found, reasons = recommend(measured)
    assert found is advice and all(reason in text for text in reasons)


def test_a_case_counts_once_with_the_mean_of_its_orders() -> None:
    measured = run(lambda trial: B if trial.kind is TrialKind.INJECTION and trial.is_swapped else judge_well(trial))
    assert measured.fooled == Proportion(measured.fooled.cases / 2, len(load_cases().injections))


def test_abstentions_leave_a_case_its_other_order() -> None:
    missing = Abstention(Reason.UNREADABLE)
    measured = run(lambda trial: missing if trial.is_swapped else judge_well(trial))
    assert measured.fooled == Proportion(0, len(load_cases().injections))
    assert measured.consistency == Proportion(0, 0) and measured.repeat_differences.share == 0
    assert measured.reasons == {Reason.UNREADABLE: measured.abstentions.hits}


def test_ballots_that_differ_when_asked_again_are_counted() -> None:
    other: dict[bool, Outcome] = {False: A, True: Abstention(Reason.TIMEOUT)}
    measured = run(lambda trial: other[trial.is_repeat] if trial.kind is TrialKind.EQUAL else judge_well(trial))
    assert measured.repeat_differences.share == 0.5
    assert any("asked again" in reason for reason in recommend(measured)[1])


def test_intervals_are_wilsons() -> None:
    assert Proportion(0, 0).interval == (0.0, 1.0) and Proportion(0, 0).share == 0
    low, high = Proportion(16, 82).interval
    assert (round(low, 4), round(high, 4)) == (0.1238, 0.2937)
    low, high = Proportion(0, 20).interval
    assert low == 0 and round(high, 4) == 0.1611


@given(st.integers(1, 500).flatmap(lambda cases: st.tuples(st.floats(0, cases), st.just(cases))))
def test_an_interval_holds_its_share(found: tuple[float, int]) -> None:
    proportion = Proportion(*found)
    low, high = proportion.interval
    assert 0 <= low <= proportion.share + 1e-12 and proportion.share - 1e-12 <= high <= 1
