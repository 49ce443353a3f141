"""The distributed hash table of libp2p (``/ipfs/kad/1.0.0``) as far as a rendezvous needs it. No I/O, no clock.

Every node and every key has a *position*, a hash; the distance of two is their exclusive or, as a number. A *provider*
of a key stands in the records of the :data:`K` servers nearest to the key. A :class:`Lookup` finds these: it asks the
nearest servers that it knows for nearer ones, until the nearest have all answered. A :class:`RoutingTable` remembers
servers that answered, many near this node's own position and few far off, and a :class:`ProviderStore` keeps the
records of others.

Why the library's ``KadDHT`` is not used: it announces ``host.get_addrs()``, which must stay empty here; it dials by
``host.new_stream`` whatever address anybody has named, and keeps those connections and addresses; it takes 4 MiB a
message and keeps up to 50,000 values of 1 MiB, and providers of any number of keys; it records what third parties claim
of a provider and passes it on, takes the first 20 of a key for 48 hours, asks nobody once it has one record itself, and
looks up something in every bucket every ten minutes, needed or not. It reads the wall clock, so no simulation can run
it. What is left of it, the messages, is used (:mod:`p2p.dht.messages`).

Anybody may be a server, under as many names as he likes and at any position. That cannot be prevented, so it must not
matter: a lookup asks a bounded number of servers, those that the owner named among them, no more than :data:`MAX_DUDS`
dead ones of one informer, and takes from every answer in turn. What is found is nothing but an address to dial.
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from itertools import zip_longest

from chain.crypto import PEER_ID_PREFIX
from p2p.addresses import get_first_subnet, is_local_address

DOMAIN = b"wwwserve rendezvous 1"
SHA2_256 = bytes([0x12, 32])
"""What a multihash of SHA-256 begins with."""

K = 20
"""Servers that keep a record, and that an answer names."""
ALPHA = 8
"""Questions of a lookup at a time."""
MAX_QUESTIONS = 80
"""Questions of a lookup."""
MAX_CANDIDATES = 512
"""Servers that a lookup has in mind."""
MAX_DUDS = 8
"""Servers named by one informer that may turn out dead; then no more of his are asked."""
MAX_FOUND = 64
"""Providers that a lookup returns."""
MAX_ADDRESSES = 4
"""Addresses of one peer that are taken from one answer; a provider may have twice as many in all."""
STALE = 6 * 3600.0
"""Seconds after which a server that did not answer again makes room for another."""
MAX_NEIGHBOURS = 2
"""Servers of one network (/16) in a bucket."""
LIFETIME = 24 * 3600.0
"""Seconds that a provider's record holds."""
MAX_RECORDS, MAX_PER_KEY, MAX_PER_PEER = 4096, 32, 16
"""Records in all, of one key, and of one provider."""
MIN_KEY, MAX_KEY = 2, 80
"""Bytes of a key."""


