"""One-time codes and the sessions that they begin."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.admin.levels import Level
from serving.dashboard.ended_sessions import MAX_ENDED, EndedSessions
from serving.dashboard.sessions import CODE_LIFETIME_S, MAX_CODES, SESSION_LIFETIME_S, UNLOCKED_S, Sessions

NOW = 1_000_000.0


def make_sessions(secret: str = "secret") -> Sessions:
    numbers = count()
    return Sessions(secret, lambda: f"name{next(numbers)}")


def log_in(sessions: Sessions, now: float = NOW) -> str:
    session = sessions.redeem(sessions.make_code(now), now)
    assert session is not None
    return session


def test_a_code_is_good_once() -> None:
    sessions = make_sessions()
    code = sessions.make_code(NOW)
    assert sessions.redeem(code, NOW) is not None
    assert sessions.redeem(code, NOW) is None


def test_a_code_is_good_for_a_minute() -> None:
    sessions = make_sessions()
    early, late = sessions.make_code(NOW), sessions.make_code(NOW)
    assert sessions.redeem(early, NOW + CODE_LIFETIME_S) is not None
    assert sessions.redeem(late, NOW + CODE_LIFETIME_S + 0.001) is None


def test_of_many_codes_the_oldest_gives_way() -> None:
    sessions = make_sessions()
    codes = [sessions.make_code(NOW) for _ in range(MAX_CODES + 1)]
    assert [sessions.redeem(code, NOW) is not None for code in codes] == [False] + [True] * MAX_CODES


def test_a_session_reads_until_it_ends() -> None:
    sessions = make_sessions()
    session = log_in(sessions)
    assert sessions.get_level(session, NOW) is Level.READING
    assert sessions.get_level(session, NOW + SESSION_LIFETIME_S - 1) is Level.READING
    assert sessions.get_level(session, NOW + SESSION_LIFETIME_S) is Level.PUBLIC


def test_a_session_outlives_the_process_but_not_the_secret() -> None:
    session = log_in(make_sessions())
    assert make_sessions().get_level(session, NOW) is Level.READING
    assert make_sessions("another").get_level(session, NOW) is Level.PUBLIC


def test_an_unlocked_session_acts_for_ten_minutes() -> None:
    sessions = make_sessions()
    session, other = log_in(sessions), log_in(sessions)
    sessions.unlock(session, NOW)
    assert sessions.get_level(session, NOW + UNLOCKED_S - 1) is Level.ACTING
    assert sessions.get_locked_at(session, NOW) == NOW + UNLOCKED_S
    assert sessions.get_level(session, NOW + UNLOCKED_S) is Level.READING
    assert sessions.get_level(other, NOW) is Level.READING
    sessions.lock(session, NOW)
    assert sessions.get_level(session, NOW) is Level.READING
    assert sessions.get_locked_at(session, NOW) is None


def test_a_session_that_was_ended_is_none() -> None:
    sessions = make_sessions()
    session = log_in(sessions)
    sessions.unlock(session, NOW)
    sessions.end(session, NOW)
    assert sessions.get_level(session, NOW) is Level.PUBLIC
    sessions.unlock(session, NOW)
    assert sessions.get_level(session, NOW) is Level.PUBLIC


def test_a_session_that_was_ended_is_none_after_a_restart_either() -> None:
    sessions = make_sessions()
    ended, other = log_in(sessions), log_in(sessions)
    assert sessions.end(ended, NOW) and not sessions.end(ended, NOW) and not sessions.end("no session", NOW)
    stored = EndedSessions.decode(sessions.ended.encode())
    after = Sessions("secret", lambda: "later", stored)
    assert after.get_level(ended, NOW) is Level.PUBLIC
    assert after.get_level(other, NOW) is Level.READING


def test_of_more_than_are_remembered_none_comes_back() -> None:
    sessions = make_sessions()
    made = [log_in(sessions, NOW + number) for number in range(MAX_ENDED + 2)]
    now = NOW + MAX_ENDED + 2
    for session in made[1:]:
        sessions.end(session, now)
    assert all(sessions.get_level(session, now) is Level.PUBLIC for session in made[1:])
    assert len(sessions.ended.encode()) < 100 * MAX_ENDED
    assert sessions.get_level(made[0], now) is Level.PUBLIC, "older than one that is forgotten"
    assert sessions.get_level(log_in(sessions, now), now) is Level.READING


def test_what_has_ended_by_itself_is_forgotten() -> None:
    ended = EndedSessions()
    ended.add("early", 100, 50.0)
    ended.add("late", 200, 150.0)
    assert b"early" not in ended.encode() and ended.has("late", 200) and ended.floor == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"floor": 1, "ended": []}',
        b'{"floor": null, "ended": {}}',
        b'{"floor": Infinity, "ended": {}}',
    ],
)
def test_what_is_no_list_of_ended_sessions_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        EndedSessions.decode(raw)


@given(st.data())
def test_no_other_text_is_a_session(data: st.DataObject) -> None:
    sessions = make_sessions()
    session = log_in(sessions)
    place = data.draw(st.integers(0, len(session)))
    changed = session[:place] + data.draw(st.text(max_size=3)) + session[place + data.draw(st.integers(0, 3)) :]
    expected = Level.READING if changed == session else Level.PUBLIC
    assert sessions.get_level(changed, NOW) is expected
