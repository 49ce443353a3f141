"""The page of metrics: what it says, and that Prometheus can read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from chain.histogram import Histogram
from chain.store.kv import WRITE_BOUNDS_S
from chain.transition.validators.jailing import Standing
from consensus import engine
from p2p.network import ByteCount
from serving.admin.health.machine import Machine
from serving.admin.metric_catalogue import METRICS, PREFIX
from serving.admin.metrics import Metrics
from serving.admin.reports import report_status
from serving.backends.openai_compatible import PROBE_BOUNDS_S
from serving.offload.executor.executor import DeclineReason
from serving.prediction.predicted_time import UNKNOWN_SPEED, PredictedTime, RequestSize
from serving.prediction.predictor import Prediction
from serving.request_records import Outcome, RequestRecord
from serving.scheduling.admission import Admission, Demand, Origin
from tests.support.solo_node import CAPACITY, make_node, run_node

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(metrics: Metrics) -> Samples:
    """Every sample of the page."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def get(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"wwwserve_{name}", frozenset(labels.items())]


async def occupy(admission: Admission, origin: Origin) -> None:
    async with admission.slot(Demand(origin)):
        await trio.sleep_forever()


def test_page_follows_the_conventions() -> None:
    async def main() -> None:
        async with run_node() as node:
            page = Metrics(node).render().decode()
        families = list(text_string_to_metric_families(page))
        assert {family.name.partition("_")[0] for family in families} == {"wwwserve", "process"}
        for family in families:
            assert family.documentation.endswith("."), family.name
            for sample in family.samples:
                assert (family.type == "counter") == sample.name.endswith("_total"), sample.name
        assert len({family.name for family in families}) == len(families)

    trio.run(main)


def test_every_metric_is_in_the_catalogue_and_every_entry_is_made() -> None:
    async def main() -> None:
        async with run_node() as node:
            made = {
                (f"{family.name}_total" if family.type == "counter" else family.name): family.type
                for family in text_string_to_metric_families(Metrics(node).render().decode())
                if family.name.startswith(PREFIX)
            }
        assert made == {PREFIX + name: each.kind for name, each in METRICS.items()}
        assert all((each.kind == "counter") == name.endswith("_total") for name, each in METRICS.items())

    trio.run(main)


