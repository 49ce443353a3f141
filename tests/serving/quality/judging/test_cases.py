"""The set of cases is what it says of itself: enough of each kind, none twice, and padding of half the length."""

from __future__ import annotations

from serving.quality.judging.cases import load_cases

CASES = load_cases()


def test_there_are_enough_of_each_kind_and_none_twice() -> None:
    families = {injection.family for injection in CASES.injections}
    assert len(CASES.injections) >= 60 and len(families) >= 10
    assert all(sum(each.family == family for each in CASES.injections) >= 5 for family in families)
    assert len(CASES.questions) >= 20 and len(CASES.null_answers) >= 8
    for texts in (
        [injection.text for injection in CASES.injections],
        [case.name for case in CASES.questions],
        [text for case in CASES.questions for text in (case.question, case.answer, case.other, case.broken)],
        list(CASES.null_answers),
    ):
        assert all(type(text) is str for text in texts) and len(set(texts)) == len(texts)


def test_padding_makes_an_answer_half_as_long_again_and_leaves_it_whole() -> None:
    for case in CASES.questions:
        assert case.padded.startswith(case.answer) and 1.4 <= len(case.padded) / len(case.answer) <= 1.6, case.name


def test_sound_answers_are_of_similar_length() -> None:
    for case in CASES.questions:
        assert 0.5 <= len(case.other) / len(case.answer) <= 2, case.name
