"""The view: the newest announcement stands in any order, the dead stay dead, the table is bounded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.limits.places import OWNERS_CHOICE
from p2p.peers.announcement import ACCEPTANCE_S, Announcement, ModelLoad, PeerLoad
from p2p.peers.table import RANK_INTERVAL_S, TOMBSTONE_S, Change, ChangeKind, PeerState, PeerTable
from tests.support.keys import make_peer

ME = make_peer(0)
LIFETIME = 35.0


def make(peer: int, incarnation: int = 1, sequence: int = 1, leaving: bool = False, mark: int = 0) -> Announcement:
    """An announcement whose signature is not checked here; ``mark`` tells apart two of one order."""
    return Announcement(
        peer=make_peer(peer),
        incarnation=incarnation,
        sequence=sequence,
        leaving=leaving,
        addresses=(f"/memory/{peer}",),
        relays=(),
        models=("model",),
        load=PeerLoad(),
        expires_after=round(LIFETIME * 1000),
        signature=bytes([mark]) * 64,
    )


def kind(change: Change | None) -> ChangeKind | None:
    return None if change is None else change.kind


announcements = st.builds(
    make, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 1)
)


def snapshot(table: PeerTable) -> object:
    return table.present(), [(make_peer(peer), table.state(make_peer(peer))) for peer in range(1, 4)], versions(table)


def versions(table: PeerTable) -> list[bytes]:
    return sorted(entry.id for entry in table.entries.values())


@given(st.lists(announcements, max_size=12), st.randoms(use_true_random=False), st.data())
def test_merging_is_commutative_and_idempotent(heard: list[Announcement], random: object, data: st.DataObject) -> None:
    again = data.draw(st.permutations(heard)) + data.draw(st.lists(st.sampled_from(heard or [make(1)]), max_size=4))
    one, other = PeerTable(ME), PeerTable(ME)
    for announcement in heard or [make(1)]:
        one.apply(announcement, 0.0)
    for announcement in again or [make(1)]:
        other.apply(announcement, 0.0)
    assert snapshot(one) == snapshot(other)
    for announcement in again:
        assert one.apply(announcement, 1.0) is None
    assert snapshot(one) == snapshot(other)


def feed(table: PeerTable, heard: Iterable[Announcement], now: float = 0.0) -> None:
    for announcement in heard:
        table.apply(announcement, now)


@given(
    st.lists(st.tuples(announcements, st.floats(0, 30)), min_size=1, max_size=15),
    st.floats(0, 20),
)
def test_tombstones_hold(history: list[tuple[Announcement, float]], gap: float) -> None:
    """After a goodbye, nothing of that incarnation or an earlier one makes the peer present."""
    table = PeerTable(ME)
    table.apply(make(1, incarnation=3, sequence=1, leaving=True), 0.0)
    now = 0.0
    for announcement, age in history:
        now += gap
        table.expire(now)
        table.apply(announcement, now, age)
        assert table.find(make_peer(1)) is None


def test_the_life_of_a_peer() -> None:
    table = PeerTable(ME)
    assert kind(table.apply(make(1, sequence=1), 0.0)) is ChangeKind.JOINED
    assert kind(table.apply(make(1, sequence=1), 0.0)) is None
    assert kind(table.apply(make(1, sequence=2), 1.0)) is ChangeKind.UPDATED
    assert kind(table.apply(make(1, sequence=1), 2.0)) is None
    assert table.find(make_peer(1)) == make(1, sequence=2)
    assert len(table) == 1
    assert kind(table.apply(make(1, sequence=3, leaving=True), 3.0)) is ChangeKind.LEFT
    assert (len(table), table.find(make_peer(1)), table.state(make_peer(1))) == (0, None, PeerState.LEFT)
    assert kind(table.apply(make(1, sequence=9), 4.0)) is None
    assert kind(table.apply(make(1, incarnation=2), 5.0)) is ChangeKind.JOINED


def test_silence_expires_after_the_announced_lifetime() -> None:
    table = PeerTable(ME)
    table.apply(make(1), 0.0)
    table.apply(make(2), 0.0)
    table.apply(make(1, sequence=2), 20.0)
    assert table.expire(LIFETIME - 0.1) == []
    assert [(change.kind, change.peer) for change in table.expire(LIFETIME)] == [(ChangeKind.EXPIRED, make_peer(2))]
    assert [change.peer for change in table.expire(20 + LIFETIME)] == [make_peer(1)]
    assert kind(table.apply(make(1, sequence=2), 60.0)) is None
    assert kind(table.apply(make(1, sequence=3), 60.0)) is ChangeKind.JOINED


def test_what_comes_late_expires_no_later() -> None:
    table = PeerTable(ME)
    table.apply(make(1), 30.0, age=30.0)
    assert [change.peer for change in table.expire(LIFETIME)] == [make_peer(1)]
    assert kind(PeerTable(ME).apply(make(1), 50.0, age=LIFETIME)) is None


def test_a_crash_outlives_announcements_made_before_it() -> None:
    table = PeerTable(ME)
    table.apply(make(1, sequence=1), 0.0)
    assert table.mark_suspect(make_peer(1))
    assert not table.mark_suspect(make_peer(1))
    assert table.find(make_peer(1)) is not None
    assert kind(table.mark_crashed(make_peer(1), 10.0)) is ChangeKind.CRASHED
    assert table.mark_crashed(make_peer(1), 10.0) is None
    assert kind(table.apply(make(1, sequence=1), 11.0)) is None
    assert kind(table.apply(make(1, sequence=2), 12.0, age=3.0)) is None
    assert table.find(make_peer(1)) is None
    assert kind(table.apply(make(1, sequence=3), 13.0, age=1.0)) is ChangeKind.JOINED


def test_a_peer_found_dead_where_it_was_is_alive_where_it_says_to_be_now() -> None:
    table = PeerTable(ME)
    table.apply(make(1, sequence=1), 0.0)
    table.mark_crashed(make_peer(1), 14.0, found=10.0)
    moved = replace(make(1, sequence=2), addresses=("/memory/elsewhere",))
    assert kind(table.apply(moved, 15.0, age=6.0)) is ChangeKind.JOINED
    table.mark_crashed(make_peer(1), 24.0, found=20.0)
    assert kind(table.apply(replace(moved, sequence=3), 25.0, age=4.5)) is ChangeKind.JOINED


def test_a_restart_after_a_crash_is_alive_again() -> None:
    table = PeerTable(ME)
    table.apply(make(1), 0.0)
    table.mark_suspect(make_peer(1))
    table.mark_crashed(make_peer(1), 10.0)
    assert [known.peer for known in table.lost()] == [make_peer(1)]
    assert kind(table.apply(make(1, incarnation=2), 10.0)) is ChangeKind.JOINED
    assert table.lost() == []


def test_a_suspect_is_cleared_by_a_connection_or_a_newer_announcement() -> None:
    table = PeerTable(ME)
    table.apply(make(1), 0.0)
    table.mark_suspect(make_peer(1))
    table.mark_alive(make_peer(1), dialled=True)
    assert table.state(make_peer(1)) is PeerState.ONLINE
    table.mark_suspect(make_peer(1))
    table.apply(make(1, sequence=2), 1.0)
    assert table.state(make_peer(1)) is PeerState.ONLINE
    assert not table.mark_suspect(make_peer(7))


def test_tombstones_outlast_every_acceptable_announcement_and_then_go() -> None:
    table = PeerTable(ME)
    table.apply(make(1), 0.0)
    table.apply(make(1, sequence=2, leaving=True), 5.0)
    table.expire(5.0 + ACCEPTANCE_S - 1)
    assert table.state(make_peer(1)) is PeerState.LEFT
    assert table.expire(5.0 + TOMBSTONE_S) == []
    assert table.state(make_peer(1)) is None
    assert versions(table) == []


def test_a_revived_tombstone_expires_on_time() -> None:
    table = PeerTable(ME)
    table.apply(make(1), 0.0)
    table.apply(make(1, leaving=True), 0.0)
    table.apply(make(1, incarnation=2), 100.0)
    assert [change.kind for change in table.expire(100.0 + LIFETIME)] == [ChangeKind.EXPIRED]
    assert table.expire(100.0 + LIFETIME) == []


def test_the_table_is_bounded_and_so_are_the_tombstones_beside_it() -> None:
    table = PeerTable(ME, max_peers=3)
    for number in range(1, 10):
        table.apply(make(number, leaving=True), 0.0)
    assert len(table.entries) == 3
    for number in range(11, 20):
        table.apply(make(number), 1.0)
    assert (len(table), len(table.entries)) == (3, 6)
    for number in range(11, 20):
        table.apply(make(number, sequence=2, leaving=True), 2.0)
    assert (len(table), len(table.entries)) == (0, 3)
    for number in range(11, 20):  # those remembered as gone and those forgotten alike
        table.apply(make(number, incarnation=2), 3.0)
    assert len(table) == 3 and len(table.entries) <= 6


def crowd(table: PeerTable, count: int, now: float, first: int = 10_000, **what: Any) -> None:
    """Invented peers announce themselves."""
    for number in range(first, first + count):
        table.apply(replace(make(1, **what), peer=number.to_bytes(32, "big")), now)


def test_a_goodbye_is_not_pushed_out_by_newcomers_nor_by_goodbyes_of_strangers() -> None:
    table = PeerTable(ME, max_peers=20, salt=b"salt")
    table.apply(make(1), 0.0)
    table.apply(make(1, sequence=5, leaving=True), 1.0)
    crowd(table, 500, 2.0)
    crowd(table, 500, 3.0, first=20_000, leaving=True)
    crowd(table, 500, 4.0, incarnation=10)
    assert table.state(make_peer(1)) is PeerState.LEFT
    assert table.apply(make(1, sequence=4), 5.0) is None and table.find(make_peer(1)) is None
    assert len(table.entries) <= 40


def test_the_tombstones_of_proven_peers_stay_longest() -> None:
    table = PeerTable(ME, max_peers=8, weight=lambda peer: int(peer == make_peer(1)))
    feed(table, [make(1), make(2)])
    table.mark_alive(make_peer(2), dialled=True)
    for number in (1, 2):
        table.mark_crashed(make_peer(number), 1.0)
    for number in range(10_000, 10_200):
        fake = replace(make(1), peer=number.to_bytes(32, "big"))
        table.apply(fake, 2.0)
        table.apply(replace(fake, leaving=True), 3.0)
    assert table.state(make_peer(1)) is table.state(make_peer(2)) is PeerState.CRASHED and len(table.entries) == 8


def test_stake_outranks_a_connection_and_a_connection_hearsay() -> None:
    table = PeerTable(ME, max_peers=6, weight=lambda peer: int(peer[0] >= 200))
    feed(table, [make(number) for number in range(1, 7)])
    for number in range(1, 7):
        table.mark_alive(make_peer(number), dialled=number <= 5)
    assert kind(table.apply(make(200), 1.0)) is ChangeKind.JOINED
    assert table.find(make_peer(6)) is None  # it had connected by itself: hearsay
    assert table.apply(make(7), 1.0) is None
    for number in range(201, 206):
        table.apply(make(number), 1.0)
    # Five of six places are for those with stake; the last one stays with a peer that was dialled.
    present = [known.peer for known in table.present()]
    assert len(present) == 6 and table.was_dialled(present[0]) and all(peer[0] >= 200 for peer in present[1:])
    assert table.apply(make(8), 1.0) is None


def bond(table: PeerTable, bonds: dict[bytes, int], numbers: Iterable[int], amount: int, now: float = 1.0) -> int:
    """These peers bond ``amount`` each and announce themselves; how many of them are in the table then."""
    peers = [number.to_bytes(32, "big") for number in numbers]
    for peer in peers:
        bonds[peer] = amount
        table.apply(replace(make(1), peer=peer), now)
    return sum(table.find(peer) is not None for peer in peers)


def test_a_larger_stake_displaces_a_smaller_one_and_newcomers_keep_a_share() -> None:
    bonds: dict[bytes, int] = {}
    table = PeerTable(ME, max_peers=400, weight=lambda peer: bonds.get(peer, 0), salt=b"salt")
    crowd(table, 1_000, 0.0)
    assert bond(table, bonds, range(1, 1_000), 1_000) == 300  # three quarters of the places
    assert bond(table, bonds, range(2_000, 2_050), 2_000) == 50  # twice as much: all of them
    assert bond(table, bonds, range(3_000, 3_300), 64_000) == 300
    assert bond(table, bonds, range(4_000, 4_400), 32_000) == 0
    strangers = [known.peer for known in table.present() if not bonds.get(known.peer)]
    assert len(strangers) == 100
    crowd(table, 2_000, 2.0, first=500_000)
    newer = [known.peer for known in table.present() if not bonds.get(known.peer)]
    assert len(newer) == 100 and newer != strangers, "newcomers come in, too"


def test_newcomers_get_their_share_even_if_stake_was_there_first() -> None:
    bonds: dict[bytes, int] = {}
    table = PeerTable(ME, max_peers=40, weight=lambda peer: bonds.get(peer, 0), salt=b"salt")
    assert bond(table, bonds, range(1, 100), 1_000) == 40  # as long as nobody else wants in
    crowd(table, 100, 2.0)
    assert sum(bool(bonds.get(known.peer)) for known in table.present()) == 30


def test_within_a_class_of_stake_a_lot_decides_and_not_the_order() -> None:
    def survivors(salt: bytes, order: Iterable[int]) -> set[bytes]:
        bonds: dict[bytes, int] = {}
        table = PeerTable(ME, max_peers=40, weight=lambda peer: bonds.get(peer, 0), salt=salt)
        bond(table, bonds, order, 1_000)
        return {known.peer for known in table.present()}

    order = range(1, 200)
    assert survivors(b"a", order) == survivors(b"a", reversed(order)) != survivors(b"b", order)


def test_a_stake_that_was_withdrawn_gives_way() -> None:
    bonds: dict[bytes, int] = {}
    table = PeerTable(ME, max_peers=40, weight=lambda peer: bonds.get(peer, 0), salt=b"salt")
    assert bond(table, bonds, range(1, 41), 1 << 40, RANK_INTERVAL_S - 1) == 40
    bonds.update(dict.fromkeys(list(bonds)[:20], 0))
    table.expire(RANK_INTERVAL_S)
    assert bond(table, bonds, range(100, 110), 1_000) == 10
    assert sum(bonds[known.peer] == 1 << 40 for known in table.present()) == 20


def test_only_the_latest_contacts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p.peers.table.MAX_DIALLED", 3)
    table = PeerTable(ME, max_peers=6)
    feed(table, [make(number) for number in range(1, 7)])
    for number in (1, 2, 3, 1, 4, 5, 6):
        table.mark_alive(make_peer(number), dialled=True)
    assert [number for number in range(1, 7) if table.was_dialled(make_peer(number))] == [4, 5, 6]
    crowd(table, 200, 1.0)
    assert {make_peer(4), make_peer(5), make_peer(6)} <= {known.peer for known in table.present()}


def test_an_inbound_connection_proves_no_address() -> None:
    table = PeerTable(ME)
    table.apply(make(1), 0.0)
    table.mark_alive(make_peer(1))
    assert not table.is_verified(make_peer(1)) and not table.was_dialled(make_peer(1))
    table.mark_alive(make_peer(1), dialled=True)
    assert table.is_verified(make_peer(1)) and table.was_dialled(make_peer(1))


def test_made_up_peers_push_out_neither_those_with_stake_nor_those_once_connected() -> None:
    staked = {make_peer(1), make_peer(2)}
    table = PeerTable(ME, max_peers=10, weight=lambda peer: int(peer in staked), salt=b"salt")
    feed(table, [make(number) for number in range(1, 7)])
    table.mark_alive(make_peer(3), dialled=True)
    for number in range(10_000, 11_000):
        fake = replace(make(1), peer=number.to_bytes(32, "big"))
        table.apply(fake, 1.0)
    assert all(table.find(make_peer(number)) is not None for number in range(1, 4))
    assert len(table) == 10
    staked.add(make_peer(77))
    assert kind(table.apply(make(77), 2.0)) is ChangeKind.JOINED
    assert table.find(make_peer(77)) is not None


def test_a_table_of_nothing_but_proven_peers_takes_no_more() -> None:
    table = PeerTable(ME, max_peers=2)
    feed(table, [make(1), make(2)])
    table.mark_alive(make_peer(1), dialled=True)
    table.mark_alive(make_peer(2), dialled=True)
    assert table.apply(make(3), 0.0) is None
    assert [known.peer for known in table.present()] == [make_peer(1), make_peer(2)]


def test_which_hearsay_stays_depends_on_the_secret_alone_and_not_on_the_order() -> None:
    def survivors(salt: bytes, order: range) -> list[bytes]:
        table = PeerTable(ME, max_peers=5, salt=salt)
        feed(table, [make(number) for number in order])
        return [known.peer for known in table.present()]

    assert survivors(b"a", range(1, 200)) == survivors(b"a", range(199, 0, -1)) != survivors(b"b", range(1, 200))


def test_my_own_entry_is_part_of_the_view_but_no_peer() -> None:
    table = PeerTable(make_peer(1))
    table.apply(make(1), 0.0)
    assert (len(table), table.present()) == (0, [])
    assert table.root != 0
    assert table.expire(10.0 * LIFETIME) == []
    assert not table.mark_suspect(make_peer(1))
    assert table.mark_crashed(make_peer(1), 0.0) is None


def test_my_own_goodbye_leaves_the_number_of_others_as_it_is() -> None:
    table = PeerTable(make_peer(1))
    feed(table, [make(1), make(2)])
    feed(table, [make(1, sequence=2, leaving=True)])
    assert len(table) == len(table.present()) == 1
    feed(table, [make(2, sequence=2, leaving=True)])
    assert len(table) == len(table.present()) == 0


def test_what_a_peer_says_of_its_load_stands_until_its_next_announcement() -> None:
    table = PeerTable(ME)
    table.apply(make(1), 0.0)
    table.set_load(make_peer(1), PeerLoad((ModelLoad("m", 3, 1),)))
    table.set_load(make_peer(2), PeerLoad((ModelLoad("m", 3, 1),)))
    found = table.find(make_peer(1))
    assert found is not None
    assert found.load == PeerLoad((ModelLoad("m", 3, 1),))
    assert table.present() == [found]
    table.apply(make(1, sequence=2), 1.0)
    assert table.find(make_peer(1)) == make(1, sequence=2)


@given(st.lists(announcements, max_size=12), st.permutations(list(range(12))))
def test_the_fingerprint_of_views_that_agree_is_equal(heard: list[Announcement], order: list[int]) -> None:
    one, other = PeerTable(ME), PeerTable(ME)
    feed(one, heard)
    feed(other, [heard[index] for index in order if index < len(heard)])
    assert one.root == other.root
    present = [entry.id for entry in one.entries.values() if entry.state.is_present]
    assert (one.root == 0) == (not present)


def test_it_is_a_directory_of_addresses_and_protected_peers() -> None:
    table = PeerTable(ME, weight=lambda peer: int(peer == make_peer(2)), bootstrap=[make_peer(3)])
    table.apply(make(1), 0.0)
    table.apply(replace(make(2), addresses=(), relays=("/memory/9/p2p/x",)), 0.0)
    table.apply(make(4), 0.0)
    table.apply(make(4, leaving=True), 1.0)
    assert [table.get_addresses(make_peer(number)) for number in (1, 2, 4, 5)] == [
        ("/memory/1",),
        ("/memory/9/p2p/x/p2p-circuit",),
        (),
        (),
    ]
    assert [table.get_weight(make_peer(number)) for number in (1, 2, 3, 4)] == [0, 1, OWNERS_CHOICE, 0]
