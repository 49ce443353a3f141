"""From the start of a node to its end in order: the signals that it obeys, and what it finishes before it stops."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import structlog
import trio

from p2p.network import RunnableNetwork
from serving.admin.local_sockets import ADMIN_SOCKET_FILE
from serving.admin.orders.policy_orders import Reload, reload_on_signal
from serving.admin.server import Admin
from serving.admin.service_manager import ServiceManager
from serving.config.data_directory import ADMIN_ADDRESS_FILE
from serving.config.start_note import end_start
from serving.daemon.garbage_collection import spare_what_was_loaded
from serving.daemon.listeners import name_setting
from serving.daemon.notices import describe_briefly, describe_stop
from serving.daemon.runnable_node import RunnableNode
from serving.daemon.terminal import ends_with_terminal, has_terminal
from serving.http.server import HttpServer

log = structlog.get_logger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that end a node in order."""
RELOAD_SIGNAL = signal.SIGHUP
"""Signal on which a node reads the policy in its configuration file again, unless its terminal has gone."""
Announce = Callable[[RunnableNode, HttpServer, Admin], None]
"""Says that a node is ready."""


async def serve(
    node: RunnableNode,
    network: RunnableNetwork,
    front: HttpServer,
    admin: Admin,
    data_dir: Path,
    reload: Reload,
    announce: Announce,
    manager: ServiceManager,
    drain_timeout_s: float,
    say: Callable[[str], None],
) -> None:
    """Run until a signal to stop, or until the terminal of the node is gone. Then stop in order: ``say`` so, and finish
    the requests under way, within ``drain_timeout_s``.

    A second signal cuts this short. No signal interrupts the rest of the stop, which takes a moment. A node that is
    still starting has no requests under way, and has not loaded its peers: it stops at once.
    """
    ends_on_hangup = ends_with_terminal()
    for number in (*STOP_SIGNALS, RELOAD_SIGNAL):
        signal.signal(number, signal.SIG_IGN)  # trio puts this handler back when the receiver is closed
    with trio.open_signal_receiver(*STOP_SIGNALS, RELOAD_SIGNAL) as signals:
        async with trio.open_nursery() as nursery:
            is_running = trio.Event()
            nursery.start_soon(_start, node, network, front, admin, data_dir, announce, manager, nursery, is_running)
            async for received in signals:
                if received in STOP_SIGNALS or (ends_on_hangup and not has_terminal()):
                    break
                reload_on_signal(reload)
            manager.notify("STOPPING=1")
            if is_running.is_set():
                node.take_nothing_new(drain_timeout_s)
                say(describe_stop(node.under_way, drain_timeout_s))
                await _drain(node, signals, drain_timeout_s)
            nursery.cancel_scope.cancel()
    for name in (ADMIN_ADDRESS_FILE, ADMIN_SOCKET_FILE):  # up to here the owner could ask what it waits for
        (data_dir / name).unlink(missing_ok=True)


async def _drain(node: RunnableNode, signals: AsyncIterator[int], timeout_s: float) -> None:
    """Say goodbye, which takes a moment, and finish the requests under way, within ``timeout_s``.

    Another signal to stop cuts both short.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_wait_to_stop, signals, nursery.cancel_scope)
        await node.discovery.leave()  # not in the time for what is under way, which may be 0: it stores who was known
        with trio.move_on_after(timeout_s):
            await node.drain()
        nursery.cancel_scope.cancel()


async def _wait_to_stop(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for received in signals:
        if received in STOP_SIGNALS:
            log.warning("ends at once, as told")
            scope.cancel()


async def _start(
    node: RunnableNode,
    network: RunnableNetwork,
    front: HttpServer,
    admin: Admin,
    data_dir: Path,
    announce: Announce,
    manager: ServiceManager,
    nursery: trio.Nursery,
    is_running: trio.Event,
) -> None:
    with name_setting("listen"):
        await nursery.start(network.run)
    await nursery.start(node.run)
    is_running.set()
    nursery.start_soon(front.run)
    nursery.start_soon(admin.run)
    (data_dir / ADMIN_ADDRESS_FILE).write_text("{}:{}".format(*admin.address))
    end_start(data_dir)
    spare_what_was_loaded()
    announce(node, front, admin)
    manager.notify("READY=1", f"STATUS={describe_briefly(node)}")
    nursery.start_soon(manager.run, partial(describe_briefly, node))
