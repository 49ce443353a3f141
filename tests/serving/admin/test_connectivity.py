"""A look at the network and a ping, through the admin listener; what kind of NAT there is."""

from __future__ import annotations

import httpx
import pytest

from node import Node
from serving.admin.connectivity import count_version, judge_nat
from tests.serving.admin.client import expect, with_admin
from tests.support.keys import make_key

LAN, WAN, LIE = "192.168.1.2", "203.0.113.7", "203.0.113.9"


@pytest.mark.parametrize(
    ("listening", "seen_as", "can_be_dialled", "nat"),
    [
        ([LAN], [], None, "unknown"),
        ([LAN], [LAN, LAN], True, "unknown"),
        ([WAN], [WAN], True, "none"),
        ([WAN], [WAN], False, "none"),
        ([LAN], [WAN], True, "forwarded"),
        ([LAN], [WAN], False, "closed"),
        ([LAN], [WAN], None, "closed"),
        ([WAN], [WAN, WAN, LIE], True, "none"),
    ],
)
def test_the_kind_of_nat(listening: list[str], seen_as: list[str], can_be_dialled: bool | None, nat: str) -> None:
    assert judge_nat(listening, seen_as, can_be_dialled) == nat


def test_addresses_are_counted_by_version() -> None:
    hosts = [LAN, "::1", "2001:db8::1"]
    assert (count_version(hosts, 4), count_version(hosts, 6)) == (1, 2)


@with_admin
async def test_a_node_alone_says_that_it_knows_little(node: Node, client: httpx.AsyncClient) -> None:
    found = await expect(client, "GET", "/network/check")
    assert (found["connected"], found["nat"], found["pings"], found["round_trip_ms"]) == (0, "unknown", [], None)


@with_admin
async def test_who_cannot_be_pinged_is_named(node: Node, client: httpx.AsyncClient) -> None:
    stranger = make_key("stranger").address
    answer = await expect(client, "POST", "/network/ping", 409, {"peer": stranger})
    assert stranger in answer["error"]
    answer = await expect(client, "POST", "/network/ping", 400, {"peer": node.key.address})
    assert "the node itself" in answer["error"]
    await expect(client, "POST", "/network/ping", 400, {"peer": "12D3"})
