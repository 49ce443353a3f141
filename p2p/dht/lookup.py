"""A lookup in the DHT: which servers to ask next, and what their responses amount to. Pure.

It asks the nearest servers that it knows for nearer ones, until the nearest :data:`~p2p.dht.kademlia.K` have all
answered.

An attacker can run any number of servers, at any ids. Four rules bound what they gain:

- A lookup asks a bounded number of servers.
- The servers that the owner of the node has configured are always among them.
- Once :data:`MAX_DEAD_REFERRALS` servers that one referrer has named did not answer, the lookup asks no more of the
  servers named by that referrer.
- Providers are taken from all responses in turn.

What a lookup finds is nothing but addresses to dial.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from p2p.addresses import is_local_address
from p2p.dht.kademlia import MAX_ADDRESSES_PER_PEER, MAX_PROVIDERS, K, PeerInfo, drop_local, get_dht_id, get_peer_dht_id

ALPHA = 8
"""Requests that a lookup has under way at a time."""
MAX_REQUESTS = 80
"""Most requests of one lookup."""
MAX_CONTACTS = 512
"""Servers that a lookup remembers."""
MAX_DEAD_REFERRALS = 8
"""Servers named by one referrer that did not answer, after which no others named by it are asked."""


@dataclass(slots=True)
class _Contact:
    info: PeerInfo
    referrer: bytes
    """The peer that named it; itself if it was known before."""
    asked: bool = False
    answered: bool = False
    failed: bool = False
    providers: Sequence[PeerInfo] = field(default_factory=tuple)


class Lookup:
    """The search for the servers nearest to ``key``, and for its providers on the way.

    ``seeds`` are known servers; those in ``always`` are asked however far off they are. Ask the server that
    :meth:`next` returns, up to :data:`ALPHA` at a time, until it returns None while no request is under way.
    """

    def __init__(self, me: bytes, key: bytes, seeds: Iterable[PeerInfo], always: Iterable[PeerInfo] = ()) -> None:
        self._me = me
        self._target = get_dht_id(key)
        self._contacts: dict[bytes, _Contact] = {}
        self._order: list[tuple[int, bytes]] = []  # by distance
        self._dead_referrals: Counter[bytes] = Counter()
        self.requests = 0
        """Requests so far."""
        for info in always:
            self._add(info, info.peer)
        self._first = list(self._contacts)
        for info in seeds:
            self._add(info, info.peer)

    def next(self) -> PeerInfo | None:
        """The server to ask now."""
        if self.requests >= MAX_REQUESTS:
            return None
        nearest = (peer for peer, _ in zip(self._nearest(), range(K), strict=False))
        for peer in (*self._first, *nearest):
            contact = self._contacts[peer]
            if not contact.asked:
                contact.asked = True
                self.requests += 1
                return contact.info
        return None

    def answered(self, peer: bytes, closer: Iterable[PeerInfo], providers: Iterable[PeerInfo] = ()) -> None:
        """Take in a response. Local addresses count only if they come from a peer that is local itself."""
        contact = self._contacts[peer]
        contact.answered = True
        known = contact.info.addresses
        local = any(is_local_address(address) for address in known)

        def clean(info: PeerInfo) -> PeerInfo:
            own = known if info.peer == peer else ()
            named = info.addresses if local else drop_local(info.addresses)
            return PeerInfo(info.peer, tuple(dict.fromkeys((*own, *named)))[:MAX_ADDRESSES_PER_PEER])

        for _, info in zip(range(K), closer, strict=False):
            self._add(clean(info), peer)
        found = [clean(info) for _, info in zip(range(MAX_PROVIDERS), providers, strict=False)]
        contact.providers = [one for one in found if one.addresses and one.peer != self._me]

    def failed(self, peer: bytes) -> None:
        """Note that a server did not answer, or sent something malformed."""
        contact = self._contacts[peer]
        contact.failed = True
        if contact.referrer != peer:
            self._dead_referrals[contact.referrer] += 1

    def closest(self) -> list[PeerInfo]:
        """The nearest servers that have answered."""
        answered = [self._contacts[peer] for _, peer in self._order if self._contacts[peer].answered]
        return [contact.info for contact in answered[:K]]

    def providers(self) -> list[PeerInfo]:
        """The providers found, and their addresses, taken from all responses in turn."""
        responses = [contact.providers for contact in self._contacts.values() if contact.providers]
        named: dict[bytes, list[tuple[str, ...]]] = {}
        for row in zip_longest(*responses):
            for provider in row:
                if provider is not None and (provider.peer in named or len(named) < MAX_PROVIDERS):
                    named.setdefault(provider.peer, []).append(provider.addresses)
        return [
            PeerInfo(peer, tuple(_interleave(groups))[: 2 * MAX_ADDRESSES_PER_PEER]) for peer, groups in named.items()
        ]

    def _nearest(self) -> Iterator[bytes]:
        """The servers that are worth asking or have answered, by distance."""
        for _, peer in self._order:
            contact = self._contacts[peer]
            dead = self._dead_referrals[contact.referrer]
            if not contact.failed and (contact.asked or dead < MAX_DEAD_REFERRALS):
                yield peer

    def _add(self, info: PeerInfo, referrer: bytes) -> None:
        if info.peer == self._me or info.peer in self._contacts or not info.addresses:
            return
        if len(self._contacts) < MAX_CONTACTS:
            self._contacts[info.peer] = _Contact(info, referrer)
            insort(self._order, (get_peer_dht_id(info.peer) ^ self._target, info.peer))


def _interleave(groups: Iterable[Iterable[str]]) -> dict[str, None]:
    """The first of each group, then the second of each, …, each once."""
    return dict.fromkeys(item for row in zip_longest(*groups) for item in row if item is not None)
