"""Network namespaces of Linux: each a network stack of its own, in which this process opens sockets and starts others.

A thread enters a namespace for the length of a ``with``. What it makes meanwhile (sockets, TUN devices, processes)
belongs to the namespace for good, whichever task uses it later, so that one test can hold both ends of a connection.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path
from types import TracebackType

PREFIX = "wwn"
"""Of the names of all namespaces made here; the id of the process that made it follows."""
TUN = Path("/dev/net/tun")

_CLONE_NEWNET = 0x4000_0000
_TUNSETIFF = 0x4004_54CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000

_LIBC = ctypes.CDLL(None, use_errno=True)


def find_obstacle() -> str | None:
    """Why namespaces cannot be made here; None if they can."""
    if os.geteuid() != 0:
        return "it takes root to make network namespaces"
    if shutil.which("ip") is None:
        return "it takes the command 'ip' to make network namespaces"
    if not TUN.exists():
        return f"it takes {TUN} to put a NAT between network namespaces"
    try:
        probe = Namespace("probe")
        try:
            with probe:
                os.close(open_tun("probe"))
            probe.set("ipv4/ip_forward", 1)
        finally:
            probe.close()
    except OSError as error:
        return f"network namespaces cannot be made: {error}"
    return None


class Namespace:
    """A network stack with a loopback interface and nothing else. Closing it removes its name.

    ``with namespace:`` puts the calling thread into it; these may be nested.
    """

    def __init__(self, name: str) -> None:
        self.name = f"{PREFIX}{os.getpid()}-{name}"
        run_ip("netns", "add", self.name)
        self._descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        self._former: list[int] = []
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: str) -> None:
        """Run the command ``ip`` inside."""
        run_ip("-n", self.name, *arguments)

    def set(self, key: str, value: object) -> None:
        """Set a variable of the kernel below ``net``, such as ``ipv4/ip_forward``."""
        with self:
            Path("/proc/sys/net", key).write_text(str(value))

    def close(self) -> None:
        """Remove it. Processes that still run inside keep it alive, without a name."""
        os.close(self._descriptor)
        run_ip("netns", "delete", self.name)

    def __enter__(self) -> Namespace:
        self._former.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        _enter(self._descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        former = self._former.pop()
        _enter(former)
        os.close(former)


def open_tun(name: str) -> int:
    """Make a TUN device in this thread's namespace. Returns its descriptor: each read or write is one IP packet."""
    descriptor = os.open(TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def remove_leftovers() -> None:
    """Remove the namespaces of test runs that died."""
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for name, pid in re.findall(rf"^({PREFIX}(\d+)-\S+)", names, re.MULTILINE):
        if not Path("/proc", pid).exists():
            run_ip("netns", "delete", name)


def run_ip(*arguments: str) -> None:
    """Run the command ``ip``.

    Raises:
        OSError: it failed; the message is what it said.
    """
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if result.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