class Kind(IntEnum):
    """What a message is; the numbers are those on the wire."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer and where it can be dialled (multiaddresses without the /p2p part)."""

    peer: bytes
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A question or an answer."""

    kind: Kind
    key: bytes = b""
    closer: tuple[Contact, ...] = ()
    providers: tuple[Contact, ...] = ()


def get_rendezvous_key(chain_id: bytes) -> bytes:
    """The key that the nodes of a chain provide: a multihash."""
    return SHA2_256 + hashlib.sha256(DOMAIN + chain_id).digest()


def get_position(name: bytes) -> int:
    """Where a key, or a peer by its peer id, is."""
    return int.from_bytes(hashlib.sha256(name).digest(), "big")


def get_peer_position(peer: bytes) -> int:
    return get_position(PEER_ID_PREFIX + peer)


@lru_cache(maxsize=4096)
def drop_local(addresses: Iterable[str]) -> tuple[str, ...]:
    """Those that mean something everywhere."""
    return tuple(address for address in addresses if not is_local_address(address))


class RoutingTable:
    """Servers that answered this node, in buckets by how many leading bits they share with its position."""

    def __init__(self, me: bytes) -> None:
        self._position = get_peer_position(me)
        self._me = me
        self._buckets: dict[int, OrderedDict[bytes, tuple[Contact, int, float]]] = {}

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())

    def add(self, contact: Contact, now: float) -> None:
        """Note that a server has answered at these addresses."""
        if contact.peer == self._me or not contact.addresses:
            return
        position = get_peer_position(contact.peer)
        bucket = self._buckets.setdefault((position ^ self._position).bit_length(), OrderedDict())
        if contact.peer not in bucket:
            group = get_first_subnet(contact.addresses)
            near = [other for other, _, _ in bucket.values() if get_first_subnet(other.addresses) == group]
            if len(near) >= MAX_NEIGHBOURS and drop_local(contact.addresses):
                return
            if len(bucket) >= K:
                oldest = next(iter(bucket))
                if now - bucket[oldest][2] < STALE:
                    return
                del bucket[oldest]
        bucket[contact.peer] = (contact, position, now)
        bucket.move_to_end(contact.peer)

    def remove(self, peer: bytes) -> None:
        """Note that a server did not answer."""
        bucket = self._buckets.get((get_peer_position(peer) ^ self._position).bit_length(), OrderedDict())
        bucket.pop(peer, None)

    def closest(self, key: bytes, count: int = K) -> list[Contact]:
        """The servers nearest to ``key``."""
        target = get_position(key)
        entries = [entry for bucket in self._buckets.values() for entry in bucket.values()]
        return [contact for contact, _, _ in sorted(entries, key=lambda entry: entry[1] ^ target)[:count]]


class ProviderStore:
    """Who provides what, as the providers said themselves. The records of key ``home`` are never pushed out by others.

    When a key has all the records that it may have, the oldest from the network (/16) with most of them makes room.
    """

    def __init__(self, home: bytes) -> None:
        self._home = home
        self._keys: dict[bytes, OrderedDict[bytes, tuple[Contact, float]]] = {}
        self._order: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()  # the oldest first
        self._per_peer: Counter[bytes] = Counter()

    def __len__(self) -> int:
        """Records, including those that have expired since the last call of :meth:`add`."""
        return len(self._order)

    def add(self, key: bytes, provider: Contact, now: float) -> bool:
        """Take in a record, or renew it. Returns whether there was room."""
        self._expire(now)
        records = self._keys.get(key, OrderedDict())
        if provider.peer in records:
            self._remove(key, provider.peer)
        elif self._per_peer[provider.peer] >= MAX_PER_PEER:
            return False
        elif len(records) >= MAX_PER_KEY:
            groups = {peer: get_first_subnet(contact.addresses) for peer, (contact, _) in records.items()}
            sizes = Counter([*groups.values(), get_first_subnet(provider.addresses)])
            self._remove(key, max(records, key=lambda peer: sizes[groups[peer]]))
        elif len(self._order) >= MAX_RECORDS:
            self._remove(*next(entry for entry in self._order if entry[0] != self._home))
        self._keys.setdefault(key, OrderedDict())[provider.peer] = (provider, now + LIFETIME)
        self._order[key, provider.peer] = None
        self._per_peer[provider.peer] += 1
        return True

    def find(self, key: bytes, now: float) -> list[Contact]:
        """The providers of a key, the latest first."""
        records = self._keys.get(key, OrderedDict())
        return [contact for contact, expiry in reversed(records.values()) if expiry > now]

    def latest(self, count: int) -> list[Contact]:
        """Those who left the last records, of whatever key."""
        found: dict[bytes, Contact] = {}
        for key, peer in reversed(self._order):
            if len(found) == count:
                break
            found.setdefault(peer, self._keys[key][peer][0])
        return list(found.values())

    def _expire(self, now: float) -> None:
        while self._order:
            key, peer = next(iter(self._order))
            if self._keys[key][peer][1] > now:
                return
            self._remove(key, peer)

    def _remove(self, key: bytes, peer: bytes) -> None:
        del self._order[key, peer], self._keys[key][peer]
        self._per_peer[peer] -= 1
        if not self._per_peer[peer]:
            del self._per_peer[peer]
        if not self._keys[key]:
            del self._keys[key]


@dataclass(slots=True)
class _Candidate:
    contact: Contact
    informer: bytes
    """Who named it; itself if it was known before."""
    asked: bool = False
    answered: bool = False
    failed: bool = False
    providers: Sequence[Contact] = field(default_factory=tuple)


class Lookup:
    """The search for the servers nearest to ``key``, and for its providers on the way.

    ``seeds`` are known servers; those in ``always`` are asked however far off they are. Ask whom :meth:`next` names, up
    to :data:`ALPHA` at a time, until it names nobody although nothing is under way.
    """

    def __init__(self, me: bytes, key: bytes, seeds: Iterable[Contact], always: Iterable[Contact] = ()) -> None:
        self._me = me
        self._target = get_position(key)
        self._candidates: dict[bytes, _Candidate] = {}
        self._order: list[tuple[int, bytes]] = []  # by distance
        self._duds: Counter[bytes] = Counter()
        self.questions = 0
        for contact in always:
            self._add(contact, contact.peer)
        self._first = list(self._candidates)
        for contact in seeds:
            self._add(contact, contact.peer)

    def next(self) -> Contact | None:
        """Whom to ask now."""
        if self.questions >= MAX_QUESTIONS:
            return None
        nearest = (peer for peer, _ in zip(self._nearest(), range(K), strict=False))
        for peer in (*self._first, *nearest):
            candidate = self._candidates[peer]
            if not candidate.asked:
                candidate.asked = True
                self.questions += 1
                return candidate.contact
        return None

    def answered(self, peer: bytes, closer: Iterable[Contact], providers: Iterable[Contact] = ()) -> None:
        """Take in an answer. Local addresses count only if they come from a peer that is local itself."""
        candidate = self._candidates[peer]
        candidate.answered = True
        known = candidate.contact.addresses
        local = any(is_local_address(address) for address in known)

        def clean(contact: Contact) -> Contact:
            own = known if contact.peer == peer else ()
            named = contact.addresses if local else drop_local(contact.addresses)
            return Contact(contact.peer, tuple(dict.fromkeys((*own, *named)))[:MAX_ADDRESSES])

        for _, contact in zip(range(K), closer, strict=False):
            self._add(clean(contact), peer)
        found = [clean(contact) for _, contact in zip(range(MAX_FOUND), providers, strict=False)]
        candidate.providers = [one for one in found if one.addresses and one.peer != self._me]

    def failed(self, peer: bytes) -> None:
        """Note that a server did not answer, or nonsense."""
        candidate = self._candidates[peer]
        candidate.failed = True
        if candidate.informer != peer:
            self._duds[candidate.informer] += 1

    def closest(self) -> list[Contact]:
        """The nearest of those that answered."""
        answered = [self._candidates[peer] for _, peer in self._order if self._candidates[peer].answered]
        return [candidate.contact for candidate in answered[:K]]

    def providers(self) -> list[Contact]:
        """The providers found: the first of each answer, then the second of each, …; and so with their addresses."""
        answers = [candidate.providers for candidate in self._candidates.values() if candidate.providers]
        named: dict[bytes, list[tuple[str, ...]]] = {}
        for row in zip_longest(*answers):
            for provider in row:
                if provider is not None and (provider.peer in named or len(named) < MAX_FOUND):
                    named.setdefault(provider.peer, []).append(provider.addresses)
        return [Contact(peer, tuple(_take_turns(groups))[: 2 * MAX_ADDRESSES]) for peer, groups in named.items()]

    def _nearest(self) -> Iterator[bytes]:
        """Those that are worth asking or have answered, by distance."""
        for _, peer in self._order:
            candidate = self._candidates[peer]
            if not candidate.failed and (candidate.asked or self._duds[candidate.informer] < MAX_DUDS):
                yield peer

    def _add(self, contact: Contact, informer: bytes) -> None:
        if contact.peer == self._me or contact.peer in self._candidates or not contact.addresses:
            return
        if len(self._candidates) < MAX_CANDIDATES:
            self._candidates[contact.peer] = _Candidate(contact, informer)
            insort(self._order, (get_peer_position(contact.peer) ^ self._target, contact.peer))


def _take_turns(groups: Iterable[Iterable[str]]) -> dict[str, None]:
    """The first of each group, then the second of each, …, each once."""
    return dict.fromkeys(item for row in zip_longest(*groups) for item in row if item is not None)
