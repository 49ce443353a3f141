"""A bank: credits move between accounts through all nodes while one of them is killed, paused and cut off in turn.

Everything goes through the public API. Whenever and wherever the total is read, it is what genesis says; what is read
of one height is the same at every node; and what a node that was never killed took on becomes final.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from chain.crypto import format_address
from chain.parameters.parameters import CREDIT
from chain.types.operations import Transfer
from tests.support.cluster import Cluster, ClusterNode
from tests.support.ledgers import check_votes, fetch_ledger
from tests.support.waiting import PATIENCE, wait_until

BLOCKS = 3
"""Final blocks that the others make without the one that is away."""


@dataclass
class Bank:
    """What the tellers sent and what the auditors read."""

    cluster: Cluster
    client: httpx.AsyncClient
    reads: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    """By address of the node and height: the answer to where all credit is."""
    sent: dict[str, str] = field(default_factory=dict)
    """By id: the transfers that a node took on, and its address."""

    async def ask(self, node: ClusterNode, path: str, order: dict[str, Any] | None = None) -> Any:
        """Ask a node that may not answer: then None."""
        token = (node.directory / "admin.token").read_text().strip()
        try:
            response = await self.client.request(
                "GET" if order is None else "POST",
                f"http://127.0.0.1:{node.admin_port}{path}",
                headers={"Authorization": f"Bearer {token}"},
                json=order,
            )
        except httpx.HTTPError:
            return None
        return response.json() if response.is_success else None

    async def transfer(self, node: ClusterNode) -> None:
        """Send from the account of ``node`` to the other nodes and to the users, one after the other, without end."""
        others = [other.address for other in self.cluster.nodes if other is not node]
        recipients = [*others, *(format_address(user.public_key) for user in self.cluster.users)]
        for number in count():
            order = {"recipient": recipients[number % len(recipients)], "amount": 1_000 + number}
            answer = await self.ask(node, "/wallet/transfer", order)
            if answer is not None:
                self.sent[answer["operation"]] = node.address
            await trio.sleep(0.1)

    async def audit(self, node: ClusterNode) -> None:
        """Read the total again and again."""
        supply = self.cluster.genesis.supply
        heights = self.reads.setdefault(node.address, {})
        while True:
            total = await self.ask(node, "/ledger/total")
            if total is not None:
                assert total["total"] == total["supply"] == supply, total
                height = total.pop("height")
                assert heights.setdefault(height, total) == total, f"{node.address} changed its mind about {height}"
            await trio.sleep(0.05)

    def get_height(self, node: ClusterNode) -> int:
        return max(self.reads.get(node.address, {}), default=0)

    async def wait_blocks(self, nodes: list[ClusterNode]) -> None:
        """Until each of ``nodes`` showed several blocks that no node had shown before."""
        height = max(self.get_height(node) for node in self.cluster.nodes) + BLOCKS
        with trio.fail_after(PATIENCE):
            while any(self.get_height(node) < height for node in nodes):
                await trio.sleep(0.1)

    async def wait_alone(self, node: ClusterNode) -> int:
        """Until a node says that it is connected to no peer; returns its height then."""
        with trio.fail_after(PATIENCE):
            while (status := await self.ask(node, "/status")) is None or status["connected_peers"]:
                await trio.sleep(0.2)
        return int(status["height"])


async def run_bank(bank: Bank) -> None:
    """A day at the bank: its nodes go away and come back, one after the other."""
    nodes = bank.cluster.nodes
    first, killed, paused, alone = nodes
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(bank.audit, node)
        async with trio.open_nursery() as tellers:
            for node in nodes:
                tellers.start_soon(bank.transfer, node)
            await bank.wait_blocks(nodes)

            killed.kill()
            await bank.wait_blocks([first, paused, alone])
            killed.start()
            await bank.wait_blocks(nodes)

            paused.send(signal.SIGSTOP)
            try:
                await bank.wait_blocks([first, killed, alone])
            finally:
                paused.send(signal.SIGCONT)
            await bank.wait_blocks(nodes)

            others = [first, killed, paused]
            await trio.to_thread.run_sync(alone.cut_off, [*others, *bank.cluster.guests])
            try:
                height = await bank.wait_alone(alone)
                while min(bank.get_height(node) for node in others) < height + BLOCKS:
                    await bank.wait_blocks(others)
                assert bank.get_height(alone) < height + BLOCKS, "it finalizes without the others"
            finally:
                await trio.to_thread.run_sync(alone.cut_off, [])
            await bank.wait_blocks(nodes)
            tellers.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


@pytest.mark.long
def test_the_total_is_constant_whatever_happens_to_the_nodes(cluster: Cluster, tmp_path: Path) -> None:
    async def main() -> Bank:
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
            bank = Bank(cluster, client)
            await run_bank(bank)
            return bank

    bank = trio.run(main)
    # What several nodes showed of one height is the same.
    heights = {height for totals in bank.reads.values() for height in totals}
    # A slow auditor skips heights: the waits above say how far the chain came, and that each node was read in five.
    assert max(heights) >= 7 * BLOCKS and all(len(totals) >= 5 for totals in bank.reads.values())
    for height in heights:
        seen = [totals[height] for totals in bank.reads.values() if height in totals]
        assert all(total == seen[0] for total in seen)
    # What was taken on is final, unless by the node that was killed: its account's next transfer is, which comes after.
    assert set(bank.sent.values()) == {node.address for node in cluster.nodes}
    for node, other in zip(cluster.nodes, reversed(cluster.nodes), strict=True):
        height = node.transfer(other, 1)
    wait_until(lambda: cluster.nodes[0].height >= height, "not final everywhere")
    ledger = fetch_ledger(cluster.nodes[0], cluster.genesis, tmp_path)
    safe = {bytes.fromhex(name) for name, address in bank.sent.items() if address != cluster.nodes[1].address}
    assert safe <= ledger.operations.keys()
    for user in cluster.users:
        received = sum(
            signed.operation.amount
            for signed, failure in ledger.operations.values()
            if failure is None
            and isinstance(signed.operation, Transfer)
            and signed.operation.recipient == user.public_key
        )
        spent = [signed for signed, _ in ledger.operations.values() if signed.signer == user.public_key]
        if not spent:
            assert ledger.state.account(user.public_key).available == 1_000 * CREDIT + received
    check_votes(cluster, tmp_path)
