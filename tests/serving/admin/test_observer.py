"""What a node logs of its own accord: requests, payments, troubles, peers; each once, and nothing of what was asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from chain.crypto import format_address
from serving.admin.health.troubles import describe
from serving.admin.observer import MAX_LISTED_REQUESTS, MAX_TOLD, Observer, compare, make_look
from serving.request_records import Outcome, RequestRecord
from tests.support.keys import make_key
from tests.support.solo_node import make_node

PEERS = sorted(make_key(name).public_key for name in ("a", "b"))
DOWN = [describe("backend", name=name, fault="connection refused") for name in ("one", "two")]


def test_a_trouble_begins_and_ends_once_though_its_text_changes() -> None:
    first = make_look([describe("stalled", age_s=60)], frozenset())
    second = make_look([describe("stalled", age_s=65), DOWN[0]], frozenset(PEERS[:1]))
    third = make_look([DOWN[0], DOWN[1], describe("syncing", height=3)], frozenset(PEERS[1:]))
    changes = compare(first, second)
    assert (changes.begun, changes.over, changes.joined, changes.left) == ([DOWN[0]], [], PEERS[:1], [])
    changes = compare(second, third)
    assert (changes.begun, [each.code for each in changes.over]) == ([DOWN[1]], ["stalled"]), "a note is not logged"
    assert (changes.joined, changes.left) == (PEERS[1:], PEERS[:1])


def test_a_backend_that_dies_and_returns_is_logged() -> None:
    node, _ = make_node()
    backend: Any = node.backend_pool.scheduled[0].backend
    observer = Observer(node)

    async def main() -> list[Any]:
        with capture_logs() as found:
            for is_alive in (False, False, True):
                backend.is_alive = lambda is_alive=is_alive: is_alive
                observer.look_at_node()
        return found

    found = [each for each in trio.run(main) if each["code"] == "backend"]  # the ledger does not run
    assert [(each["event"], each["code"]) for each in found] == [("trouble", "backend"), ("trouble is over", "backend")]
    assert found[0]["log_level"] == "warning" and found[0]["mend"]


def test_a_request_is_logged_when_it_ended_and_its_payment_when_that_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    node, _ = make_node()
    observer, records = Observer(node), node.dispatcher.records
    payment = SimpleNamespace(settled_height=None, paid=70)
    monkeypatch.setattr(node.payments.payer, "find", lambda hold: payment if hold == b"h" * 32 else None)
    local = RequestRecord("req-1", "m", 10.0, first_byte=10.5, key="ann")
    paid = RequestRecord("req-2", "m", 11.0, executor=PEERS[0], hold_id=b"h" * 32)
    forgotten = RequestRecord("req-3", "m", 11.0, executor=PEERS[0], hold_id=b"g" * 32, finished=12.0)

    def step() -> list[tuple[str, str]]:
        with capture_logs() as found:
            observer.look_at_requests()
        steps.append([dict(each) for each in found])
        return [(each["event"], each["request"]) for each in found]

    steps: list[list[dict[str, Any]]] = []
    records.append(local)
    assert step() == []
    local.finished, local.outcome, local.completion_tokens = 11.0, Outcome.COMPLETED, 9
    records.extend([paid, forgotten])
    assert step() == [("request ended", "req-1"), ("request ended", "req-3")]
    ended = steps[-1][0]
    names = ("served_by", "key_name", "first_byte_ms", "duration_ms", "tokens")
    assert [ended[name] for name in names] == ["local", "ann", 500, 1000, 9]
    paid.finished = 12.0
    assert step() == [("request ended", "req-2")]
    assert (steps[-1][0]["served_by"], steps[-1][0]["key_name"]) == (format_address(PEERS[0]), None)
    assert step() == []
    payment.settled_height = 8
    assert step() == [("payment final", "req-2")]
    assert (steps[-1][0]["credits"], steps[-1][0]["height"]) == ("0.000070", 8)
    assert step() == []


def test_more_requests_than_are_listed_are_no_burden() -> None:
    node, _ = make_node()
    observer, records = Observer(node), node.dispatcher.records
    for number in range(3 * MAX_LISTED_REQUESTS):
        records.append(RequestRecord(f"req-{number}", "m", 1.0, finished=2.0))
    with capture_logs() as found:
        observer.look_at_requests()
    assert [each["event"] for each in found] == ["request ended"] * MAX_TOLD + ["more requests ended"]
    assert found[-1]["count"] == MAX_LISTED_REQUESTS - MAX_TOLD
    with capture_logs() as found:
        observer.look_at_requests()
    assert found == []
