"""Reading replies: a ballot is exactly one of the choices; whatever else a model writes is an abstention."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.quality.judging.ballot import (
    PAIR_CHOICES,
    SOLO_CHOICES,
    Abstention,
    Ballot,
    Better,
    Reason,
    ReplyForm,
    describe_choices,
    make_schema,
    read_reply,
)

BALLOTS = {
    "A": Ballot(Better.A),
    "B": Ballot(Better.B),
    "C": Ballot(Better.TIE),
    "X": Ballot(Better.B, unusable_a=True),
    "Y": Ballot(Better.A, unusable_b=True),
    "Z": Ballot(Better.TIE, unusable_a=True, unusable_b=True),
}
NEAR = st.sampled_from(
    [
        "A",
        "B",
        "C",
        "X",
        "Y",
        "Z",
        "a",
        "AB",
        "A.",
        '{"ballot": "A"}',
        '{"ballot": "A", "ballot": "B"}',
        '[["ballot", "A"]]',
    ]
)
TEXTS = st.one_of(
    st.text(),
    st.lists(st.one_of(NEAR, st.text(max_size=3)), max_size=4).map("".join),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda part: st.lists(part) | st.dictionaries(
        st.sampled_from(["ballot", "better"]), part
    )).map(json.dumps),
)  # fmt: skip


@pytest.mark.parametrize("letter", BALLOTS)
def test_every_choice_can_be_said_in_both_forms(letter: str) -> None:
    assert read_reply(f" {letter}\n", PAIR_CHOICES, ReplyForm.LETTER) == BALLOTS[letter]
    assert read_reply(f'\n{{ "ballot" : "{letter}" }}', PAIR_CHOICES, ReplyForm.JSON) == BALLOTS[letter]


def test_an_unusable_answer_is_never_the_better_one() -> None:
    for _, ballot in PAIR_CHOICES.values():
        assert not (ballot.better is Better.A and ballot.unusable_a) and not (
            ballot.better is Better.B and ballot.unusable_b
        )


@pytest.mark.parametrize("letter", BALLOTS)
def test_a_ballot_can_be_read_in_the_other_order(letter: str) -> None:
    other = {"A": "B", "B": "A", "C": "C", "X": "Y", "Y": "X", "Z": "Z"}[letter]
    assert BALLOTS[letter].swap() == BALLOTS[other]


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "a",
        "A is better",
        "A.",
        "AB",
        "A\nB",
        "[[A]]",
        "{}",
        '{"ballot": "A"} ',
        '"A"',
        "\u200bA",
        "\N{GREEK CAPITAL LETTER ALPHA}",
        "U",
    ],
)
def test_what_only_looks_like_a_letter_is_an_abstention(reply: str) -> None:
    assert read_reply(reply, PAIR_CHOICES, ReplyForm.LETTER) == Abstention(Reason.UNREADABLE, reply)


@pytest.mark.parametrize(
    "reply",
    [
        "A",
        '"A"',
        '["ballot", "A"]',
        '[["ballot", "A"]]',
        '{"ballot": "a"}',
        '{"ballot": ["A"]}',
        '{"ballot": null}',
        '{"better": "A"}',
        '{"ballot": "A", "reason": "because"}',
        '{"ballot": "A", "ballot": "B"}',
        '{"ballot": "A"} {"ballot": "B"}',
        '```json\n{"ballot": "A"}\n```',
        '{"ballot": "A"',
        '{"ballot": {"ballot": "A"}}',
        "[" * 100_000,
    ],
)
def test_what_only_looks_like_the_object_is_an_abstention(reply: str) -> None:
    assert read_reply(reply, PAIR_CHOICES, ReplyForm.JSON) == Abstention(Reason.UNREADABLE, reply[:200])


@given(TEXTS)
def test_any_reply_is_an_exact_choice_or_an_abstention(reply: str) -> None:
    for choices in (PAIR_CHOICES, SOLO_CHOICES):
        letter = read_reply(reply, choices, ReplyForm.LETTER)
        assert letter == (
            choices[reply.strip()][1] if reply.strip() in choices else Abstention(Reason.UNREADABLE, reply[:200])
        )
        found = read_reply(reply, choices, ReplyForm.JSON)
        if not isinstance(found, Abstention):
            assert found == choices[json.loads(reply)["ballot"]][1]
            assert list(json.loads(reply)) == ["ballot"] and reply.count('"ballot"') == 1


@pytest.mark.parametrize("choices", [PAIR_CHOICES, SOLO_CHOICES])
def test_a_model_is_told_every_choice_that_the_schema_allows(choices: dict[str, object]) -> None:
    schema = make_schema(choices)["json_schema"]["schema"]  # type: ignore[arg-type]
    assert schema["properties"]["ballot"]["enum"] == list(choices) and schema["additionalProperties"] is False
    for form in ReplyForm:
        lines = describe_choices(choices, form).splitlines()  # type: ignore[arg-type]
        assert [line.partition(":")[0] for line in lines[1:]] == list(choices)
