"""Lookups over simulated servers, honest and not."""

from __future__ import annotations

import pytest

from p2p.dht.kademlia import (
    MAX_ADDRESSES_PER_PEER,
    MAX_PROVIDERS,
    K,
    PeerInfo,
    get_dht_id,
    get_peer_dht_id,
)
from p2p.dht.lookup import MAX_DEAD_REFERRALS, MAX_REQUESTS, Lookup
from tests.p2p.dht.servers import KEY, ME, Liar, World, make_address, make_info
from tests.support.seeds import list_seeds


@pytest.mark.parametrize("seed", list_seeds(1, 3))
def test_a_lookup_among_200_servers_finds_the_nearest_and_every_provider(seed: int) -> None:
    world = World(seed)
    providers = {world.provide(number) for number in range(5)}
    lookup = world.look_up(KEY)
    assert set(lookup.providers()) == providers
    nearest = sorted(world.servers, key=lambda peer: get_peer_dht_id(peer) ^ get_dht_id(KEY))
    found = {one.peer for one in lookup.closest()}
    assert len(found & set(nearest[:K])) >= K - 2
    assert lookup.requests <= 60


def test_servers_of_one_network_find_each_other_too() -> None:
    world = World(0, subnet=1)
    providers = {world.provide(number) for number in range(5)}
    assert set(world.look_up(KEY).providers()) == providers


@pytest.mark.parametrize("seed", list_seeds(1, 3))
def test_providers_are_found_when_a_third_of_the_servers_has_died(seed: int) -> None:
    world = World(seed)
    providers = {world.provide(number) for number in range(3)}
    mortal = [server for server in world.servers.values() if server.info != world.first]
    for server in world.random.sample(mortal, 66):
        server.alive = False
    lookup = world.look_up(KEY)
    assert set(lookup.providers()) == providers
    assert lookup.requests <= MAX_REQUESTS


@pytest.mark.parametrize("seed", list_seeds(1, 3))
def test_liars_cost_requests_and_hide_no_provider(seed: int) -> None:
    """A quarter of the servers, and the nearest of all, name what does not exist."""
    world = World(seed)
    providers = [world.provide(number) for number in range(3)]
    ranked = sorted(world.servers, key=lambda peer: get_peer_dht_id(peer) ^ get_dht_id(KEY))
    chosen = {ranked[0], ranked[1], *world.random.sample(ranked, 50)} - {world.first.peer}
    for peer in chosen:
        liar = Liar(0, world.random)
        liar.info, liar.table = world.servers[peer].info, world.servers[peer].table
        world.servers[peer] = liar
    lookup = world.look_up(KEY)
    found = lookup.providers()
    assert set(providers) <= set(found) and len(found) <= MAX_PROVIDERS
    assert lookup.requests <= MAX_REQUESTS


def test_one_referrer_is_not_believed_for_ever() -> None:
    liar, honest = make_info(1), make_info(2)
    lookup = Lookup(ME, KEY, [liar, honest])
    asked = [lookup.next(), lookup.next()]
    assert {one.peer for one in asked if one is not None} == {liar.peer, honest.peer}
    lookup.answered(liar.peer, [make_info(number) for number in range(100, 100 + K)])
    lookup.answered(honest.peer, [make_info(200)])
    dead = []
    while (one := lookup.next()) is not None:
        lookup.failed(one.peer)
        dead.append(one)
    assert len(dead) == MAX_DEAD_REFERRALS + 1 and make_info(200) in dead


def test_servers_of_the_owner_are_asked_however_far_they_are() -> None:
    near = sorted((make_info(number) for number in range(500)), key=lambda one: get_peer_dht_id(one.peer))
    near.sort(key=lambda one: get_peer_dht_id(one.peer) ^ get_dht_id(KEY))
    lookup = Lookup(ME, KEY, near[:100], always=[near[-1]])
    assert lookup.next() == near[-1]


def test_local_addresses_are_believed_of_local_servers_only() -> None:
    inside, outside = "/ip4/192.168.0.9/tcp/1", "/ip4/192.0.2.9/tcp/1"
    for address, taken in ((inside, (inside, outside)), (outside, (outside,))):
        server, named = PeerInfo(make_info(1).peer, (address,)), PeerInfo(make_info(2).peer, (inside, outside))
        lookup = Lookup(ME, KEY, [server])
        assert lookup.next() == server
        lookup.answered(server.peer, [named], [named, PeerInfo(make_info(3).peer, (inside,))])
        assert lookup.next() == PeerInfo(named.peer, taken)
        assert lookup.providers()[0] == PeerInfo(named.peer, taken)
        assert len(lookup.providers()) == (2 if address is inside else 1)


def test_who_names_itself_is_where_it_was_reached() -> None:
    server = make_info(1)
    lookup = Lookup(ME, KEY, [server])
    lookup.next()
    lookup.answered(
        server.peer, (), [PeerInfo(server.peer, ("/ip4/10.0.0.1/tcp/1",)), PeerInfo(ME, (make_address(1),))]
    )
    assert lookup.providers() == [server]


def test_addresses_of_a_provider_come_from_all_who_name_it_in_turn() -> None:
    servers, provider = [make_info(number) for number in range(4)], make_info(9).peer
    lookup = Lookup(ME, KEY, servers)
    while (one := lookup.next()) is not None:
        number = servers.index(one)
        false = tuple(make_address(1000 * number + each) for each in range(MAX_ADDRESSES_PER_PEER))
        lookup.answered(one.peer, (), [PeerInfo(provider, (make_address(7),) if number == 3 else false)])
    (found,) = lookup.providers()
    assert make_address(7) in found.addresses and len(found.addresses) == 2 * MAX_ADDRESSES_PER_PEER
