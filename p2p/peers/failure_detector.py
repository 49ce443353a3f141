"""The failure detector: which peers to believe dead. No I/O, no clock.

After SWIM (Das, Gupta and Motivala, 2002) with the suspicion of Lifeguard and HashiCorp's memberlist. A peer that does
not answer its neighbours is *suspected*: each of them signs a suspect message (:mod:`p2p.peers.suspect_message`). A
node takes the suspect for *failing* when its own probe failed, or when :data:`CONFIRMATIONS` observers have confirmed
the suspicion (fewer in a smaller network). After :data:`SUSPICION_TIMEOUT_S` the suspect is declared dead, unless a
newer announcement of it refutes the suspicion. Fewer confirmations make a few nodes probe for themselves. A node that
is connected to the suspect ignores the suspicion.

SWIM trusts its members; here identities are free, so an observer counts only if it is present and *verified* (this node
has dialled it, or it has stake), or has been known for :data:`OBSERVER_MIN_AGE_S`, or since this node started. An
observer that was refuted does not count against the same peer for :data:`REFUTED_PENALTY_S`. An observer that was
refuted by :data:`MAX_FALSE_SUSPICIONS` peers within that time, each promptly (:data:`PROMPT_REFUTATION_S`), does not
count at all. Of the observers that are not verified, only one counts against a peer with stake; that suffices to have
the peer probed. After a refutation, a peer has longer for the next one than it must wait between two. A liar therefore
needs two accomplices to have a living peer without stake declared dead, and can do so only until the refutation has
spread.

All times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field

from chain.collections import BoundedDict
from p2p.peers.announcement import get_item_id
from p2p.peers.suspect_message import SuspectMessage
from p2p.peers.table import MAX_TABLE_PEERS, Change, PeerTable

CONFIRMATIONS = 3
"""Observers that must suspect a peer for it to be taken as failing."""
SUSPICION_TIMEOUT_S = 3.0
"""Seconds that a failing peer has to refute the suspicion."""
REPEATED_SUSPICION_TIMEOUT_S = 15.0
"""The same for a peer that promptly refuted one in the last :data:`REFUTED_PENALTY_S`: it may take 10 s until the next.
"""
OBSERVER_MIN_AGE_S = 60.0
"""Seconds after which an unverified peer counts as an observer."""
ARRIVAL_S = 20.0
"""Seconds after its own start in which a node counts every observer: it cannot know how long they have been there."""
REFUTED_PENALTY_S = 300.0
"""Seconds for which a refuted observer does not count against the same peer."""
PROBE_DELAY_S = 1.5
"""Seconds before other nodes probe a suspect: its observers may suffice, or it may refute them."""
PROBERS = 5
"""Mean number of nodes that probe a suspect at first, when it has observers but too few."""
MAX_FALSE_SUSPICIONS = 3
"""Prompt refutations after which an observer does not count."""
PROMPT_REFUTATION_S = 30.0
"""Seconds within which a refutation shows that the suspect was reachable all the time."""
MAX_IGNORED = 4096
"""Ids of ignored suspect messages that are remembered, so that they are not requested again."""
MAX_REFUTED = 1024
"""Refuted observers that are remembered."""
MAX_REFUTED_BY = 32
"""Peers that are remembered to have refuted one observer."""


@dataclass(slots=True)
class _Suspect:
    """A peer that observers suspect, or whose probe failed."""

    suspected_at: float
    """When the first observer suspected it, or this node last reached it."""
    messages: dict[bytes, SuspectMessage] = field(default_factory=dict)
    failing_since: float = 0.0
    """When it was taken as failing."""
    dies_at: float | None = None
    """When it is declared dead; None while it is not failing."""


@dataclass(slots=True)
class _Observer:
    """An observer that was refuted."""

    refuted_by: BoundedDict[bytes, float] = field(default_factory=lambda: BoundedDict(MAX_REFUTED_BY))
    """The suspects that refuted it, and when."""
    false_suspicions: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_FALSE_SUSPICIONS))
    """When it was last refuted promptly."""


class FailureDetector:
    """The suspicions of one node about the peers of its table."""

    def __init__(self, table: PeerTable) -> None:
        self._table = table
        self._suspects: dict[bytes, _Suspect] = {}
        self._by_id: dict[bytes, SuspectMessage] = {}
        self._ignored: BoundedDict[bytes, None] = BoundedDict(MAX_IGNORED)
        self._observers: BoundedDict[bytes, _Observer] = BoundedDict(MAX_REFUTED)
        self._refuted_at: BoundedDict[bytes, float] = BoundedDict(MAX_TABLE_PEERS)

    @property
    def confirmations_needed(self) -> int:
        """Observers that must suspect a peer in a network of this size."""
        return min(CONFIRMATIONS, max(1, len(self._table)))

    def on_suspect_message(self, message: SuspectMessage, now: float) -> bool:
        """Take in a message of valid signature. Returns whether it counts, and so is passed on."""
        if message.suspect == self._table.me or not self.counts(message, now):
            return False
        suspect = self._suspects.setdefault(message.suspect, _Suspect(now))
        suspect.messages[message.observer] = message
        self._by_id[get_item_id(message.encode())] = message
        if len(suspect.messages) >= self.confirmations_needed:
            self._start_timeout(message.suspect, suspect, now)
        return True

    def counts(self, message: SuspectMessage, now: float) -> bool:
        """Whether a message counts if its signature is valid. One about this node itself may count too.

        It counts if it names the announcement that stands and its observer is credible, was not counted before, and is
        still needed.
        """
        entry = self._table.entries.get(message.suspect)
        if entry is None or not message.is_about(entry.announcement):
            return False
        suspect = self._suspects.get(message.suspect)
        if suspect is not None and (message.observer in suspect.messages or len(suspect.messages) >= CONFIRMATIONS):
            return False
        if suspect is not None and self._table.weight(message.suspect) > 0:
            observers = {message.observer, *suspect.messages} - {self._table.me}
            if sum(not self._table.is_verified(observer) for observer in observers) > 1:
                return False
        return self._is_credible(message.observer, message.suspect, now)

    def ignore(self, message: SuspectMessage) -> None:
        """Remember a message that does not count, if it never will: it is outdated, or its suspect has enough."""
        entry, suspect = self._table.entries.get(message.suspect), self._suspects.get(message.suspect)
        if entry is not None and (
            (message.incarnation, False, message.sequence) < entry.announcement.order
            or not entry.state.is_present
            or (suspect is not None and len(suspect.messages) >= CONFIRMATIONS)
        ):
            self._ignore_item(get_item_id(message.encode()))

    def probe_failed(self, peer: bytes, now: float) -> None:
        """Note that this node's own probe of ``peer`` failed."""
        if peer in self._table.entries:
            self._start_timeout(peer, self._suspects.setdefault(peer, _Suspect(now)), now)

    def probe_succeeded(self, peer: bytes, now: float) -> None:
        """Note that this node's own probe of ``peer`` succeeded, so that it need not look again soon."""
        suspect = self._suspects.get(peer)
        if suspect is not None and suspect.dies_at is None:
            suspect.suspected_at = now

    def is_failing(self, peer: bytes) -> bool:
        """Whether ``peer`` will be declared dead unless it refutes that soon."""
        suspect = self._suspects.get(peer)
        return suspect is not None and suspect.dies_at is not None

    def get_probe_chances(self, now: float, size: float) -> list[tuple[bytes, float]]:
        """The suspects that have too few observers, each with the probability that this node should probe it now.

        ``size`` is the estimated number of nodes. Called once a second, the probability is
        ``PROBERS / size / 2 * 2 ** (t / 2)``, where t counts seconds from :data:`PROBE_DELAY_S` after the suspicion
        began. So about :data:`PROBERS` nodes probe in the first seconds, and ever more until the suspect answers.
        """
        chances = []
        for peer, suspect in self._suspects.items():
            entry = self._table.entries.get(peer)
            waited = now - suspect.suspected_at - PROBE_DELAY_S
            if suspect.dies_at is None and waited >= 0 and entry is not None and entry.state.is_present:
                share = PROBERS / max(1.0, size)
                chances.append((peer, share / 2 * 2.0 ** min(waited / 2, 30.0)))
        return chances

    def needs_confirmations(self, peer: bytes) -> bool:
        """Whether another observer's message about ``peer`` would count with other nodes."""
        suspect = self._suspects.get(peer)
        return suspect is None or len(suspect.messages) < CONFIRMATIONS

    def clear(self, peer: bytes, now: float, refuted: bool) -> None:
        """Drop the suspicion of ``peer``; ``refuted`` says that a newer announcement of the same incarnation did it."""
        suspect = self._suspects.pop(peer, None)
        if suspect is None:
            return
        is_prompt = now - suspect.suspected_at <= PROMPT_REFUTATION_S
        for observer, message in suspect.messages.items():
            item = get_item_id(message.encode())
            self._by_id.pop(item, None)
            self._ignore_item(item)
            if refuted:
                self.note_refuted(observer, peer, now, prompt=is_prompt)
        if refuted and is_prompt:
            self._refuted_at[peer] = now

    def note_refuted(self, observer: bytes, suspect: bytes, now: float, prompt: bool = True) -> None:
        """Note that ``suspect`` has refuted the message of ``observer``."""
        if observer == self._table.me:
            return
        record = self._observers[observer] = self._observers.get(observer) or _Observer()
        record.refuted_by[suspect] = now
        if prompt:
            record.false_suspicions.append(now)

    def expire(self, now: float, connected: Container[bytes]) -> list[Change]:
        """Declare dead the failing peers whose time is over, except the ``connected`` ones."""
        changes = []
        for peer, suspect in list(self._suspects.items()):
            if peer not in self._table.entries:
                self.clear(peer, now, refuted=False)
            elif suspect.dies_at is not None and suspect.dies_at <= now and peer not in connected:
                suspect.dies_at = None
                change = self._table.mark_crashed(peer, now, suspect.failing_since)
                if change is not None:
                    changes.append(change)
        return changes

    # Items for neighbours

    def get_item_ids(self, peer: bytes) -> list[bytes]:
        """The ids of the messages about ``peer``."""
        suspect = self._suspects.get(peer)
        return [] if suspect is None else [get_item_id(one.encode()) for one in suspect.messages.values()]

    def knows(self, item: bytes) -> bool:
        """Whether the message of this id is held, or was ignored."""
        return item in self._by_id or item in self._ignored

    def find(self, item: bytes) -> SuspectMessage | None:
        """The message of this id."""
        return self._by_id.get(item)

    def _ignore_item(self, item: bytes) -> None:
        self._ignored[item] = None

    def _is_credible(self, observer: bytes, suspect: bytes, now: float) -> bool:
        """Whether messages of ``observer`` about ``suspect`` count."""
        if observer == self._table.me:
            return True
        entry = self._table.entries.get(observer)
        if entry is None or not entry.state.is_present:
            return False
        record = self._observers.get(observer)
        if record is not None:
            false_suspicions = record.false_suspicions
            if now - record.refuted_by.get(suspect, -REFUTED_PENALTY_S) < REFUTED_PENALTY_S:
                return False
            if len(false_suspicions) == MAX_FALSE_SUSPICIONS and now - false_suspicions[0] < REFUTED_PENALTY_S:
                return False
        mine = self._table.entries.get(self._table.me)
        was_before = mine is not None and entry.first_seen_at - mine.first_seen_at <= ARRIVAL_S
        return self._table.is_verified(observer) or was_before or now - entry.first_seen_at >= OBSERVER_MIN_AGE_S

    def _start_timeout(self, peer: bytes, suspect: _Suspect, now: float) -> None:
        if suspect.dies_at is None:
            self._table.mark_suspect(peer)
            if self._table.entries[peer].state.is_present:
                has_refuted = now - self._refuted_at.get(peer, -REFUTED_PENALTY_S) < REFUTED_PENALTY_S
                timeout = REPEATED_SUSPICION_TIMEOUT_S if has_refuted else SUSPICION_TIMEOUT_S
                suspect.failing_since, suspect.dies_at = now, now + timeout
