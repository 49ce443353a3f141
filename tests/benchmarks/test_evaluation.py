"""The evaluation's workloads, baselines and harness: the same arrivals for all, and nobody leaves the denominator."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from benchmarks.evaluation import processes
from benchmarks.evaluation.baselines import BASELINES, Single
from benchmarks.evaluation.harness import Task, estimate, keep, load
from benchmarks.evaluation.market import MarketKind, run_market
from benchmarks.evaluation.processes import make_paced_curve
from benchmarks.evaluation.replay import TIMEOUT_S, Result, make_body, replay
from benchmarks.evaluation.slo import PAPER_RATIOS, compute_attainment, compute_means
from benchmarks.evaluation.traces import draw_from_trace, load_azure, load_mooncake
from benchmarks.evaluation.workloads import (
    DURATION_S,
    MAX_TOKENS,
    PROMPT_TOKENS,
    SETTINGS,
    Request,
    Setting,
    Site,
    describe,
    draw_requests,
    shift,
)
from benchmarks.machine import ROOT
from serving.backends.backend import BackendError
from serving.openai.requests import CHAT_COMPLETIONS, parse_request
from serving.simulation.continuous_batch import ContinuousBatch
from serving.simulation.modelled_backend import ModelledBackend

HOT = Setting(
    "hot",
    "one node has all the users",
    (Site("qwen3-8b", "RTX 4090", shift(1 / 5, 1 / 5)), Site("qwen3-8b", "RTX 4090", ())),
    0.0,
)
REQUESTS = draw_requests(HOT, 1)[:25]
MAX_OVER_JSQ = 1.15
"""Mean latency of a market over that of a centre that joins the shortest queue, on one seed."""


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_arrivals_are_poisson_at_the_rates_of_the_setting_and_the_same_for_one_seed(setting: Setting) -> None:
    runs = [draw_requests(setting, seed) for seed in range(20)]
    assert runs[3] == draw_requests(setting, 3)
    assert runs[3] != runs[4]
    expected = sum(rate * (end - start) for site in setting.sites for start, end, rate in site.rates)
    assert sum(map(len, runs)) == pytest.approx(20 * expected, abs=4 * (20 * expected) ** 0.5)
    for run in runs:
        assert [request.id for request in run] == list(range(len(run)))
        assert run == sorted(run, key=lambda request: request.time)
        assert all(0 <= request.time < DURATION_S and request.node < len(setting.sites) for request in run)
        assert all(PROMPT_TOKENS[0] <= request.prompt <= PROMPT_TOKENS[1] for request in run)
    cut = sum(request.output >= MAX_TOKENS for run in runs for request in run) / sum(map(len, runs))
    assert 0.15 < cut < 0.25


def test_a_request_says_its_limit_and_nothing_of_its_length() -> None:
    body = make_body(Request(7, 0, 0.0, 100, 1234))
    assert parse_request(CHAT_COMPLETIONS, body, MAX_TOKENS).model == "reasoning"
    assert b"1234" not in body
    assert body == make_body(Request(7, 0, 0.0, 100, 5))


def test_prompts_with_the_same_blocks_begin_alike() -> None:
    first, second = (make_body(Request(id, 0, 0.0, 1500, 1, (4, 5, blocks))) for id, blocks in ((1, 6), (2, 7)))
    common = next(place for place, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
    assert 2 * 512 * 4 < common < 2 * 512 * 4 + 200


@cache
def run_baseline(name: str) -> Sequence[Result]:
    return replay(HOT, REQUESTS, 1, BASELINES[name])


@pytest.mark.parametrize("name", BASELINES)
def test_every_request_has_a_result_and_one_seed_gives_one_outcome(name: str) -> None:
    results = run_baseline(name)
    assert [(result.id, result.node, result.time) for result in results] == [
        (request.id, request.node, request.time) for request in REQUESTS
    ]
    assert results == replay(HOT, REQUESTS, 1, BASELINES[name])
    assert all(0 < result.latency <= TIMEOUT_S for result in results)


def test_sharing_helps_a_hot_node_and_knowledge_helps_more() -> None:
    means = {name: compute_means([run_baseline(name)])[0] for name in BASELINES}
    assert means["oracle"] <= 1.02 * means["jsq"] < 0.95 * means["single"]
    assert means["centralized"] < means["single"]
    assert means["reference"] < means["single"]
    served = Counter(result.executor for result in run_baseline("jsq"))
    assert abs(served[0] - served[1]) <= 4


def test_whole_nodes_answer_the_same_requests_and_share_them() -> None:
    results = run_market(HOT, REQUESTS, 1, MarketKind()).results
    assert [(result.id, result.node, result.time) for result in results] == [
        (request.id, request.node, request.time) for request in REQUESTS
    ]
    assert all(result.is_answered for result in results)
    assert Counter(result.executor for result in results)[1] >= 3


def test_a_request_that_fails_or_never_ends_is_a_miss_with_the_longest_latency() -> None:
    class Broken(Single):
        async def handle(self, request: Request) -> int:
            if request.id % 2:
                raise BackendError("no")
            await trio.sleep_forever()
            return 0

    def make(setting: Setting, backends: Sequence[ModelledBackend], chance: random.Random) -> Broken:
        return Broken(setting, backends, chance)

    results = replay(HOT, REQUESTS, 1, make)
    assert len(results) == len(REQUESTS)
    assert {(result.latency, result.executor) for result in results} == {(TIMEOUT_S, None)}
    assert set(compute_attainment([results]).shares) == {0.0}


def test_attainment_is_the_share_of_all_requests() -> None:
    run = [Result(0, 0, 0.0, 150.0, 0), Result(1, 0, 0.0, 250.0, 0), Result(2, 0, 0.0, TIMEOUT_S, None)]
    attained = compute_attainment([run])
    assert attained.shares[0] == pytest.approx(1 / 3)
    assert attained.shares[-1] == pytest.approx(2 / 3)
    other = compute_attainment([[replace(run[0], latency=300.0), run[1], run[2]]])
    assert attained.compare(other) == (2.0, 290)


def test_an_interval_is_students() -> None:
    interval = estimate([1.0, 2.0, 3.0])
    assert (interval.mean, interval.half) == (2.0, pytest.approx(4.303 / 3**0.5))


def test_results_are_kept_by_commit_and_task(tmp_path: Path) -> None:
    results = [Result(0, 1, 2.0, 3.5, None), Result(1, 0, 2.5, 3.5, 1)]
    task = Task("jsq", "1", 7)
    keep(tmp_path, "a" * 40, task, results)
    assert load(tmp_path, "a" * 40, task) == results
    assert load(tmp_path, "b" * 40, task) is None
    assert load(tmp_path, "a" * 40, replace(task, seed=8)) is None


def test_traces_are_complete_and_a_seed_chooses_a_place_in_them() -> None:
    azure, mooncake = load_azure(), load_mooncake()
    assert (len(azure), len(mooncake)) == (19_366, 3_993)
    assert azure[0].prompt == 374 and azure[0].output == 44
    for trace in (azure, mooncake):
        assert all(first.time <= second.time for first, second in pairwise(trace))
    assert all(-(-record.prompt // 512) == len(record.blocks) for record in mooncake)
    requests = draw_from_trace(azure, (1, 3), 60.0, 0.5, seed=1)
    assert requests == draw_from_trace(azure, (1, 3), 60.0, 0.5, seed=1)
    assert len(requests) == pytest.approx(60 * 0.5 * 19_366 / 3_501, rel=0.5)
    served = Counter(request.node for request in requests)
    assert served[1] > 2 * served[0]


def test_the_document_describes_the_settings_as_they_are() -> None:
    document = (ROOT / "docs" / "evaluation.md").read_text()
    assert [setting.name for setting in SETTINGS if describe(setting) not in document] == []


def test_the_document_has_the_ratios_of_the_paper() -> None:
    document = (ROOT / "docs" / "evaluation.md").read_text()
    for name, ratios in PAPER_RATIOS.items():
        centre, market = ratios["centralized"], ratios["market"]
        assert f"| {name} | {centre:.3f} | {market:.3f} | {market / centre:.3f} |" in document


def test_a_paced_card_makes_tokens_at_its_pace_however_many_requests_it_runs() -> None:
    batch = ContinuousBatch(make_paced_curve(0.5))
    for id in range(processes.SLOTS):
        batch.submit(0.0, id, 100, 20)
    ends = []
    while (event := batch.next_event()) is not None:
        ends += [report.time for report in batch.advance(event) if report.finished]
    assert len(ends) == processes.SLOTS and all(10.0 <= end <= 10.5 + 1e-6 for end in ends)


def test_processes_and_simulated_nodes_get_the_same_requests() -> None:
    setting = processes.make_setting(100.0, 1.0)
    requests = processes.draw_scaled(setting, 3)
    assert requests == processes.draw_scaled(setting, 3)
    assert {request.node for request in requests} == {0, 1, 2, 3}
    assert all(1 <= request.output <= MAX_TOKENS // processes.TOKENS_SCALE for request in requests)
    parsed = parse_request(CHAT_COMPLETIONS, processes.make_paced_body(requests[0]), MAX_TOKENS)
    assert (parsed.model, parsed.max_tokens) == (processes.MODEL, requests[0].output)


def test_another_order_and_another_share_than_predicted_are_misses() -> None:
    predicted = processes.Outcome((0.4, 0.3, 0.2, 0.1), (1.0, 2.0, 3.0, 4.0), 2.0, 0)
    swapped = replace(predicted, shares=(0.3, 0.4, 0.2, 0.1))
    late = replace(predicted, latencies=(1.0, 2.0, 3.0, 5.5))
    lost = replace(predicted, missed=1)
    for outcome, missed in (
        (predicted, 0),
        (swapped, 2),  # the order, and a share
        (late, 1),
        (lost, 1),
    ):
        names = processes.make_names(1.0)
        figures = processes.make_figures(names, outcome, [predicted, predicted], is_judged=True)
        assert sum(figure.is_missed for figure in figures) == missed


def test_a_node_that_served_nothing_is_in_no_order_of_latencies() -> None:
    run = [
        Result(0, 0, 0.0, 4.0, 0),
        Result(1, 1, 0.0, 2.0, 0),
        Result(2, 1, 0.0, 9.0, 2),
        Result(3, 0, 0.0, 600.0, None),
    ]
    outcome = processes.summarize(run)
    assert outcome.shares == (0.5, 0.0, 0.25, 0.0)
    assert outcome.latencies == (3.0, None, 9.0, None)
    assert (outcome.missed, outcome.mean) == (1, 153.75)
    assert processes.count_inversions(outcome.latencies, (4.0, 3.0, 2.0, 1.0)) == 1
    assert processes.average([outcome, replace(outcome, latencies=(5.0, 1.0, 9.0, None))]).latencies == (
        4.0,
        1.0,
        9.0,
        None,
    )


@pytest.mark.long
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_market_takes_hardly_longer_than_a_centre_that_knows_all_queues(setting: Setting) -> None:
    """What is announced, paid and found out late costs little, and nobody is told to come again."""
    requests = draw_requests(setting, 7)
    market = run_market(setting, requests, 7, MarketKind()).results
    centre = replay(setting, requests, 7, BASELINES["jsq"])
    missed = [result.reason for result in market if not result.is_answered]
    ratio = sum(result.latency for result in market) / sum(result.latency for result in centre)
    print(f"setting {setting.name}: {ratio:.3f} of jsq, missed: {missed}")
    assert ratio < MAX_OVER_JSQ and len(missed) <= len(requests) / 100
