"""A small internet of namespaces: public hosts on one network, and homes behind NAT boxes.

Public hosts have addresses of 203.0.113.0/24; each box has fourteen of 198.51.100.0/24 (both are reserved for examples)
and uses one at a time; the homes have private ones. Nothing leads out of the lab.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from tests.nat.box import Box, NatType
from tests.nat.namespaces import Namespace, remove_leftovers


@dataclass(frozen=True)
class Host:
    """A machine: its namespace and its own address."""

    namespace: Namespace
    address: str


@dataclass(frozen=True)
class Home(Host):
    """A machine behind a NAT box; ``address6`` leads nowhere: the box drops IPv6, and counts it."""

    box: Box
    address6: str


@dataclass
class Lab:
    """Use :func:`open_lab`."""

    _closing: ExitStack
    _internet: Namespace
    _hosts: int = field(default=0, init=False)
    _homes: int = field(default=0, init=False)

    def add_host(self, name: str) -> Host:
        """A machine with a public address."""
        self._hosts += 1
        namespace, device = self._make(name), f"host{self._hosts}"
        namespace.ip("link", "add", "eth0", "type", "veth", "peer", "name", device, "netns", self._internet.name)
        self._internet.ip("link", "set", device, "master", "bridge", "up")
        address = f"203.0.113.{9 + self._hosts}"
        namespace.ip("addr", "add", f"{address}/24", "dev", "eth0")
        namespace.ip("link", "set", "eth0", "up")
        namespace.ip("route", "add", "default", "via", "203.0.113.1")
        return Host(namespace, address)

    def add_home(self, name: str, nat_type: NatType) -> Home:
        """A machine with a private address behind a box of its own."""
        self._homes += 1
        number, namespace = self._homes, self._make(name)
        address, address6 = f"192.168.{76 + number}.23", f"fd5a:b1c3:77d9:{number}::23"
        addresses = f"198.51.100.{16 * number}/28"
        # The kernel looks for routers and neighbours by itself; what is counted shall come from programs.
        namespace.set("ipv6/conf/default/addr_gen_mode", 1)
        namespace.set("ipv6/conf/default/router_solicitations", 0)
        box = Box(namespace, self._internet, f"wan{number}", nat_type, address, addresses, seed=number)
        self._closing.callback(box.close)
        namespace.ip("-6", "addr", "add", f"{address6}/64", "dev", "eth0", "nodad")
        namespace.ip("-6", "route", "add", "default", "dev", "eth0")
        return Home(namespace, address, box, address6)

    def _make(self, name: str) -> Namespace:
        namespace = Namespace(name)
        self._closing.callback(namespace.close)
        namespace.set("ipv4/conf/all/rp_filter", 0)
        return namespace


@contextmanager
def open_lab() -> Iterator[Lab]:
    """An internet without machines; everything is gone when it is left, whatever happened."""
    remove_leftovers()
    with ExitStack() as closing:
        internet = Namespace("internet")
        closing.callback(internet.close)
        internet.set("ipv4/ip_forward", 1)
        internet.set("ipv4/conf/all/rp_filter", 0)
        internet.ip("link", "add", "bridge", "type", "bridge")
        internet.ip("addr", "add", "203.0.113.1/24", "dev", "bridge")
        internet.ip("link", "set", "bridge", "up")
        yield Lab(closing, internet)
