"""``kill -9`` of one of four processes while requests flow: nobody gets half an answer for a whole one, nobody pays
for it, the others go on, and the victim comes back without ever having contradicted itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import httpx
import trio

from chain.genesis import CREDIT
from chain.types.operations import Hold, compute_hold_id
from tests.processes.cluster import PATIENCE, Cluster, ProcessNode, chat, wait_until
from tests.processes.conftest import ENTRY
from tests.processes.ledgers import check_agreement, check_votes, fetch_ledger, read_votes

USERS = 12
TOKENS = 25
"""At ten a second, so that streams are open for seconds."""
WHOLE = "word " * TOKENS
STREAMS_TO_BREAK = 2


@dataclass
class Outcome:
    """What one user saw."""

    stream: bool
    id: str = ""
    executor: str = ""
    began: bool = False
    """A token has come."""
    text: str = ""
    error: dict[str, object] | None = None
    ended: float | None = None
    """When, by trio's clock."""


async def ask(client: httpx.AsyncClient, node: ProcessNode, number: int, outcome: Outcome) -> None:
    """Send one request and note what comes back. Anything but a whole answer or an error event fails the test."""
    body = chat(f"request {number}", outcome.stream, TOKENS)
    async with client.stream("POST", node.completions_url, json=body) as response:
        assert response.status_code == httpx.codes.OK, await response.aread()
        outcome.id = response.headers["x-request-id"]
        outcome.executor = response.headers["x-wwwserve-executor"]
        if not outcome.stream:
            outcome.text = json.loads(await response.aread())["choices"][0]["message"]["content"]
        else:
            done = False
            async for line in response.aiter_lines():
                assert not done or not line, "something follows the end of the stream"
                if line == "data: [DONE]":
                    done = True
                elif line:
                    event = json.loads(line.removeprefix("data: "))
                    outcome.error = event.get("error", outcome.error)
                    for choice in event.get("choices", ()):
                        outcome.text += choice["delta"].get("content") or ""
                        outcome.began = True
            assert done != (outcome.error is not None), "neither whole nor an error, or both"
    outcome.ended = trio.current_time()


async def run_load(entry: ProcessNode, victim: ProcessNode) -> tuple[list[Outcome], float]:
    """Users who ask again and again, until each has asked once more after the victim was killed.

    Returns also when that was: at a moment at which the victim was in the middle of streams, and at work on answers of
    which the users had seen nothing.
    """
    outcomes: list[Outcome] = []
    killed_at: float | None = None

    async def use(client: httpx.AsyncClient) -> None:
        is_last = False
        while not is_last:
            is_last = killed_at is not None
            outcome = Outcome(stream=len(outcomes) % 3 != 0)
            outcomes.append(outcome)
            await ask(client, entry, len(outcomes), outcome)

    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client, trio.open_nursery() as nursery:
        for _ in range(USERS):
            nursery.start_soon(use, client)
        looks = 0
        with trio.fail_after(PATIENCE):
            while killed_at is None:
                await trio.sleep(0.1)
                (backend,) = (await trio.to_thread.run_sync(victim.ask, "/models"))["backends"]
                streams = [outcome for outcome in outcomes if outcome.executor == victim.address and not outcome.ended]
                looks = looks + 1 if backend["running"] > len(streams) else 0  # not just an answer that has ended
                half = [outcome for outcome in streams if 0 < len(outcome.text.split()) < TOKENS // 2]
                if looks >= 3 and len(half) >= STREAMS_TO_BREAK:
                    victim.kill()
                    killed_at = trio.current_time()
    assert killed_at is not None
    return outcomes, killed_at


def test_kill_while_requests_flow(cluster: Cluster, tmp_path: Path) -> None:
    entry = cluster.nodes[ENTRY]
    victim = cluster.nodes[2]
    survivors = [node for node in cluster.nodes if node is not victim]
    votes_before = len(read_votes(cluster, victim, tmp_path))
    outcomes, killed_at = trio.run(run_load, entry, victim)

    # Users: a whole answer, once, or an error in the middle of a stream of the victim.
    completed = [outcome for outcome in outcomes if outcome.error is None]
    errored = [outcome for outcome in outcomes if outcome.error is not None]
    assert all(outcome.text == WHOLE for outcome in completed)
    for outcome in errored:
        assert outcome.error is not None and set(outcome.error) == {"message", "type", "param", "code"}
        assert "broke off" in str(outcome.error["message"]) and outcome.error["type"] == "server_error"
        assert outcome.began and outcome.text != WHOLE and WHOLE.startswith(outcome.text)
    open_streams = [
        outcome
        for outcome in outcomes
        if outcome.stream and outcome.executor == victim.address and outcome.ended and outcome.ended > killed_at
    ]
    assert len(outcomes) == len(completed) + len(errored) and all(outcome.ended for outcome in outcomes)
    assert all(outcome in open_streams for outcome in errored) and len(errored) <= len(open_streams)
    assert errored, "the kill broke nothing"

    # The others: they go on without it.
    for number in range(3):
        height = survivors[0].transfer(survivors[1], CREDIT + number)
    wait_until(lambda: all(node.height >= height for node in survivors), "the others do not finalize")

    # The victim: it comes back at once, catches up and votes.
    victim.start()
    cluster.wait_ready()
    wait_until(lambda: victim.height >= height, "the victim did not catch up")
    height = victim.transfer(survivors[1], CREDIT)
    wait_until(lambda: all(node.height >= height for node in cluster.nodes), "not final everywhere")
    wait_until(lambda: len(read_votes(cluster, victim, tmp_path)) > votes_before, "the victim does not vote any more")

    # The ledger: what was delivered is paid once, what broke off is not paid.
    rows = {row["id"]: row for row in entry.ask("/requests?limit=1024")["requests"]}
    paid = [bytes.fromhex(rows[outcome.id]["hold"]) for outcome in completed if rows[outcome.id]["hold"]]
    assert len(paid) > len(completed) // 2
    wait_until(lambda: all(is_settled(entry, outcome) for outcome in completed), "payments are not final")
    ledgers = [fetch_ledger(node, cluster.genesis, tmp_path) for node in cluster.nodes]
    check_agreement(ledgers)
    deliveries = ledgers[0].deliveries
    price = cluster.genesis.parameters.price
    for hold in paid:
        (delivery,) = deliveries[hold]
        assert delivery.amount == price.compute(delivery.usage) > price.per_request
    for outcome in errored:
        hold = bytes.fromhex(rows[outcome.id]["hold"])
        assert not any(delivery.amount for delivery in deliveries.get(hold, ())), "a broken answer was paid"

    # Failover: some of those who got a whole answer had paid the victim for it first, in vain.
    holds = [signed.operation for signed, _ in ledgers[0].operations.values() if isinstance(signed.operation, Hold)]
    ids = {compute_hold_id(entry.key.public_key, hold.seq, hold.attempt): hold for hold in holds}
    tried = {hold.seq for hold_id, hold in ids.items() if hold.payee == victim.key.public_key and hold_id not in paid}
    assert any(ids[hold].seq in tried for hold in paid), "no request was taken over from the victim"

    check_votes(cluster, tmp_path)


def is_settled(entry: ProcessNode, outcome: Outcome) -> bool:
    row = next(row for row in entry.ask("/requests?limit=1024")["requests"] if row["id"] == outcome.id)
    return row["hold"] is None or row["settled_height"] is not None
