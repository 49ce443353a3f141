"""Who looks at the dashboard: one-time codes, and the sessions that they begin (pure).

A program that may read the owner's token asks for a code, and puts it into the address that the owner's browser opens.
The page exchanges the code, once and within a minute, for a session. A session is a text that the browser keeps in a
cookie: an end, a random name, and a code (HMAC-SHA-256) that only this node can make. So a session outlives a restart
of the node, and nothing is stored of it before it is ended (``ended_sessions``). It reads; for ten minutes after it was
unlocked it also acts.

Browsers send a cookie to every port of its host (RFC 6265, section 8.5), and so to whatever other users of this machine
serve there. So a session has a *key* as well, which the page keeps in the storage of its own origin and names in each
request that changes or spends something. The cookie alone only reads.

Times are in seconds of the wall clock, since a session outlives the process.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from chain.collections import BoundedDict
from serving.admin.levels import Level
from serving.dashboard.ended_sessions import EndedSessions

CODE_LIFETIME_S = 60.0
"""How long a one-time code may be exchanged."""
SESSION_LIFETIME_S = 7 * 24 * 3600.0
"""How long a session lasts."""
UNLOCKED_S = 600.0
"""How long a session acts after it was unlocked."""
MAX_CODES = 16
"""Codes that wait to be exchanged; the oldest gives way."""
MAX_UNLOCKED = 256
"""Most unlocked sessions that are remembered; the oldest gives way."""


class Sessions:
    """The codes and sessions of one node.

    ``secret`` is known to its owner alone; ``make_name`` makes random texts. ``ended`` are sessions that earlier runs
    have ended.
    """

    def __init__(self, secret: str, make_name: Callable[[], str], ended: EndedSessions | None = None) -> None:
        self._secret = hashlib.sha256(b"wwwserve dashboard session\0" + secret.encode()).digest()
        self._make_name = make_name
        self._codes: BoundedDict[bytes, float] = BoundedDict(MAX_CODES)
        """When each code ends, by its hash."""
        self._unlocked: BoundedDict[str, float] = BoundedDict(MAX_UNLOCKED)
        """When each session that was unlocked is locked again, by name."""
        self.ended = ended or EndedSessions()

    def make_code(self, now: float) -> str:
        """A new one-time code."""
        code = self._make_name()
        self._codes[_hash(code)] = now + CODE_LIFETIME_S
        return code

    def redeem(self, code: str, now: float) -> str | None:
        """A new session for a code, which is used up; None if the code is unknown, used or too old."""
        end = self._codes.pop(_hash(code), None)
        if end is None or now > end:
            return None
        return self._sign(f"{max(int(now + SESSION_LIFETIME_S), self.ended.floor + 1)}.{self._make_name()}")

    def make_key(self, session: str) -> str:
        """The key of a session."""
        return self._make_code_of(f"key of {session}")

    def is_key(self, session: str, key: str) -> bool:
        """Whether ``key`` is the key of a session; takes the same time whatever is wrong."""
        return hmac.compare_digest(self.make_key(session).encode(), key.encode())

    def get_level(self, session: str, now: float) -> Level:
        """What a session may do; the public's level for none, or one that has ended."""
        name = self._read(session, now)
        if name is None:
            return Level.PUBLIC
        return Level.ACTING if now < self._unlocked.get(name, 0.0) else Level.READING

    def get_locked_at(self, session: str, now: float) -> float | None:
        """When a session that acts will be locked again; None if it does not act."""
        name = self._read(session, now)
        end = self._unlocked.get(name, 0.0) if name is not None else 0.0
        return end if now < end else None

    def unlock(self, session: str, now: float) -> None:
        """Let a session act for a while. Does nothing to one that has ended."""
        name = self._read(session, now)
        if name is not None:
            self._unlocked[name] = now + UNLOCKED_S

    def lock(self, session: str, now: float) -> None:
        """Let a session only read again."""
        name = self._read(session, now)
        if name is not None:
            self._unlocked.pop(name, None)

    def end(self, session: str, now: float) -> bool:
        """End a session. Returns whether there was one: then :attr:`ended` has changed."""
        name = self._read(session, now)
        if name is None:
            return False
        self.ended.add(name, int(session.partition(".")[0]), now)
        return True

    def _sign(self, text: str) -> str:
        return f"{text}.{self._make_code_of(text)}"

    def _make_code_of(self, text: str) -> str:
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()

    def _read(self, session: str, now: float) -> str | None:
        """The name of a session that this node made and that has not ended; None for any other text."""
        text, _, _ = session.rpartition(".")
        end, _, name = text.partition(".")
        if not end.isdecimal() or not hmac.compare_digest(self._sign(text).encode(), session.encode()):
            return None
        return name if now < int(end) and not self.ended.has(name, int(end)) else None


def _hash(code: str) -> bytes:
    """What is kept of a code; to look it up takes the same time whatever is wrong with it."""
    return hashlib.sha256(code.encode()).digest()