def test_reads_the_live_parts() -> None:
    async def main() -> None:
        async with run_node() as node:
            metrics = Metrics(node)
            counters = node.dispatcher.counters
            counters.ended |= {Outcome.COMPLETED: 5, Outcome.REFUSED: 2, Outcome.FAILED: 1, Outcome.ERROR: 8}
            counters.local, counters.offloaded = 3, 4
            counters.completion_tokens, counters.offloaded_tokens = 77, 7
            counters.prompt_tokens, counters.offloaded_prompt_tokens = 900, 100
            node.originator.client_errors.shared, node.originator.client_errors.unshared = 8, 7
            node.originator.hedges.won = 3
            node.executor.served, node.executor.declined_for_now = 6, 4
            node.executor.declines |= {DeclineReason.BUSY: 4, DeclineReason.HOLD: 5}
            node.payments.payee.earned = 1_234
            node.dispatcher.records.append(RequestRecord("running", "m", 0.0))
            node.dispatcher.records.append(RequestRecord("done", "m", 0.0, finished=1.0, outcome=Outcome.COMPLETED))
            (admission,) = node.backend_pool.admissions
            async with trio.open_nursery() as nursery:
                for origin in (Origin.DELEGATED, Origin.OWN, Origin.OWN, Origin.DELEGATED, Origin.OWN):
                    nursery.start_soon(occupy, admission, origin)
                    before = admission.running + admission.total_waiting
                    while admission.running + admission.total_waiting == before:
                        await trio.sleep(0)
                samples = read(metrics)
                nursery.cancel_scope.cancel()
            account = node.engine.state.account(node.key.public_key)
            assert get(samples, "requests_total", outcome="completed") == 5
            assert get(samples, "requests_total", outcome="refused") == 2
            assert get(samples, "requests_total", outcome="failed") == 1
            assert get(samples, "requests_total", outcome="error") == 8
            assert get(samples, "declined_offers_total", reason="hold") == 5
            assert get(samples, "declined_offers_total", reason="bond") == 0
            assert get(samples, "routed_requests_total", served="local") == 3
            assert get(samples, "routed_requests_total", served="offloaded") == 4
            assert get(samples, "requests_in_flight") == 1
            assert get(samples, "completion_tokens_total", served="local") == 70
            assert get(samples, "completion_tokens_total", served="offloaded") == 7
            assert get(samples, "prompt_tokens_total", served="local") == 800
            assert get(samples, "prompt_tokens_total", served="offloaded") == 100
            assert get(samples, "client_errors_total", outcome="shared") == 8
            assert get(samples, "client_errors_total", outcome="unshared") == 7
            assert get(samples, "client_errors_total", outcome="unconfirmed") == 0
            assert get(samples, "hedges_total", outcome="won") == 3
            assert get(samples, "hedges_total", outcome="lost") == 0
            assert get(samples, "offers_total", outcome="served") == 6
            assert get(samples, "offers_total", outcome="declined_for_now") == 4
            assert get(samples, "offers_total", outcome="declined") == 5
            assert get(samples, "earned_microcredits_total") == 1_234
            assert get(samples, "backend_capacity", backend="0") == CAPACITY
            assert get(samples, "backend_running", backend="0") == 2
            assert get(samples, "backend_queued", backend="0", origin="own") == 2
            assert get(samples, "backend_queued", backend="0", origin="delegated") == 1
            assert get(samples, "backend_utilization_ratio", backend="0") == 2.5
            assert get(samples, "balance_microcredits", kind="available") == account.available > 0
            assert get(samples, "balance_microcredits", kind="bonded") == account.bonded > 0
            kinds = ("available", "held", "bonded", "unbonding", "deposit")
            assert sum(get(samples, "balance_microcredits", kind=kind) for kind in kinds) == account.total
            assert get(samples, "spendable_microcredits") == account.available
            assert get(samples, "validator") == 1
            assert get(samples, "final_height") == node.engine.header.height
            assert 0 <= get(samples, "final_block_age_seconds") < 60

    trio.run(main)


@pytest.mark.parametrize("standing", [Standing(3, 4), None])
def test_a_validator_sees_how_much_it_takes_part(standing: Standing | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "get_standing", lambda state, public_key: standing)

    async def main() -> None:
        async with run_node() as node:
            samples, status = read(Metrics(node)), report_status(node)
        names = ("votes", "blocks", "needed")
        assert [status[f"participation_{name}"] for name in names] == ([3, 4, 2] if standing else [None] * 3)
        if standing is None:
            assert not any("participation" in name for name, _ in samples)
        else:
            assert get(samples, "validator_participation_ratio") == 0.75
            assert get(samples, "validator_participation_needed_ratio") == 0.5

    trio.run(main)


