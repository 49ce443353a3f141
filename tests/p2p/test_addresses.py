"""What is read out of addresses."""

from __future__ import annotations

import pytest

from p2p.addresses import (
    Reach,
    format_circuit_address,
    format_endpoint,
    get_endpoint,
    get_first_subnet,
    get_reach,
    get_scope,
    get_subnet,
    get_subnets,
    is_in_scope,
    is_local,
    is_local_address,
    parse_circuit_address,
)
from tests.support.keys import make_key


def test_a_subnet_is_a_16_or_a_32() -> None:
    assert [get_subnet(host) for host in ("45.67.89.1", "2a00:1:2::1")] == ["45.67.0.0/16", "2a00:1::/32"]


def test_names_share_a_subnet_and_what_cannot_be_read_is_one_of_its_own() -> None:
    names = ["/dns/a/tcp/1", "/dns4/b/tcp/1", "/dns6/c/tcp/1", "/dnsaddr/d"]
    assert get_subnets(names) == {"names"}
    assert get_subnets(["/ip4/45.67.1.2/tcp/1", "/ip4/45.67.3.4/tcp/2"]) == {"45.67.0.0/16"}
    assert get_subnets(["/ip4/nonsense/tcp/1", "/memory/1"]) == {"/ip4/nonsense/tcp/1", "/memory/1"}
    assert get_first_subnet(()) == "" and get_first_subnet(("/dns/a/tcp/1", "/memory/1")) == "names"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((host, True) for host in ("127.0.0.1", "10.1.2.3", "100.64.0.1", "fe80::1", "fd00::1", "::1")),
        *((host, False) for host in ("45.67.89.1", "203.0.113.9", "2a00::1", "172.32.0.1")),
    ],
)
def test_local_addresses(host: str, local: bool) -> None:
    assert is_local(host) is local


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("/ip4/10.0.0.1/tcp/1", True),
        ("/ip4/10.0.0.1/tcp/1/p2p/x/p2p-circuit", True),
        ("/ip4/nonsense/tcp/1", True),
        ("/ip4/45.67.89.1/tcp/1", False),
        ("/dns4/example.org/tcp/1", False),
        ("", False),
    ],
)
def test_local_multiaddresses(address: str, local: bool) -> None:
    assert is_local_address(address) is local


@pytest.mark.parametrize(
    "address", ["/ip4/::1/tcp/1", "/ip6/fe80::1%eth0/tcp/1", "/ip4/192.0.2.1/tcp/65536", "/dnsaddr/a/tcp/1"]
)
def test_what_is_no_endpoint(address: str) -> None:
    with pytest.raises(ValueError):
        get_endpoint(address)


def test_an_endpoint_is_written_as_it_is_read() -> None:
    for endpoint in (("192.0.2.1", 4001), ("2001:db8::1", 1)):
        assert get_endpoint(format_endpoint(*endpoint)) == endpoint


@pytest.mark.parametrize(
    "address",
    ["/p2p-circuit", "/ip4/127.0.0.1/tcp/1/p2p-circuit", "/ip4/127.0.0.1/tcp/1/p2p/nonsense/p2p-circuit", "twice"],
)
def test_malformed_circuit_addresses_are_refused(address: str) -> None:
    once = format_circuit_address(make_key(1).public_key, "/ip4/127.0.0.1/tcp/1")
    assert parse_circuit_address(once) == (make_key(1).public_key, "/ip4/127.0.0.1/tcp/1")
    whole = f"{once}/p2p/{make_key(2).address}"
    assert parse_circuit_address(whole) == (make_key(1).public_key, "/ip4/127.0.0.1/tcp/1")
    with pytest.raises(ValueError):
        parse_circuit_address(f"{once}{once}" if address == "twice" else address)


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("/ip4/8.8.8.8/tcp/1", Reach.ANYWHERE),
        ("/ip6/2600::1/tcp/1", Reach.ANYWHERE),
        ("/ip4/10.0.0.1/tcp/1/p2p/x/p2p-circuit", Reach.LOCAL_NETWORK),
        ("/ip4/169.254.169.254/tcp/80", Reach.LOCAL_NETWORK),
        ("/ip4/224.0.0.1/tcp/1", Reach.LOCAL_NETWORK),
        ("/ip6/fe80::1/tcp/1", Reach.LOCAL_NETWORK),
        ("/ip6/::ffff:127.0.0.1/tcp/1", Reach.MACHINE),
        ("/ip4/127.9.9.9/tcp/1", Reach.MACHINE),
        ("/ip4/0.0.0.0/tcp/1", Reach.MACHINE),
        ("/dns4/example.org/tcp/1", Reach.MACHINE),
        ("", Reach.MACHINE),
    ],
)
def test_from_where_an_address_can_be_dialled(address: str, reach: Reach) -> None:
    assert get_reach(address) is reach


@pytest.mark.parametrize(
    ("addresses", "scope"),
    [
        ((), Reach.ANYWHERE),
        (("/dns4/localhost/tcp/1", "/memory/1"), Reach.ANYWHERE),
        (("/ip4/127.0.0.1/tcp/1", "/dns4/localhost/tcp/1"), Reach.MACHINE),
        (("/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1"), Reach.LOCAL_NETWORK),
        (("/ip4/192.168.0.2/tcp/1", "/ip4/8.8.8.8/tcp/1"), Reach.ANYWHERE),
    ],
)
def test_the_scope_of_a_network_is_that_of_the_widest_address(addresses: tuple[str, ...], scope: Reach) -> None:
    assert get_scope(addresses) is scope


@pytest.mark.parametrize(
    ("address", "widest"),
    [
        ("/ip4/8.8.8.8/tcp/1", Reach.ANYWHERE),
        ("/dns4/example.org/tcp/1", Reach.ANYWHERE),
        ("/ip4/10.0.0.1/tcp/1/p2p/x/p2p-circuit", Reach.LOCAL_NETWORK),
        ("/ip6/fd00::1/tcp/1", Reach.LOCAL_NETWORK),
        ("/ip6/::ffff:127.0.0.1/tcp/1", Reach.MACHINE),
        ("/ip6/::1/tcp/1", Reach.MACHINE),
        ("/ip4/169.254.169.254/tcp/80", None),
        ("/ip4/224.0.0.1/tcp/1", None),
        ("/ip4/255.255.255.255/tcp/1", None),
        ("/ip4/0.0.0.0/tcp/1", None),
        ("/ip6/::/tcp/1", None),
        ("/ip6/fe80::1/tcp/1", None),
        ("/ip6/ff02::1/tcp/1", None),
    ],
)
def test_what_may_be_dialled_in_a_network_of_some_scope(address: str, widest: Reach | None) -> None:
    allowed = [scope for scope in Reach if is_in_scope(address, scope)]
    assert allowed == [scope for scope in Reach if widest is not None and scope <= widest]
