"""``kill -9`` of one of four processes while requests flow: no user gets half an answer for a whole one, no node
pays for it, the others go on, and the victim comes back without ever having contradicted itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import trio

from chain.parameters.parameters import CREDIT
from chain.types.operations import Hold, compute_hold_id
from tests.support.cluster import ENTRY, Cluster, ClusterNode, chat, offload_at_entry, run_cluster
from tests.support.fake_backend import FakeOptions
from tests.support.ledgers import check_agreement, check_votes, fetch_ledger, read_votes
from tests.support.waiting import PATIENCE, eventually, wait_until

USERS = 12
"""How many ask at least."""
STREAMS_TO_BREAK = 2
MAX_TOKENS = 4_000
"""Of an answer, which ends when the test has it end: at the backend's pace this takes minutes."""
QUIET = 0.1


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with run_cluster(
        tmp_path / "cluster", config=offload_at_entry, backend=FakeOptions(gated=True, token_delay=0.1)
    ) as cluster:
        yield cluster


@dataclass
class Outcome:
    """What one user saw of one request."""

    stream: bool
    id: str = ""
    executor: str = ""
    text: str = ""
    tokens: int | None = None
    """What the answer says of its length, at its end."""
    error: dict[str, object] | None = None
    has_ended: bool = False


async def ask(client: httpx.AsyncClient, node: ClusterNode, number: int, outcome: Outcome) -> None:
    """Send one request and note what comes back. Anything but a whole answer or an error event fails the test."""
    body = chat(f"request {number}", outcome.stream, MAX_TOKENS)
    if outcome.stream:
        body["stream_options"] = {"include_usage": True}
    async with client.stream("POST", node.completions_url, json=body) as response:
        assert response.status_code == httpx.codes.OK, await response.aread()
        outcome.id = response.headers["x-request-id"]
        outcome.executor = response.headers["x-wwwserve-executor"]
        if not outcome.stream:
            answer = json.loads(await response.aread())
            outcome.text = answer["choices"][0]["message"]["content"]
            outcome.tokens = answer["usage"]["completion_tokens"]
        else:
            done = False
            async for line in response.aiter_lines():
                assert not done or not line, "something follows the end of the stream"
                if line == "data: [DONE]":
                    done = True
                elif line:
                    event = json.loads(line.removeprefix("data: "))
                    outcome.error = event.get("error", outcome.error)
                    outcome.tokens = (event.get("usage") or {}).get("completion_tokens", outcome.tokens)
                    for choice in event.get("choices", ()):
                        outcome.text += choice["delta"].get("content") or ""
            assert done != (outcome.error is not None), "neither whole nor an error, or both"
    outcome.has_ended = True


@dataclass
class Load:
    """Users of one node who ask again and again, until each has asked once more after the victim was killed."""

    entry: ClusterNode
    victim: ClusterNode
    nodes: list[ClusterNode]
    outcomes: list[Outcome] = field(default_factory=list)
    broken: list[Outcome] = field(default_factory=list)
    """The victim's streams of which their users had seen some, but not all, when it was killed."""
    is_killed: bool = False

    async def run(self, cluster: Cluster) -> None:
        """Kill the victim in the middle of streams, and at work on an answer of which its user has seen nothing.

        Until then no answer ends, so that neither depends on when this process looks.
        """
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client, trio.open_nursery() as users:
            await self._add_user(users, client, stream=False)
            while not await self._count_running(self.victim):
                await self._add_user(users, client, stream=False)
            while len(self._get_open_streams()) < STREAMS_TO_BREAK or len(self.outcomes) < USERS:
                await self._add_user(users, client, stream=True)
            self.broken = self._get_open_streams()
            self.victim.kill()
            self.is_killed = True
            await trio.to_thread.run_sync(cluster.release_answers)
            await trio.to_thread.run_sync(self._outlive_and_restart)

    def _outlive_and_restart(self) -> None:
        """The others go on without the victim; then it comes back, while some users still wait for it."""
        first, second, *_ = others = [node for node in self.nodes if node is not self.victim]
        for number in range(3):
            height = first.transfer(second, CREDIT + number)
        wait_until(lambda: all(node.height >= height for node in others), "the others do not finalize")
        self.victim.start()

    async def _add_user(self, nursery: trio.Nursery, client: httpx.AsyncClient, stream: bool) -> None:
        """One more user, who is being answered when this returns."""
        nursery.start_soon(self._use, client, stream)
        await trio.sleep(QUIET)
        with trio.fail_after(PATIENCE):
            while sum([await self._count_running(node) for node in self.nodes]) < len(self.outcomes):
                await trio.sleep(QUIET)
        if stream:
            await eventually(lambda: bool(self.outcomes[-1].text))

    async def _use(self, client: httpx.AsyncClient, stream: bool) -> None:
        is_last = False
        while not is_last:
            is_last = self.is_killed
            self.outcomes.append(outcome := Outcome(stream))
            await ask(client, self.entry, len(self.outcomes), outcome)

    async def _count_running(self, node: ClusterNode) -> int:
        """Requests that the node's backend is at work on."""
        (backend,) = (await trio.to_thread.run_sync(node.ask, "/models"))["backends"]
        return int(backend["running"])

    def _get_open_streams(self) -> list[Outcome]:
        """The victim's streams of which their users have seen some."""
        return [outcome for outcome in self.outcomes if outcome.executor == self.victim.address and outcome.text]


