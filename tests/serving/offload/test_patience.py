"""How long an originator waits for one answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.offload.originator.patience import (
    LONGEST_FACTOR,
    MIN_QUEUED_S,
    PAYMENT_STEP_S,
    QUEUE_FACTOR,
    SEEN_S,
    Patience,
)
from serving.offload.settings import OriginatorSettings

SETTINGS = OriginatorSettings()
END = SETTINGS.hold_time_ms / 1000


def make_patience(stream: bool = True, max_tokens: int = 100, expected_by: float | None = None) -> Patience:
    return Patience(SETTINGS, 0.0, stream=stream, max_tokens=max_tokens, hold_s=END, expected_by=expected_by)


def test_a_queue_puts_the_first_content_off_within_a_limit() -> None:
    patience = make_patience()
    assert patience.deadline == SETTINGS.first_chunk_timeout_s
    for now in range(0, 100, 5):
        patience.note_queued(float(now))
        assert patience.deadline == min(now + SETTINGS.first_chunk_timeout_s, SETTINGS.queue_timeout_s)


def test_an_answer_that_is_not_streamed_may_take_longer_by_its_length_and_no_longer_than_its_hold() -> None:
    for tokens in (1, 1_000, 1_000_000):
        patience = make_patience(stream=False, max_tokens=tokens)
        expected = min(SETTINGS.queue_timeout_s + SETTINGS.token_timeout_s * tokens, END)
        assert patience.deadline == expected
        patience.note_queued(expected - 1.0)
        assert patience.deadline == expected


def test_an_answer_that_is_not_streamed_may_take_longer_where_that_is_predicted() -> None:
    patience = Patience(SETTINGS, 0.0, stream=False, max_tokens=100, hold_s=1_800.0, longest_s=800.0)
    assert patience.deadline == SETTINGS.queue_timeout_s + LONGEST_FACTOR * 800.0


@pytest.mark.parametrize(("predicted_s", "limit_s"), [(1.0, 120.0), (100.0, 200.0), (1e9, 330.0)])
def test_a_queue_may_take_twice_as_long_as_was_predicted(predicted_s: float, limit_s: float) -> None:
    patience = Patience(SETTINGS, 0.0, stream=True, max_tokens=1, hold_s=END, predicted_s=predicted_s)
    for now in range(0, 330, 5):
        patience.note_queued(float(now))
    assert patience.deadline == limit_s


def test_a_queue_may_take_longer_while_its_executor_is_seen_to_work_and_not_for_ever() -> None:
    patience = make_patience()
    for now in range(0, 1_000, 5):
        patience.note_queued(float(now), seen_at=float(now))
        assert patience.deadline == min(now + SETTINGS.first_chunk_timeout_s, SETTINGS.max_queue_timeout_s)
    patience = make_patience()
    for now in range(0, 1_000, 5):
        patience.note_queued(float(now), seen_at=min(now, 100.0))
    assert patience.deadline == 100.0 + SEEN_S, "what was seen does not count for long"
    patience = make_patience()
    for now in range(0, 1_000, 5):
        patience.note_queued(float(now), seen_at=10.0)
    assert patience.deadline == SETTINGS.queue_timeout_s


def test_where_another_could_take_over_it_ends_when_content_is_expected() -> None:
    assert make_patience(expected_by=1.5).deadline == 1.5
    assert make_patience(expected_by=1e9).deadline == SETTINGS.first_chunk_timeout_s
    assert make_patience(stream=False, expected_by=1.5).deadline == make_patience(stream=False).deadline
    late = make_patience(expected_by=-1.0)
    assert late.deadline == 0.0 and not late.excuse_unpaid(0.0, is_final=True)
    queued = make_patience(expected_by=1.5)
    queued.note_queued(1.0)
    assert queued.deadline == 1.0 + SETTINGS.first_chunk_timeout_s


def test_one_that_was_queued_is_expected_from_when_it_has_its_slot() -> None:
    def make_queued(stream: bool = True, expected_by: float | None = 2.0) -> Patience:
        patience = Patience(
            SETTINGS, 0.0, stream=stream, max_tokens=1, hold_s=END, expected_by=expected_by, is_queued=True
        )
        patience.note_queued(10.0)
        return patience

    patience = make_queued()
    assert patience.deadline == 10.0 + SETTINGS.first_chunk_timeout_s, "while it is queued"
    patience.note_working(20.0)
    assert patience.deadline == 22.0 and not patience.is_queued
    patience.note_working(21.0)
    assert patience.deadline == 22.0, "once"
    assert patience.excuse_unpaid(22.0, is_final=False), "the hold is as likely to be late as of any other"
    patience.note_queued(21.0)
    assert patience.deadline == 21.0 + SETTINGS.first_chunk_timeout_s and patience.is_queued, "it waits again"
    for unbounded in (make_queued(stream=False), make_queued(expected_by=None)):
        before = unbounded.deadline
        unbounded.note_working(20.0)
        assert unbounded.deadline == before
    patience = make_queued()
    patience.note_content(20.0)
    patience.note_working(30.0)
    assert patience.deadline == 20.0 + SETTINGS.pause_timeout_s


def test_a_hold_that_is_not_final_puts_it_off_until_a_while_after_it_is() -> None:
    patience = make_patience(expected_by=1.5)
    assert patience.excuse_unpaid(1.5, is_final=False) and patience.deadline == 1.5 + PAYMENT_STEP_S
    assert patience.excuse_unpaid(2.0, is_final=True) and patience.deadline == 2.0 + PAYMENT_STEP_S
    assert not patience.excuse_unpaid(2.5, is_final=True), "once"


def test_a_hold_that_never_becomes_final_is_not_waited_for_longer_than_a_silence() -> None:
    patience, steps = make_patience(expected_by=1.5), 0
    while patience.excuse_unpaid(patience.deadline, is_final=False):
        steps += 1
    assert patience.deadline == SETTINGS.stall_timeout_s and steps == 2 * (SETTINGS.stall_timeout_s - 1.5)
    assert not make_patience().excuse_unpaid(SETTINGS.first_chunk_timeout_s, is_final=False), "it has had its time"


def test_content_renews_it_and_a_queue_in_the_middle_puts_it_off_for_longer_than_one_at_the_beginning() -> None:
    patience = make_patience()
    patience.note_content(20.0)
    assert patience.has_content and patience.deadline == 20.0 + SETTINGS.pause_timeout_s
    for now in range(20, 500, 5):
        patience.note_queued(float(now))
    assert patience.deadline == 20.0 + SETTINGS.max_queue_timeout_s
    patience.note_content(100.0)
    patience.note_queued(155.0)
    assert patience.deadline == 155.0 + SETTINGS.first_chunk_timeout_s


def test_content_now_and_then_does_not_outlive_the_hold() -> None:
    patience = make_patience()
    for now in range(0, int(END), 50):
        patience.note_content(float(now))
        assert patience.deadline == min(now + SETTINGS.pause_timeout_s, END)


def test_after_the_closing_event_only_the_delivery_is_waited_for() -> None:
    patience = make_patience()
    for now in (1.0, 5.0):
        patience.note_content(now)
        patience.note_closed(now)
    patience.note_queued(10.0)
    assert patience.deadline == 1.0 + SETTINGS.stall_timeout_s


def test_a_user_who_does_not_read_uses_none_of_it_up() -> None:
    patience = make_patience()
    patience.note_content(20.0)
    patience.excuse(1_000.0)
    assert patience.deadline == 1_020.0 + SETTINGS.pause_timeout_s
    patience.note_content(1_030.0)
    assert patience.deadline == 1_030.0 + SETTINGS.pause_timeout_s


EVENTS = ("note_queued", "note_working", "note_content", "note_closed", "note_resumed")


@given(st.booleans(), st.lists(st.tuples(st.floats(0.0, 59.0), st.sampled_from(EVENTS)), max_size=40))
def test_whatever_comes_it_ends_with_the_hold(stream: bool, events: list[tuple[float, str]]) -> None:
    patience, now = make_patience(stream), 0.0
    for wait, event in events:
        now += wait
        getattr(patience, event)(now)
        assert patience.deadline <= END and patience.compute_resume_deadline(now) <= END


def make_hedged(stream: bool = True, is_queued: bool = False, predicted_s: float = 1.0) -> Patience:
    """Late after 2 s and overdue after 4 s, both from its slot on."""
    return Patience(
        SETTINGS,
        0.0,
        stream=stream,
        max_tokens=100,
        hold_s=END,
        expected_by=4.0,
        late_by=2.0,
        is_queued=is_queued,
        predicted_s=predicted_s,
    )


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_is_late_once_and_only_when_its_hold_is_final(stream: bool) -> None:
    patience = make_hedged(stream)
    assert patience.wakes_at == 2.0 < patience.deadline
    assert patience.take_late(1.9, is_final=True) is None
    assert patience.take_late(2.0, is_final=False) is False
    assert patience.wakes_at == 2.0 + PAYMENT_STEP_S
    assert patience.take_late(2.5, is_final=True) is True
    assert patience.wakes_at == patience.deadline and patience.take_late(3.0, is_final=True) is None


@pytest.mark.parametrize("predicted_s", [1.0, 10.0])
def test_what_is_queued_is_late_only_when_its_queue_is(predicted_s: float) -> None:
    patience = make_hedged(is_queued=True, predicted_s=predicted_s)
    late_at = max(MIN_QUEUED_S, QUEUE_FACTOR * predicted_s)
    assert patience.wakes_at == late_at
    patience.note_queued(4.0)
    assert patience.wakes_at == late_at
    patience.note_working(4.5)
    assert patience.wakes_at == 6.5, "from its slot on"
    patience.note_content(5.0)
    assert patience.take_late(1e9, is_final=True) is None


def test_what_is_overdue_is_waited_for_beside_a_hedge_as_long_as_the_settings_say() -> None:
    patience = make_hedged()
    now = patience.deadline
    assert now == 4.0 and not patience.is_overdue
    while patience.excuse_overdue(now):
        assert patience.is_overdue and patience.deadline <= now + PAYMENT_STEP_S
        now = patience.deadline
    assert now == SETTINGS.first_chunk_timeout_s
    patience.note_content(now)
    assert not patience.is_overdue and not patience.excuse_overdue(now)