def test_what_is_counted_elsewhere_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with run_node() as node:
            assert not any(name.startswith("wwwserve_event_loop_lag") for name, _ in read(Metrics(node)))
            machine = node.machine = Machine(tmp_path, Histogram(WRITE_BOUNDS_S), node.runtime)
            machine.free_bytes = 7
            machine.loop_lag.observe(0.003)
            for took in (0.5, 3):
                machine.write_times.observe(took)
            counts = {"/wwwserve/sync/1": ByteCount(5, 9)}
            monkeypatch.setattr(node.network, "byte_counts", lambda: counts)
            (admission,) = node.backend_pool.admissions
            async with admission.slot(Demand(Origin.OWN)):
                pass
            node.engine.pace.intervals.observe(4)
            node.engine.pace.skipped_views, node.engine.pace.missed_leads = 3, 2
            node.payments.payer.finality_times.observe(0.5)
            node.engine.agreement_times.views.observe(70)
            node.engine.agreement_times.quorums.observe(70)
            backend: Any = node.backend_pool.scheduled[0].backend
            backend.probe_times = Histogram(PROBE_BOUNDS_S)
            backend.probe_times.observe(0.3)
            samples = read(Metrics(node))
        assert get(samples, "disk_free_bytes") == 7
        assert get(samples, "event_loop_lag_seconds_bucket", le="0.0025") == 0
        assert get(samples, "event_loop_lag_seconds_bucket", le="0.005") == 1
        assert [get(samples, "database_write_seconds_bucket", le=le) for le in ("0.5", "1.0", "+Inf")] == [1, 1, 2]
        assert get(samples, "database_write_seconds_sum") == 3.5
        assert get(samples, "protocol_bytes_total", protocol="/wwwserve/sync/1", direction="received") == 5
        assert get(samples, "protocol_bytes_total", protocol="/wwwserve/sync/1", direction="sent") == 9
        assert get(samples, "queue_wait_seconds_count", origin="own") == 1
        assert get(samples, "queue_wait_seconds_count", origin="delegated") == 0
        assert get(samples, "block_interval_seconds_sum") >= 4
        assert get(samples, "skipped_views_total") == 3
        assert get(samples, "missed_leads_total") == 2
        assert get(samples, "hold_finality_seconds_bucket", le="0.5") == 1
        assert get(samples, "view_duration_seconds_sum") >= 70 and get(samples, "quorum_seconds_sum") >= 70
        assert get(samples, "backend_probe_seconds_bucket", backend="0", le="0.25") == 0
        assert get(samples, "backend_probe_seconds_bucket", backend="0", le="0.5") == 1

    trio.run(main)


def test_each_first_byte_and_each_end_enter_their_histograms_once() -> None:
    async def main() -> None:
        node, _ = make_node()
        metrics, records = Metrics(node), node.dispatcher.records
        slow = RequestRecord("slow", "m", 10.0)
        records.extend([RequestRecord("quick", "m", 10.0, first_byte=10.03), slow])
        samples = read(metrics)
        assert get(samples, "time_to_first_byte_seconds_count", served="local") == 1
        assert get(samples, "time_to_first_byte_seconds_bucket", served="local", le="0.02") == 0
        assert get(samples, "time_to_first_byte_seconds_bucket", served="local", le="0.05") == 1
        slow.executor, slow.first_byte = bytes(32), 13.0
        slow.outcome, slow.finished = Outcome.COMPLETED, 15.0
        for _ in range(2):
            samples = read(metrics)
        assert get(samples, "time_to_first_byte_seconds_count", served="local") == 1
        assert get(samples, "time_to_first_byte_seconds_count", served="offloaded") == 1
        assert get(samples, "time_to_first_byte_seconds_sum", served="offloaded") == 3.0
        assert get(samples, "request_duration_seconds_sum", served="offloaded") == 5.0
        records.clear()  # counts outlive the records
        assert get(read(metrics), "time_to_first_byte_seconds_count", served="local") == 1

    trio.run(main)


def test_what_was_measured_is_compared_with_what_was_predicted_once() -> None:
    async def main() -> None:
        node, _ = make_node()
        metrics, time = Metrics(node), PredictedTime(0.5, 2.0)
        prediction = Prediction(bytes(32), "m", RequestSize(1, 1.0), UNKNOWN_SPEED, 0, 0.0, 1.0, time, 2.0)
        for number, is_stream in enumerate((True, False)):
            record = RequestRecord(str(number), "m", 10.0, first_byte=11.0, finished=15.0, outcome=Outcome.COMPLETED)
            record.prediction, record.predicted_at, record.is_stream, record.unread_s = prediction, 10.0, is_stream, 1.0
            node.dispatcher.records.append(record)
        node.dispatcher.records.append(RequestRecord("failed", "m", 10.0, first_byte=11.0, finished=15.0))
        for _ in range(2):
            samples = read(metrics)
        assert get(samples, "prediction_ratio_count", time="first_token") == 1
        assert get(samples, "prediction_ratio_sum", time="first_token") == 2.0
        assert get(samples, "prediction_ratio_count", time="total") == 2
        assert get(samples, "prediction_ratio_sum", time="total") == 4.0
        assert report_status(node)["measured_by_predicted"] == 2.0

    trio.run(main)
