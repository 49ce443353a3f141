"""Bonds of one micro-credit, and then of the least that counts, in every place of a node's peer table."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from chain.parameters.parameters import CREDIT, Parameters
from chain.state.records import Account
from node import Node
from p2p.peers.announcement import Announcement, PeerLoad
from p2p.peers.table import MAX_TABLE_PEERS, PeerTable
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.keys import make_key

EXECUTOR, NEWCOMER, STRANGER = (make_key(name).public_key for name in ("executor", "newcomer", "stranger"))


class _Bonds:
    """What the ledger says of bonds, to a node that asks."""

    def __init__(self) -> None:
        self.parameters = Parameters()
        self.accounts: dict[bytes, Account] = {}

    def set(self, peer: bytes, bonded: int) -> None:
        self.accounts[peer] = replace(Account(), bonded=bonded)

    def get_weight(self, peer: bytes) -> int:
        state = SimpleNamespace(account=lambda key: self.accounts.get(key, Account()))
        node: Any = SimpleNamespace(
            engine=SimpleNamespace(state=state, genesis=SimpleNamespace(parameters=self.parameters))
        )
        return Node._get_weight(node, peer)


def _announce(table: PeerTable, peer: bytes, incarnation: int, now: float, leaving: bool = False) -> bool:
    """Whether the table has the peer after its announcement."""
    places = ("/ip4/203.0.113.5/tcp/4001",)
    table.apply(
        Announcement(peer, incarnation, incarnation, leaving, places, (), ("m",), PeerLoad(), 7_200_000, bytes(64)),
        now,
    )
    return table.find(peer) is not None


def _count_shut_out(bonds: _Bonds, table: PeerTable, bond: int, first: int) -> int:
    """Peers that are not in the table once Sybils with such bonds have filled it."""
    for number in range(first, first + MAX_TABLE_PEERS + 10):
        sybil = number.to_bytes(32, "big")
        bonds.set(sybil, bond)
        _announce(table, sybil, 1_000, 1.0)
    _announce(table, EXECUTOR, first + 2_000, 2.0, leaving=True)  # for an update
    for number in range(first + MAX_TABLE_PEERS + 10, first + MAX_TABLE_PEERS + 20):
        bonds.set(number.to_bytes(32, "big"), bond)
        _announce(table, number.to_bytes(32, "big"), 1_000, 2.5)
    is_back = _announce(table, EXECUTOR, first + 3_000, 3.0)
    return (not is_back) + (not _announce(table, NEWCOMER, first + 3_000, 4.0))


def run() -> Outcome:
    bonds = _Bonds()
    bonds.set(EXECUTOR, 5_000 * CREDIT)
    bonds.set(NEWCOMER, 50_000 * CREDIT)
    table = PeerTable(bytes(32), weight=bonds.get_weight, salt=b"secret")
    assert _announce(table, EXECUTOR, 1_000, 0.0)
    shut_out = _count_shut_out(bonds, table, 1, 1 << 20)
    least = bonds.parameters.min_service_bond
    shut_out += _count_shut_out(bonds, table, least, 1 << 21)
    assert len(table) == MAX_TABLE_PEERS
    for number in range(4 * MAX_TABLE_PEERS):  # a stranger may have to try again: a lot decides
        if _announce(table, STRANGER[:28] + number.to_bytes(4, "big"), 4_000, 5.0):
            break
    else:
        shut_out += 1
    detail = f"{MAX_TABLE_PEERS:,} bonds of {least:,} µcredits shut out nobody"
    return Outcome(0, shut_out, shut_out, detail, "peers shut out")


ATTACK = Attack(
    "bonds of one micro-credit fill the peer table",
    before=Outcome(0, 2, 2, "bonds of 5,000 and 50,000 credits, for 42.5 credits of fees", "peers shut out"),
    run=run,
)
