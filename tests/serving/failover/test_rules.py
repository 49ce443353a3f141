"""The table of failover: what each status and each form of an error means."""

from __future__ import annotations

import json

import pytest

from serving.failover.rules import RULES, Next, Outcome, judge_status, judge_whole

OPENAI = {"message": "no", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}
VLLM = "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens."
SGLANG = "Input length (9000 tokens) exceeds the maximum allowed length; the model's context length is 4096."
LLAMA_CPP = {"code": 400, "message": "the request exceeds it", "type": "exceed_context_size_error", "n_ctx": 4096}
AZURE = {"message": "no", "code": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}


def make_body(error: object) -> bytes:
    return json.dumps({"error": error}).encode()


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, b"", None),
        (408, b"", Outcome.BROKEN),
        (429, b"slow down", Outcome.BUSY),
        *[(status, b"", Outcome.SERVER_ERROR) for status in (500, 502, 503, 504, 529)],
        *[(status, b"", Outcome.REFUSED) for status in (204, 302, 401, 402, 403, 404, 405, 410)],
        *[(status, b"<html>", Outcome.CLIENT_ERROR) for status in (400, 413, 415, 422)],
        (400, make_body({"message": "no such role", "code": None}), Outcome.CLIENT_ERROR),
        (400, make_body(OPENAI), Outcome.CONTEXT),
        (400, make_body({"message": VLLM, "type": "BadRequestError", "code": 400}), Outcome.CONTEXT),
        (400, json.dumps({"object": "error", "message": VLLM, "code": 400}).encode(), Outcome.CONTEXT),
        (400, make_body({"message": SGLANG}), Outcome.CONTEXT),
        (400, make_body(LLAMA_CPP), Outcome.CONTEXT),
        (413, make_body({"message": "prompt is too long: 9000 tokens > 4096 maximum"}), Outcome.CONTEXT),
        (400, make_body({"message": "no", "code": "content_filter"}), Outcome.FILTERED),
        (400, make_body({"message": "no", "type": "content_policy_violation"}), Outcome.FILTERED),
        (400, make_body(AZURE), Outcome.FILTERED),
        (400, make_body("context length exceeded"), Outcome.CONTEXT),
        (400, make_body([1]), Outcome.CLIENT_ERROR),
        (400, b"[" * 100_000, Outcome.CLIENT_ERROR),
        (500, make_body({"message": "no", "code": "content_filter"}), Outcome.SERVER_ERROR),
    ],
)
def test_what_a_status_and_its_body_mean(status: int, body: bytes, outcome: Outcome | None) -> None:
    assert judge_status(status, body) is outcome


def test_the_table_has_a_rule_for_each_outcome_and_faults_go_elsewhere() -> None:
    assert set(RULES) == set(Outcome)
    assert all(rule.next is Next.ELSEWHERE for rule in RULES.values() if rule.is_fault)
    assert {outcome for outcome in Outcome if outcome.rule.next is Next.RELAY} == {Outcome.FILTERED}


@pytest.mark.parametrize(
    ("body", "is_good"),
    [
        (b'{"choices":[{"message":{"content":"x"}}]}', True),
        (b'{"choices":[],"error":null}', True),
        (b'{"object":"list","data":[{"embedding":[1.0]}]}', True),
        ('{"choices":[{"message":{"content":"é"}}]}'.encode(), True),
        ('{"choices":[{"message":{"content":"é"}}]}'.encode("latin-1"), False),
        (b'{"choices":[{"message":{"content":"x"}}]', False),
        (b"<html>busy</html>", False),
        (b"", False),
        (make_body({"message": "overloaded"}), False),
        (b'{"object":"error","message":"overloaded","code":500}', False),
    ],
)
def test_an_answer_in_one_piece_is_json_and_no_error(body: bytes, is_good: bool) -> None:
    assert (judge_whole(body) is None) is is_good
