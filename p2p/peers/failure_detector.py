"""Whom to believe dead: accusations, refutations, and what a liar can do. No I/O, no clock.

A peer that does not answer is accused by those that watch it (:mod:`p2p.peers.suspect_message`). A node believes that
it is dead when its own probe failed, or when :data:`ACCUSERS` others say so (fewer in a network so small that there are
not as many), and then still waits :data:`GRACE` seconds for a newer announcement, which refutes all. Fewer accusers
only make a few nodes probe for themselves. Whoever is connected to the accused believes nothing.

Identities are free, so not every accuser counts: it must be present in the view and *proven* (dialled once, or with
weight), or have been there for :data:`SETTLED` seconds, or since this node came. Whoever accused a peer that refuted it
is not heard about that peer for :data:`PENALTY` seconds; and about nobody, if :data:`TOLERATED` peers refuted it within
that time and at once (:data:`PROMPT`), as the living do. So a liar without two accomplices kills nobody, and
accomplices few peers once, for as long as a refutation takes to spread.

All times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Container
from dataclasses import dataclass, field

from p2p.peers.announcement import get_item_id
from p2p.peers.suspect_message import Accusation
from p2p.peers.table import Change, PeerView

ACCUSERS = 3
"""Observers that are believed."""
GRACE = 3.0
"""Seconds that a peer has to refute what is believed of it."""
SETTLED = 60.0
"""Seconds after which a peer that was only heard of counts as an observer."""
ARRIVAL = 20.0
"""Seconds after its own arrival in which a node takes whoever it hears of for settled: it cannot know better."""
PENALTY = 300.0
"""Seconds for which a refuted accuser is not heard about the same peer."""
PROBE_DELAY = 1.5
"""Seconds before others probe an accused peer: its accusers may be enough, or it may refute them."""
PROBERS = 5
"""Nodes that probe for themselves at first, on average, when there are accusers but too few."""
TOLERATED = 3
"""Refuted accusations of one observer that are put down to bad luck."""
PROMPT = 30.0
"""Seconds within which a refutation shows that the accused was there all the time, and not cut off for a while."""
MAX_PASSED = 4096
"""Accusations that are remembered although they count for nothing, so that they are not asked for again."""
MAX_REFUTED = 1024
"""Refuted accusers that are remembered, and the peers that refuted each."""
MAX_REFUTED_BY = 32


@dataclass(slots=True)
class _Case:
    """What is held against one peer."""

    opened: float
    """When the first accuser was heard."""
    accusations: dict[bytes, Accusation] = field(default_factory=dict)
    found: float = 0.0
    """When there was enough to believe it."""
    due: float | None = None
    """When it counts as dead."""


@dataclass(slots=True)
class _Accuser:
    """What is held against one accuser."""

    refuted_by: OrderedDict[bytes, float] = field(default_factory=OrderedDict)
    """Whom it is not heard about, and since when."""
    mistakes: deque[float] = field(default_factory=lambda: deque(maxlen=TOLERATED))
    """When it was last refuted at once."""


class Suspicion:
    """The accusations against the peers of one view."""

    def __init__(self, view: PeerView) -> None:
        self._view = view
        self._cases: dict[bytes, _Case] = {}
        self._by_id: dict[bytes, Accusation] = {}
        self._passed: OrderedDict[bytes, None] = OrderedDict()
        self._refuted: OrderedDict[bytes, _Accuser] = OrderedDict()

    @property
    def needed(self) -> int:
        """How many accusers are believed."""
        return min(ACCUSERS, max(1, len(self._view)))

    def accuse(self, accusation: Accusation, now: float) -> bool:
        """Take in an accusation of valid signature; whether it is worth passing on."""
        if accusation.suspect == self._view.me or not self.is_heard(accusation, now):
            return False
        case = self._cases.setdefault(accusation.suspect, _Case(now))
        case.accusations[accusation.observer] = accusation
        self._by_id[get_item_id(accusation.encode())] = accusation
        if len(case.accusations) >= self.needed:
            self._believe(accusation.suspect, case, now)
        return True

    def is_heard(self, accusation: Accusation, now: float) -> bool:
        """Whether an accusation would count, if it were signed: of this node itself too, which then has to refute it.

        It is about the announcement that stands, and its observer counts and has not been heard.
        """
        entry = self._view.entries.get(accusation.suspect)
        if entry is None or not accusation.is_about(entry.announcement):
            return False
        case = self._cases.get(accusation.suspect)
        if case is not None and (accusation.observer in case.accusations or len(case.accusations) >= ACCUSERS):
            return False
        return self._counts(accusation.observer, accusation.suspect, now)

    def pass_over(self, accusation: Accusation) -> None:
        """Note an accusation that is not heard, if it never will be: it is about the past, or there are enough."""
        entry, case = self._view.entries.get(accusation.suspect), self._cases.get(accusation.suspect)
        if entry is not None and (
            (accusation.incarnation, False, accusation.sequence) < entry.announcement.order
            or not entry.state.is_present
            or (case is not None and len(case.accusations) >= ACCUSERS)
        ):
            self._pass(get_item_id(accusation.encode()))

    def condemn(self, peer: bytes, now: float) -> None:
        """Note that this node's own probe of ``peer`` failed."""
        if peer in self._view.entries:
            self._believe(peer, self._cases.setdefault(peer, _Case(now)), now)

    def absolve(self, peer: bytes, now: float) -> None:
        """Note that this node's own probe of ``peer`` succeeded, so that it need not look again soon."""
        case = self._cases.get(peer)
        if case is not None and case.due is None:
            case.opened = now

    def is_believed(self, peer: bytes) -> bool:
        """Whether ``peer`` counts as dead unless it refutes that soon."""
        case = self._cases.get(peer)
        return case is not None and case.due is not None

    def unresolved(self, now: float, size: float) -> list[tuple[bytes, float]]:
        """The peers that are accused by too few to be believed, and the chance that this node should now probe each.

        There are about ``size`` nodes to do that.

        Looked at about once a second, the chances add up to :data:`PROBERS` nodes in the first seconds after
        :data:`PROBE_DELAY`, and to more and more of them as long as the peer neither answers nor refutes.
        """
        chances = []
        for peer, case in self._cases.items():
            entry = self._view.entries.get(peer)
            waited = now - case.opened - PROBE_DELAY
            if case.due is None and waited >= 0 and entry is not None and entry.state.is_present:
                share = PROBERS / max(1.0, size)
                chances.append((peer, share / 2 * 2.0 ** min(waited / 2, 30.0)))
        return chances

    def wants_accusers(self, peer: bytes) -> bool:
        """Whether another word against ``peer`` would make a difference to others."""
        case = self._cases.get(peer)
        return case is None or len(case.accusations) < ACCUSERS

    def clear(self, peer: bytes, now: float, refuted: bool) -> None:
        """Drop the case against ``peer``; ``refuted``: because of its newer announcement, in the same life."""
        case = self._cases.pop(peer, None)
        if case is None:
            return
        for observer, accusation in case.accusations.items():
            item = get_item_id(accusation.encode())
            self._by_id.pop(item, None)
            self._pass(item)
            if refuted:
                self.note_refuted(observer, peer, now, prompt=now - case.opened <= PROMPT)

    def note_refuted(self, observer: bytes, suspect: bytes, now: float, prompt: bool = True) -> None:
        """Hold it against ``observer`` that it accused ``suspect``, which lives."""
        if observer == self._view.me:
            return
        accuser = self._refuted.setdefault(observer, _Accuser())
        self._refuted.move_to_end(observer)
        accuser.refuted_by[suspect] = now
        accuser.refuted_by.move_to_end(suspect)
        if prompt:
            accuser.mistakes.append(now)
        if len(accuser.refuted_by) > MAX_REFUTED_BY:
            accuser.refuted_by.popitem(last=False)
        if len(self._refuted) > MAX_REFUTED:
            self._refuted.popitem(last=False)

    def judge(self, now: float, connected: Container[bytes]) -> list[Change]:
        """The peers that are dead as of now."""
        changes = []
        for peer, case in list(self._cases.items()):
            if peer not in self._view.entries:
                self.clear(peer, now, refuted=False)
            elif case.due is not None and case.due <= now and peer not in connected:
                case.due = None
                change = self._view.crash(peer, now, case.found)
                if change is not None:
                    changes.append(change)
        return changes

    # What others ask for

    def ids_against(self, peer: bytes) -> list[bytes]:
        """The short names of the accusations against ``peer``."""
        case = self._cases.get(peer)
        return [] if case is None else [get_item_id(one.encode()) for one in case.accusations.values()]

    def knows(self, item: bytes) -> bool:
        """Whether the accusation of this short name is held, or has been looked at and passed over."""
        return item in self._by_id or item in self._passed

    def find(self, item: bytes) -> Accusation | None:
        """The accusation of a short name."""
        return self._by_id.get(item)

    def _pass(self, item: bytes) -> None:
        self._passed[item] = None
        if len(self._passed) > MAX_PASSED:
            self._passed.popitem(last=False)

    def _counts(self, observer: bytes, suspect: bytes, now: float) -> bool:
        """Whether ``observer`` is heard about ``suspect``."""
        if observer == self._view.me:
            return True
        entry = self._view.entries.get(observer)
        if entry is None or not entry.state.is_present:
            return False
        accuser = self._refuted.get(observer)
        if accuser is not None:
            mistakes = accuser.mistakes
            if now - accuser.refuted_by.get(suspect, -PENALTY) < PENALTY:
                return False
            if len(mistakes) == TOLERATED and now - mistakes[0] < PENALTY:
                return False
        mine = self._view.entries.get(self._view.me)
        was_before = mine is not None and entry.since - mine.since <= ARRIVAL
        return self._view.is_proven(observer) or was_before or now - entry.since >= SETTLED

    def _believe(self, peer: bytes, case: _Case, now: float) -> None:
        if case.due is None:
            self._view.suspect(peer)
            if self._view.entries[peer].state.is_present:
                case.found, case.due = now, now + GRACE
