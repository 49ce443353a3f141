"""What a node finds wrong with itself: each condition has its trouble, and a healthy node has none."""

from __future__ import annotations

import string
from dataclasses import replace
from typing import Any

import pytest

from consensus.stall import MIN_STALL_S
from serving.admin.health.diagnosis import (
    MIN_FREE_BYTES,
    MIN_SPAN_BLOCKS,
    BackendFacts,
    EndingFacts,
    Facts,
    MachineFacts,
    Verdict,
    VotingFacts,
    find_troubles,
    judge,
    list_reasons,
)
from serving.admin.health.troubles import KINDS, Kind, Severity, describe, describe_mend

WELL = Facts(
    address="12D3KooW",
    uptime_s=60,
    height=100,
    final_age_s=3,
    idle_beat_s=10,
    is_syncing=False,
    backends=[BackendFacts("http://127.0.0.1:9000/v1", ["a-model"], True)],
    bootstrap=["/ip4/192.0.2.1/tcp/4001"],
    connected=3,
    known=5,
    is_dialable=True,
    listens=True,
    jailed_until=0,
    votes=90,
    blocks=100,
    needed=50,
    spendable=10_000_000,
)
DOWN = BackendFacts("http://127.0.0.1:9000/v1", ["a-model"], False, "connection refused")
LOADING = BackendFacts("embedded", [], False)


def test_a_healthy_node_has_no_trouble() -> None:
    for facts in (WELL, replace(WELL, is_dialable=None), replace(WELL, final_age_s=MIN_STALL_S + 30)):
        assert find_troubles(facts) == []
    assert judge([]) is Verdict.READY


@pytest.mark.parametrize(
    ("change", "code", "words", "verdict"),
    [
        ({"final_age_s": MIN_STALL_S + 31}, "stalled", "no block became final for 61 s", Verdict.STALLED),
        ({"is_syncing": True}, "syncing", "at height 100", Verdict.DEGRADED),
        ({"jailed_until": 7, "votes": 0}, "jailed", "jailed until epoch 7", Verdict.DEGRADED),
        ({"votes": 49}, "participation", "49 of 100 blocks of its span; below 50", Verdict.READY),
        ({"rights": VotingFacts(is_handed_over=True)}, "handed_over", "this one only follows", Verdict.DEGRADED),
        (
            {"rights": VotingFacts(is_handed_over=True, last_epoch=7)},
            "handed_over",
            "to the end of epoch 7, and then no more",
            Verdict.DEGRADED,
        ),
        ({"rights": VotingFacts(waits=True)}, "votes_later", "this validator waits", Verdict.READY),
        ({"backends": [DOWN]}, "backend", "9000/v1 (a-model): connection refused", Verdict.DEGRADED),
        ({"backends": [LOADING]}, "backend_loading", "backend embedded: does not answer", Verdict.DEGRADED),
        ({"connected": 0}, "bootstrap", "do not answer: /ip4/192.0.2.1/tcp/4001", Verdict.DEGRADED),
        ({"connected": 0, "uptime_s": 9}, "connecting", "dialled: /ip4/192.0.2.1/tcp/4001", Verdict.READY),
        ({"connected": 0, "bootstrap": []}, "alone", "(5 known)", Verdict.READY),
        ({"is_dialable": False}, "unreachable", "nobody can dial", Verdict.READY),
        ({"spendable": 0}, "no_credit", "cannot be offloaded", Verdict.READY),
        ({"spendable": 999_999}, "low_credit", "0.999999 credits", Verdict.READY),
        ({"ending": EndingFacts(3.2, 16.8, 2, 0)}, "ending", "for 2 requests, 17 s more at most", Verdict.ENDING),
        ({"ending": EndingFacts(0, 20, 1, 1)}, "ending", "for 1 request and 1 payment, 20 s more", Verdict.ENDING),
        ({"ending": EndingFacts(0, 20, 0, 0)}, "ending", "waits for its goodbye to be sent", Verdict.ENDING),
        ({"machine": MachineFacts("/home", MIN_FREE_BYTES - 1)}, "disk_full", "2.0 GiB free", Verdict.DEGRADED),
        ({"machine": MachineFacts(slow_writes=0.5)}, "disk_busy", "50% of the writes", Verdict.READY),
        ({"machine": MachineFacts(late_looks=0.1)}, "loop_late", "250 ms in 10% of", Verdict.READY),
    ],
)
def test_each_condition_has_its_trouble(change: dict[str, Any], code: str, words: str, verdict: Verdict) -> None:
    (found,) = find_troubles(replace(WELL, **change))
    assert found.code == code and words in found.text and found.mend
    assert judge([found]) is verdict
    assert list_reasons([found]) == ([] if verdict is Verdict.READY else [code])


def test_what_says_nothing_is_not_said() -> None:
    assert find_troubles(replace(WELL, votes=0, blocks=MIN_SPAN_BLOCKS - 1, needed=8)) == []
    assert find_troubles(replace(WELL, listens=False, is_dialable=False)) == []
    assert find_troubles(replace(WELL, machine=MachineFacts("/home", MIN_FREE_BYTES, 0.49, 0.09))) == []


def test_the_worst_comes_first() -> None:
    found = find_troubles(replace(WELL, is_dialable=False, is_syncing=True, jailed_until=2, final_age_s=1_000))
    assert [each.code for each in found] == ["stalled", "jailed", "unreachable", "syncing"]


@pytest.mark.parametrize(("code", "kind"), KINDS.items())
def test_a_kind_says_in_one_line_what_is_wrong_and_what_mends_it(code: str, kind: Kind) -> None:
    fields = {name for text in kind[2:] for _, name, _, _ in string.Formatter().parse(text) if name}
    details: dict[str, Any] = dict.fromkeys(fields, 1) | {"known": "{none}"}
    found = describe(code, **details)
    assert found.code == code and found.severity in Severity
    assert not found.text.endswith(".") and "\n" not in found.text
    assert found.mend or found.command
    assert found.command.split(" ")[0] in ("", "wwwserve", "chmod", "timedatectl", "ss", "export", "vllm")


def test_words_and_command_stand_in_one_line() -> None:
    assert describe_mend("start it", "wwwserve run") == "start it: wwwserve run"
    assert (describe_mend("wait", ""), describe_mend("", "wwwserve run")) == ("wait", "wwwserve run")
