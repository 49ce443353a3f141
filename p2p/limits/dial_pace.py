"""How often an address is dialled at which only strangers say that a peer is. Pure.

Identities are free, so any number of them can announce one address. Its owner must not be flooded with dials for that.
"""

from __future__ import annotations

from collections.abc import Iterable

from chain.collections import BoundedDict
from p2p.addresses import Endpoint, get_endpoint
from p2p.limits.rate_limit import Bucket

ADDRESS_INTERVAL_S = 60.0
"""Seconds between dials of one address."""
ADDRESS_BURST = 2
"""Dials of one address in a row: one that fails is repeated before the peer is suspected."""
HOST_INTERVAL_S = 4.0
"""Seconds between dials of any address of one host."""
HOST_BURST = 16
"""Dials of addresses of one host in a row."""
MAX_PACED_ADDRESSES = 8192
"""Addresses and hosts that are remembered."""


class DialPace:
    """Counts dials. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._buckets: BoundedDict[str | Endpoint, Bucket] = BoundedDict(MAX_PACED_ADDRESSES)

    def admit(self, addresses: Iterable[str], now: float) -> tuple[str, ...]:
        """Those of ``addresses`` that may be dialled now; they count as dialled. Of a circuit, its relay counts."""
        return tuple(address for address in addresses if self._spend(address, now))

    def _spend(self, address: str, now: float) -> bool:
        endpoint = _find_endpoint(address)
        own = self._fill(endpoint, ADDRESS_INTERVAL_S, ADDRESS_BURST, now)
        host = self._fill(endpoint[0], HOST_INTERVAL_S, HOST_BURST, now)
        if own.level < ADDRESS_INTERVAL_S or host.level < HOST_INTERVAL_S:
            return False
        own.level -= ADDRESS_INTERVAL_S
        host.level -= HOST_INTERVAL_S
        return True

    def _fill(self, name: str | Endpoint, interval: float, burst: int, now: float) -> Bucket:
        bucket = self._buckets.get(name) or Bucket(burst * interval, now, burst * interval)
        self._buckets[name] = bucket
        bucket.fill(now)
        return bucket


def _find_endpoint(address: str) -> Endpoint:
    """Host and port that a dial of ``address`` leads to; ``address`` itself where there is none."""
    try:
        return get_endpoint(address.partition("/p2p/")[0])
    except ValueError:
        return address, 0