def test_kill_while_requests_flow(cluster: Cluster, tmp_path: Path) -> None:
    entry, victim = cluster.nodes[ENTRY], cluster.nodes[2]
    survivors = [node for node in cluster.nodes if node is not victim]
    load = Load(entry, victim, cluster.nodes)
    trio.run(load.run, cluster)

    # Users: a whole answer, once, or an error in the middle of a stream of the victim.
    assert all(outcome.has_ended for outcome in load.outcomes)
    completed = [outcome for outcome in load.outcomes if outcome.error is None]
    errored = [outcome for outcome in load.outcomes if outcome.error is not None]
    assert all(outcome.tokens and outcome.text == "word " * outcome.tokens for outcome in completed)
    for outcome in errored:
        assert outcome.error is not None and set(outcome.error) == {"message", "type", "param", "code"}
        assert "broke off" in str(outcome.error["message"]) and outcome.error["type"] == "server_error"
        assert outcome.text == "word " * (len(outcome.text) // len("word ")) and outcome.tokens is None
    assert all(outcome in errored for outcome in load.broken), "the kill did not break a stream"
    assert all(outcome.stream and outcome.executor == victim.address for outcome in errored)

    # The victim: it catches up and votes.
    cluster.wait_ready()
    height = max(node.height for node in survivors)
    wait_until(lambda: victim.height >= height, "the victim did not catch up")
    votes_before = len(read_votes(cluster, victim, tmp_path))

    def votes_again() -> bool:
        victim.transfer(survivors[1], CREDIT)
        return len(read_votes(cluster, victim, tmp_path)) > votes_before

    wait_until(votes_again, "the victim does not vote any more")

    # The ledger: what was delivered is paid once, what broke off is not paid.
    wait_until(lambda: all(is_settled(entry, outcome) for outcome in completed), "payments are not final")
    rows = {row["id"]: row for row in entry.ask("/requests?limit=1024")["requests"]}
    offloaded = [outcome for outcome in completed if outcome.executor != "local"]
    paid = [bytes.fromhex(rows[outcome.id]["hold"]) for outcome in offloaded]
    assert paid
    height = entry.height
    wait_until(lambda: all(node.height >= height for node in cluster.nodes), "not final everywhere")
    ledgers = [fetch_ledger(node, cluster.genesis, tmp_path) for node in cluster.nodes]
    check_agreement(ledgers)
    deliveries = ledgers[ENTRY].deliveries
    price = cluster.genesis.parameters.price
    for hold in paid:
        (delivery,) = deliveries[hold]
        assert delivery.amount == price.compute(delivery.usage) > price.per_request
    for outcome in errored:
        hold = bytes.fromhex(rows[outcome.id]["hold"])
        assert not any(delivery.amount for delivery in deliveries.get(hold, ())), "a broken answer was paid"

    # Failover: a hold for the victim that brought neither pay nor an error is that of a request that was taken over, by
    # another executor or, if these were busy, by the entry itself. All users have their answers (above).
    holds = [signed.operation for signed, _ in ledgers[0].operations.values() if isinstance(signed.operation, Hold)]
    for_victim = {compute_hold_id(entry.key.public_key, hold) for hold in holds if hold.payee == victim.key.public_key}
    broken = {bytes.fromhex(rows[outcome.id]["hold"]) for outcome in errored}
    assert for_victim - broken - set(paid), "no request was taken over from the victim"

    check_votes(cluster, tmp_path)


def is_settled(entry: ClusterNode, outcome: Outcome) -> bool:
    row = next(row for row in entry.ask("/requests?limit=1024")["requests"] if row["id"] == outcome.id)
    return row["hold"] is None or row["settled_height"] is not None
