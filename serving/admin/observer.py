"""Logs what the owner of a node would like to know, by looking at the node again and again.

Requests of its users that ended and payments that became final; troubles that begin and end; peers that come and go.
What changed between two looks is pure (:func:`compare`). Nothing of a request's content is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog
import trio

from chain.amounts import format_credits
from chain.collections import BoundedDict
from chain.crypto import format_address
from serving.admin.health.health import find_node_troubles
from serving.admin.health.troubles import Severity, Trouble
from serving.admin.node_view import NodeView
from serving.dispatcher import MAX_LISTED_REQUESTS
from serving.request_records import RequestRecord

log = structlog.get_logger(__name__)

REQUESTS_INTERVAL_S = 1.0
"""Seconds between two looks at the requests."""
MAX_TOLD = 60
"""Requests of one look that have a line each: as many as the log takes in a minute."""
TROUBLES_EVERY = 5
"""Troubles and peers are looked at once in so many looks: something that comes and goes faster is no trouble."""


@dataclass(slots=True)
class Look:
    """The result of a look: troubles, by the key that tells them apart, and peers."""

    troubles: dict[tuple[str, str], Trouble] = field(default_factory=dict)
    peers: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Changes:
    """What another look found."""

    begun: list[Trouble]
    over: list[Trouble]
    joined: list[bytes]
    left: list[bytes]


def make_look(troubles: Iterable[Trouble], peers: frozenset[bytes]) -> Look:
    """What is there. Several backends may be down; of any other trouble there is one, whatever its text says."""
    worth = [each for each in troubles if each.severity is not Severity.NOTE]
    return Look({(each.code, each.text if each.subject == "backends" else ""): each for each in worth}, peers)


def compare(before: Look, after: Look) -> Changes:
    """What has changed between two looks."""
    return Changes(
        begun=[each for key, each in after.troubles.items() if key not in before.troubles],
        over=[each for key, each in before.troubles.items() if key not in after.troubles],
        joined=sorted(after.peers - before.peers),
        left=sorted(before.peers - after.peers),
    )


class Observer:
    """Looks at one node."""

    def __init__(self, node: NodeView) -> None:
        self._node = node
        self._look = Look()
        self._last: RequestRecord | None = None
        self._under_way: BoundedDict[str, RequestRecord] = BoundedDict(MAX_LISTED_REQUESTS)
        self._unpaid: BoundedDict[str, RequestRecord] = BoundedDict(MAX_LISTED_REQUESTS)

    async def run(self) -> None:
        """Look until cancelled."""
        count = 0
        while True:
            await trio.sleep(REQUESTS_INTERVAL_S)
            count += 1
            self.look_at_requests()
            if count % TROUBLES_EVERY == 0:
                self.look_at_node()

    def look_at_node(self) -> None:
        """Log what has begun and ended since the last look."""
        peers = frozenset(peer.peer for peer in self._node.discovery.table.present())
        look = make_look(find_node_troubles(self._node), peers - {self._node.key.public_key})
        changes, self._look = compare(self._look, look), look
        for trouble in changes.begun:
            log.warning("trouble", code=trouble.code, text=trouble.text, mend=trouble.mend, command=trouble.command)
        for trouble in changes.over:
            log.info("trouble is over", code=trouble.code)
        for peer in changes.joined:
            log.info("peer joined", peer=format_address(peer))
        for peer in changes.left:
            log.info("peer left", peer=format_address(peer))

    def look_at_requests(self) -> None:
        """Log the requests that ended since the last look, and the payments that became final."""
        records = self._node.dispatcher.records
        for record in reversed(records):
            if record is self._last:
                break
            self._under_way[record.id] = record
        self._last = records[-1] if records else None
        ended = [each for each in self._under_way.values() if each.finished is not None]
        for record in ended:
            del self._under_way[record.id]
            if record.hold_id is not None:
                self._unpaid[record.id] = record
        for record in ended[:MAX_TOLD]:
            _log_request(record)
        if len(ended) > MAX_TOLD:
            log.info("more requests ended", count=len(ended) - MAX_TOLD)
        for record in list(self._unpaid.values()):
            self._look_at_payment(record)

    def _look_at_payment(self, record: RequestRecord) -> None:
        assert record.hold_id is not None
        payment = self._node.payments.payer.find(record.hold_id)
        if payment is None:  # forgotten
            del self._unpaid[record.id]
        elif payment.settled_height is not None:
            del self._unpaid[record.id]
            hold = record.hold_id.hex()[:16]
            credits = format_credits(payment.paid or 0)
            log.info("payment final", request=record.id, hold=hold, credits=credits, height=payment.settled_height)


def _log_request(record: RequestRecord) -> None:
    assert record.finished is not None
    first_byte = None if record.first_byte is None else record.first_byte - record.started
    log.info(
        "request ended",
        request=record.id,
        model=record.model,
        key_name=record.key or None,
        served_by=record.served_by,
        reason=record.reason,
        first_byte_ms=None if first_byte is None else round(1000 * first_byte, 1),
        duration_ms=round(1000 * (record.finished - record.started), 1),
        tokens=record.completion_tokens,
        outcome=record.outcome.value,
    )
