"""A NAT in user space: what stands between a home and the internet, with the bad habits that such boxes have.

:class:`Translation` is pure: packets in, packets out. :class:`Box` runs one between two TUN devices, can be told to
forget its mappings, to take another address or to drop everything, and counts every packet that it sees.

Words are those of RFC 4787. All three types drop what comes unasked:

- *port-restricted*: one port of the box stands for one port of the home, whomever it talks to; only those answered to
  come in (what Linux does by masquerading, with ports kept where possible);
- *cone*: the same port, which lets every host in once it is open;
- *symmetric*: another random port for every destination, so that it cannot be predicted.

A box passes on TCP and UDP of IPv4 and drops the rest, and TCP segments of connections that it does not know too.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, ip_address
from random import Random

from tests.nat.namespaces import Namespace, open_tun

Endpoint = tuple[str, int]
"""IP address and port."""

MTU = 1500
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
_CHECKSUM = {TCP: 16, UDP: 6}
"""Where the checksum is in the header of a protocol."""
_SYN, _ACK = 0x02, 0x10
_EPHEMERAL = 20_000, 60_000
MAX_RECORDED = 256 << 20
"""Bytes of payload that a box records at most."""


class NatType(StrEnum):
    PORT_RESTRICTED = "port-restricted"
    CONE = "cone"
    SYMMETRIC = "symmetric"


@dataclass(frozen=True, slots=True)
class Flow:
    """Packets of one kind: ``source`` and ``target`` are what the home knows (its own address is private)."""

    outbound: bool
    protocol: int
    source: Endpoint
    target: Endpoint


class Translation:
    """The table of a NAT, and the packets rewritten by it. Pure, except for the random ports that it takes."""

    def __init__(self, nat_type: NatType, address: str, random: Random) -> None:
        self.nat_type = nat_type
        self._address = IPv4Address(address).packed
        self._random = random
        self._ports: dict[tuple[int, bytes, int, bytes], int] = {}  # protocol, inner address and port, remote -> port
        self._inner: dict[tuple[int, int], tuple[bytes, int]] = {}  # protocol, port -> inner address and port
        self._known: set[tuple[int, int, bytes]] = set()  # protocol, port, remote that the home has talked to

    def flush(self, address: str | None = None) -> None:
        """Forget all mappings; take another ``address`` if there is one."""
        self._ports.clear()
        self._inner.clear()
        self._known.clear()
        if address is not None:
            self._address = IPv4Address(address).packed

    def send(self, packet: bytearray) -> bool:
        """Rewrite a packet that leaves the home; whether it may."""
        parsed = _parse(packet)
        if parsed is None:
            return False
        protocol, offset = parsed
        (port,) = struct.unpack_from("!H", packet, offset)
        remote = bytes(packet[16:20] + packet[offset + 2 : offset + 4])
        scope = remote if self.nat_type is NatType.SYMMETRIC else b""
        key = protocol, bytes(packet[12:16]), port, scope
        outer = self._ports.get(key)
        if outer is None or (protocol, outer, remote) not in self._known:
            if protocol == TCP and packet[offset + 13] & (_SYN | _ACK) != _SYN:
                return False
            if outer is None:
                outer = self._ports[key] = self._take_port(protocol, port)
                self._inner[protocol, outer] = key[1], port
            self._known.add((protocol, outer, remote))
        _rewrite(packet, 12, self._address, offset, outer, offset + _CHECKSUM[protocol])
        return True

    def receive(self, packet: bytearray) -> bool:
        """Rewrite a packet that comes from the internet; whether it may come in."""
        parsed = _parse(packet)
        if parsed is None or packet[16:20] != self._address:
            return False
        protocol, offset = parsed
        (outer,) = struct.unpack_from("!H", packet, offset + 2)
        remote = bytes(packet[12:16] + packet[offset : offset + 2])
        inner = self._inner.get((protocol, outer))
        if inner is None:
            return False
        if (protocol, outer, remote) not in self._known:
            if self.nat_type is not NatType.CONE:
                return False
            self._known.add((protocol, outer, remote))
        _rewrite(packet, 16, inner[0], offset + 2, inner[1], offset + _CHECKSUM[protocol])
        return True

    def _take_port(self, protocol: int, wanted: int) -> int:
        port = wanted
        while self.nat_type is NatType.SYMMETRIC or (protocol, port) in self._inner:
            port = self._random.randint(*_EPHEMERAL)
            if (protocol, port) not in self._inner:
                break
        return port


class Box:
    """A home's way to the internet: a default route there, and the addresses ``addresses`` (CIDR) here.

    Runs in a thread of its own until closed.
    """

    def __init__(
        self,
        home: Namespace,
        internet: Namespace,
        device: str,
        nat_type: NatType,
        inner: str,
        addresses: str,
        seed: int,
    ) -> None:
        self._outer = [str(address) for address in IPv4Network(addresses).hosts()]
        self._used = 1
        self.nat_type = nat_type
        self._lock = threading.Lock()
        self._translation = Translation(nat_type, self._outer[0], Random(seed))
        self._is_blocked = False
        self._flows: Counter[Flow] = Counter()
        self._recorded: bytearray | None = None
        with home:
            self._inside = open_tun("eth0")
        home.ip("addr", "add", f"{inner}/24", "dev", "eth0")
        home.ip("link", "set", "eth0", "mtu", str(MTU), "up")
        home.ip("route", "add", "default", "dev", "eth0")
        with internet:
            self._outside = open_tun(device)
        internet.ip("link", "set", device, "mtu", str(MTU), "up")
        internet.ip("route", "add", addresses, "dev", device)
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name=f"NAT box {device}", daemon=True)
        self._thread.start()

    @property
    def addresses(self) -> list[str]:
        """Every address that it has had in the internet; the last one is the present."""
        return self._outer[: self._used]

    @property
    def address(self) -> str:
        """Its address in the internet."""
        return self._outer[self._used - 1]

    def flush(self) -> None:
        """Forget all mappings, as after a power cut. Established connections hang: neither end is told."""
        with self._lock:
            self._translation.flush()

    def change_address(self) -> str:
        """Forget all mappings and take another address in the internet, which is returned."""
        with self._lock:
            self._used += 1
            self._translation.flush(self.address)
        return self.address

    def block(self, blocked: bool = True) -> None:
        """Drop everything from now on, or no more."""
        with self._lock:
            self._is_blocked = blocked

    def record(self) -> None:
        """Keep the payload of every packet that leaves the home from now on."""
        with self._lock:
            self._recorded = bytearray()

    @property
    def recorded(self) -> bytes:
        """The payloads, one after the other."""
        with self._lock:
            return bytes(self._recorded or b"")

    @property
    def flows(self) -> dict[Flow, int]:
        """Packets of each kind that came to the box, passed on or not."""
        with self._lock:
            return dict(self._flows)

    def close(self) -> None:
        """End it; both devices vanish."""
        os.close(self._woken)
        self._thread.join()
        for descriptor in (self._wake, self._inside, self._outside):
            os.close(descriptor)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for descriptor in (self._wake, self._inside, self._outside):
                selector.register(descriptor, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fd == self._wake:
                        return
                    self._pass_on(outbound=key.fd == self._inside)

    def _pass_on(self, outbound: bool) -> None:
        source, target = (self._inside, self._outside) if outbound else (self._outside, self._inside)
        while True:
            try:
                packet = bytearray(os.read(source, 65536))
            except BlockingIOError:
                return
            with self._lock:
                sent = bytes(packet)
                translate = self._translation.send if outbound else self._translation.receive
                passes = translate(packet) and not self._is_blocked
                self._note(sent if outbound or not passes else bytes(packet), outbound)
            if passes:
                try:
                    os.write(target, packet)
                except OSError:  # the queue is full, or the device is gone: a packet may get lost
                    continue

    def _note(self, packet: bytes, outbound: bool) -> None:
        flow, payload = describe(packet, outbound)
        self._flows[flow] += 1
        if outbound and self._recorded is not None and len(self._recorded) < MAX_RECORDED:
            self._recorded += payload


def describe(packet: bytes, outbound: bool) -> tuple[Flow, bytes]:
    """What a packet is, and what it carries above TCP or UDP (all of it, for other protocols)."""
    if packet[0] >> 4 == 6:
        source, target = ip_address(packet[8:24]), ip_address(packet[24:40])
        protocol, offset = packet[6], 40
    else:
        source, target = ip_address(packet[12:16]), ip_address(packet[16:20])
        protocol, offset = packet[9], (packet[0] & 15) * 4
    ports = 0, 0
    payload = packet[offset:]
    if protocol in (TCP, UDP) and len(payload) >= 8:
        first, second = struct.unpack_from("!HH", payload)
        ports = first, second
        payload = payload[(payload[12] >> 4) * 4 :] if protocol == TCP and len(payload) >= 20 else payload[8:]
    return Flow(outbound, protocol, (str(source), ports[0]), (str(target), ports[1])), payload


def _parse(packet: bytearray) -> tuple[int, int] | None:
    """Protocol and offset of its header, if the packet is one that a box passes on."""
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    offset, protocol = (packet[0] & 15) * 4, packet[9]
    is_fragment = struct.unpack_from("!H", packet, 6)[0] & 0x3FFF
    if protocol not in _CHECKSUM or is_fragment or len(packet) < offset + (20 if protocol == TCP else 8):
        return None
    return protocol, offset


def _rewrite(packet: bytearray, place: int, address: bytes, port_place: int, port: int, checksum_place: int) -> None:
    """Put in an address and a port, and bring both checksums up to date."""
    old = bytes(packet[place : place + 4] + packet[port_place : port_place + 2])
    new = address + struct.pack("!H", port)
    packet[place : place + 4] = address
    packet[port_place : port_place + 2] = new[4:]
    _update_checksum(packet, 10, old[:4], new[:4])
    is_unchecked = packet[9] == UDP and packet[checksum_place : checksum_place + 2] == b"\0\0"
    if not is_unchecked:
        _update_checksum(packet, checksum_place, old, new)
        if packet[9] == UDP and packet[checksum_place : checksum_place + 2] == b"\0\0":
            packet[checksum_place : checksum_place + 2] = b"\xff\xff"  # 0 would say that there is none


def _update_checksum(packet: bytearray, place: int, old: bytes, new: bytes) -> None:
    """Source: RFC 1624, equation 3."""
    words = struct.unpack(f"!{len(old) // 2}H", old), struct.unpack(f"!{len(new) // 2}H", new)
    (checksum,) = struct.unpack_from("!H", packet, place)
    total = (~checksum & 0xFFFF) + sum(~word & 0xFFFF for word in words[0]) + sum(words[1])
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", packet, place, ~total & 0xFFFF)
