"""Conversations as a workload, how one is judged, and the faults and counts of the programs that use them."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
import trio

from benchmarks.evaluation.ablation import ALL, FAULT_SHARE, MARKETS, FaultyBackend
from benchmarks.evaluation.conversations import (
    CONVERSATION_TOKENS,
    FIRST_TOKENS,
    SETTING,
    compute_first_token,
    draw_conversations,
    run_oracle,
)
from benchmarks.evaluation.conversations import MARKETS as CONVERSATION_MARKETS
from benchmarks.evaluation.market import Market
from benchmarks.evaluation.replay import TIMEOUT_S, Result, Servers, make_body, meets_objective
from benchmarks.evaluation.scale import BUSY_EVERY, GOAL_MS, RATE, Scaled, draw_requests, make_figures, run_scaled
from benchmarks.evaluation.workloads import MODEL, Request, Turn
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from serving.backends.backend import BackendError
from serving.openai.prefixes import hash_prefixes
from serving.openai.requests import CHAT_COMPLETIONS
from serving.simulation.gpu_curves import load_curve
from serving.simulation.modelled_requests import parse_call


def test_every_turn_is_sent_with_the_turns_before_it() -> None:
    requests = draw_conversations(SETTING, 300.0, 1)
    assert requests == draw_conversations(SETTING, 300.0, 1) != draw_conversations(SETTING, 300.0, 2)
    assert [request.id for request in requests] == list(range(len(requests)))
    by_id = {request.id: request for request in requests}
    for request in requests:
        assert 0 <= request.time < 300.0 and SETTING.sites[request.node].rates
        total = request.prompt + sum(turn.prompt + turn.output for turn in request.history)
        assert total <= CONVERSATION_TOKENS
        if not request.history:
            assert FIRST_TOKENS[0] <= request.prompt <= FIRST_TOKENS[1]
            continue
        before = by_id[request.history[-1].id]
        assert before.time < request.time and before.node == request.node
        assert request.history == (*before.history, Turn(before.id, before.prompt, before.output))
    lengths = Counter(len(request.history) for request in requests)
    assert lengths[0] > lengths[1] > lengths[4] > 0


def test_a_turn_begins_with_the_bytes_and_the_cache_blocks_of_the_turn_before() -> None:
    first = Request(3, 0, 0.0, 1000, 100)
    second = Request(5, 0, 9.0, 50, 80, history=(Turn(3, 1000, 100),))
    bodies = [json.loads(make_body(each)) for each in (first, second)]
    prefixes = [hash_prefixes(body["model"], body["messages"]) for body in bodies]
    assert prefixes[1][0] == prefixes[0][-1]
    curve = load_curve("qwen3-8b")
    calls = [
        parse_call(make_body(each), ["reasoning"], curve, 1, lambda _, each=each: each.output)  # type: ignore[misc]
        for each in (first, second)
    ]
    assert [call.prompt for call in calls] == [1000, 1150]
    answered = (1000 + 100) // curve.block
    assert calls[1].names[:answered] == calls[0].names[:answered]


def test_the_oracle_has_turns_answered_where_they_are_cached_and_long_ones_where_they_fit() -> None:
    first, turn = Request(0, 0, 0.0, 20_000, 100), Turn(0, 20_000, 100)
    requests = [first, Request(1, 0, 0.1, 20_000, 100), Request(2, 0, 30.0, 100, 100, history=(turn,))]
    results = run_oracle(requests, 1)
    assert all(result.is_answered and result.executor != result.node for result in results)
    assert results[0].executor == results[2].executor != results[1].executor
    long, other, cached = [result.first_token or TIMEOUT_S for result in results]
    assert long == pytest.approx(other, abs=0.01) and 10 * cached < long
    assert all((result.first_token or TIMEOUT_S) < result.latency for result in results)


@pytest.mark.long
def test_nodes_announce_how_fast_they_read_what_is_not_cached() -> None:
    requests = draw_conversations(SETTING, 150.0, 1)
    market = Market(SETTING, requests, 1, CONVERSATION_MARKETS["affinity"])
    results = run_simulation("conversations:1", market.run_market).results
    assert all(result.is_answered for result in results)
    meters = [node.dispatcher.backend_pool.scheduled[0].meter for node in market.nodes]
    rates = [meter.get(MODEL).prefill_rate for meter in meters]
    assert sum(rate > 0 for rate in rates) >= 4
    assert all(rate <= 1.2 * site.curve.prefill_rate for rate, site in zip(rates, SETTING.sites, strict=True)), rates


def test_a_stream_is_in_time_by_its_first_token_and_its_pace() -> None:
    request = Request(0, 0, 0.0, 10, 100)

    def judge(latency: float, first_token: float | None, executor: int | None = 0) -> bool:
        return meets_objective(Result(0, 0, 0.0, latency, executor, first_token=first_token), request)

    assert judge(12.0, 2.0) and judge(1.0, 0.5)
    assert not judge(12.5, 2.0) and not judge(3.0, 2.5)
    assert not judge(TIMEOUT_S, 0.5, executor=None) and not judge(TIMEOUT_S, None, executor=None)


def test_a_request_without_a_first_token_counts_with_the_patience_of_its_user() -> None:
    run = [Result(0, 0, 0.0, 5.0, 0, first_token=1.0), Result(1, 0, 0.0, TIMEOUT_S, None)]
    assert (compute_first_token(run, 50), compute_first_token(run, 99)) == (1.0, TIMEOUT_S)


def test_a_faulty_server_fails_its_share_and_answers_the_rest() -> None:
    requests = [Request(number, 0, 0.0, 10, 5) for number in range(40)]
    outcomes = Counter[bool]()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            backend = Servers(SETTING, requests).make_backend(0, SimulatedRuntime(1))
            faulty = FaultyBackend(backend, random.Random(1))
            nursery.start_soon(faulty.run)
            for request in requests:
                try:
                    async with faulty.complete(CHAT_COMPLETIONS, make_body(request), stream=True) as answer:
                        outcomes[b"[DONE]" in b"".join([chunk async for chunk in answer.body])] += 1
                except BackendError:
                    outcomes[False] += 1
            nursery.cancel_scope.cancel()

    run_simulation(1, main)
    assert outcomes[False] == pytest.approx(FAULT_SHARE * len(requests), abs=10) and outcomes[True] >= 10


def test_each_kind_of_the_ablation_differs_from_all_on() -> None:
    kinds = [repr(kind) for name, kind in MARKETS.items() if name != ALL]
    assert len({*kinds, repr(MARKETS[ALL])}) == len(kinds) + 1


def test_a_network_of_any_size_has_as_many_requests_for_each_node() -> None:
    for nodes in (8, 64):
        requests = draw_requests(nodes, 60.0, 1)
        assert len(requests) == pytest.approx(RATE * nodes * 60, rel=0.5)
        at_busy = sum(request.node % BUSY_EVERY == 0 for request in requests)
        assert at_busy == pytest.approx(0.75 * len(requests), rel=0.1)


def test_a_small_network_is_counted() -> None:
    run = run_scaled(4, 6.0, 1)
    assert len(run.results) == len(run.choices) and not run.missed and run.in_time
    assert run.blocks and run.block_bytes and run.sent.gossip_bytes
    assert Scaled.from_plain(json.loads(json.dumps(run.to_plain()))) == run  # as it is kept
    figures = {figure.name: figure for figure in make_figures([run])}
    assert figures["4 nodes: routing of a request p50"].reference == GOAL_MS
