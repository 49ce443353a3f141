"""What a payer owes for an answer, and what it finds wrong with the executor's account of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chain.types.operations import Delivery, Usage, compute_digest
from serving.backends.backend import BackendError
from serving.offload.originator import received_answer
from serving.offload.originator.received_answer import ReceivedAnswer
from serving.offload.protocol import Completed, ResponseHead, sign_delivery
from tests.support.keys import make_key
from tests.support.market_world import make_request

EXECUTOR, STRANGER = make_key(1), make_key(2)
CHAIN, HOLD, SALT = b"c" * 32, b"h" * 32, b"s" * 16
REQUEST = make_request(stream=False)
BODY = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "four"}, "finish_reason": "stop"}]}'
CONTENT_BYTES = 4
AMOUNT = 1_000


def receive(body: bytes = BODY, status: int = 200, amount: int = AMOUNT) -> ReceivedAnswer:
    answer = ReceivedAnswer(REQUEST, amount, lambda count: 100 + count, is_kept=True)
    answer.begin(ResponseHead(status, "application/json", SALT), is_stream=False)
    for start in range(0, len(body), 7):
        answer.take(body[start : start + 7])
    answer.inspector.finish()
    return answer


def make_delivery(body: bytes = BODY) -> Delivery:
    usage = Usage(len(REQUEST.body), CONTENT_BYTES)
    return Delivery(HOLD, 100 + CONTENT_BYTES, compute_digest(SALT, body), usage, "stop")


def find_fault(answer: ReceivedAnswer, delivery: Delivery, hold: bytes = HOLD) -> str | None:
    completed = Completed(delivery, sign_delivery(EXECUTOR, CHAIN, delivery))
    return answer.find_fault(completed, EXECUTOR.public_key, CHAIN, hold)


def test_what_came_is_owed_and_kept() -> None:
    answer = receive()
    assert answer.body == BODY and answer.size == len(BODY)
    assert answer.compute_owed() == 100 + CONTENT_BYTES
    assert answer.compute_owed(in_flight=10) == 100 + CONTENT_BYTES + 10
    assert find_fault(answer, make_delivery()) is None


def test_no_more_is_owed_than_is_held() -> None:
    assert receive(amount=50).compute_owed() == 50


@pytest.mark.parametrize(
    ("lie", "fault"),
    [
        ({"amount": 101 + CONTENT_BYTES}, "asks 105 micro-credits for what is worth 104"),
        ({"response_digest": compute_digest(SALT, BODY + b" ")}, "the digest is not that of the answer"),
        ({"usage": Usage(len(REQUEST.body), CONTENT_BYTES + 1)}, "counts "),
        ({"usage": Usage(len(REQUEST.body) + 1, CONTENT_BYTES)}, "counts "),
        ({"hold": b"x" * 32}, "for another hold"),
    ],
)
def test_no_field_of_a_delivery_is_believed(lie: dict[str, object], fault: str) -> None:
    found = find_fault(receive(), replace(make_delivery(), **lie))  # type: ignore[arg-type]
    assert found is not None and found.startswith(fault)


def test_a_delivery_is_signed_by_its_executor() -> None:
    delivery = make_delivery()
    forged = Completed(delivery, sign_delivery(STRANGER, CHAIN, delivery))
    assert receive().find_fault(forged, EXECUTOR.public_key, CHAIN, HOLD) == "not signed by the executor"


def test_nothing_is_owed_for_an_error() -> None:
    answer = receive(status=400)
    assert find_fault(answer, make_delivery()) == "asks 104 micro-credits for what is worth 0"
    assert find_fault(answer, replace(make_delivery(), amount=0)) is None


def test_what_was_cut_is_not_complete() -> None:
    cut = BODY[:-20]
    delivery = replace(make_delivery(cut), amount=0)
    assert find_fault(receive(cut), delivery) == "the answer is not complete"


def test_an_answer_has_a_greatest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received_answer, "MAX_ANSWER_BYTES", len(BODY))
    answer = receive()
    with pytest.raises(BackendError, match="longer than"):
        answer.take(b" ")
