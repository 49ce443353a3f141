"""The page of metrics for Prometheus.

The parts of the node keep their own counts, and each scrape reads them; nothing is counted a second time here. What
there is stands in :mod:`serving.admin.metric_catalogue`. Amounts are in micro-credits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from chain import histogram
from chain.transition.validators.jailing import MIN_PARTICIPATION_QUOTIENT
from serving.admin.health.health import find_node_troubles, get_version
from serving.admin.metric_catalogue import METRICS, PREFIX, MetricKind
from serving.admin.node_view import NodeView
from serving.admin.reports import get_unbonding
from serving.backends.backend import ProbedBackend
from serving.quality.duels.runner import DuelRunner
from serving.request_records import Outcome
from serving.scheduling.admission import WAIT_BOUNDS_S, Admission, Origin

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Content type of the page."""
PREDICTION_BUCKETS = (0.25, 0.5, 0.67, 0.8, 0.9, 1.1, 1.25, 1.5, 2, 4, 10)
"""Upper bounds of the histogram of measured by predicted times."""
FIRST_BYTE_BUCKETS_S = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 40, 80)
"""Upper bounds of the histogram of times to the first byte."""
DURATION_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)
"""Upper bounds of the histogram of times of whole answers."""


class Metrics:
    """The page of one node."""

    def __init__(self, node: NodeView) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_NodeCollector(node))
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """The page in Prometheus' text format (``CONTENT_TYPE``)."""
        return generate_latest(self._registry)


class _NodeCollector(Collector):
    def __init__(self, node: NodeView) -> None:
        self._node = node
        self._first_byte = _histogram("time_to_first_byte_seconds", FIRST_BYTE_BUCKETS_S)
        self._duration = _histogram("request_duration_seconds", DURATION_BUCKETS_S)
        self._prediction = _histogram("prediction_ratio", PREDICTION_BUCKETS)
        self._compared: dict[str, None] = {}
        """Requests of the dispatcher's records whose times are in that histogram."""
        self._observed: dict[str, None] = {}
        """Requests of the dispatcher's records whose first byte is in the histogram."""
        self._ended: dict[str, None] = {}
        """Requests of the dispatcher's records whose duration is in the histogram."""

    def describe(self) -> list[Metric]:
        return []  # called when the collector is registered, which may be before the node runs

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_node()
        yield from self._collect_machine()
        yield from self._collect_requests()
        yield from self._collect_keys()
        yield from self._collect_admission()
        yield from self._collect_ledger()
        yield from self._collect_account()
        if self._node.duels is not None:
            yield from self._collect_duels(self._node.duels)
        self._observe()
        yield from self._first_byte.collect()
        yield from self._duration.collect()
        yield from self._prediction.collect()

    def _collect_node(self) -> Iterator[Metric]:
        build = _gauges("build_info")
        build.add_metric([get_version()], 1)
        troubles = _gauges("trouble")
        for code, severity in sorted({(each.code, each.severity.value) for each in find_node_troubles(self._node)}):
            troubles.add_metric([code, severity], 1)
        yield from (build, troubles)
        if (reached := self._node.network.can_be_dialled()) is not None:
            yield _gauge("can_be_dialled", reached)

    def _collect_machine(self) -> Iterator[Metric]:
        lag, writes = _histograms("event_loop_lag_seconds"), _histograms("database_write_seconds")
        free = _gauges("disk_free_bytes")
        machine = self._node.machine
        if machine is not None:
            _add_histogram(lag, machine.loop_lag)
            _add_histogram(writes, machine.write_times)
            if machine.free_bytes is not None:
                free.add_metric([], machine.free_bytes)
        yield from (lag, writes, free)

    def _collect_requests(self) -> Iterator[Metric]:
        counters, executor = self._node.dispatcher.counters, self._node.executor
        requests = _counter("requests")
        for end, count in counters.ended.items():
            requests.add_metric([end.value], count)
        yield requests
        routed = _counter("routed_requests")
        routed.add_metric(["local"], counters.local)
        routed.add_metric(["offloaded"], counters.offloaded)
        yield routed
        continued = _counter("continued_answers")
        continued.add_metric([], counters.continued)
        yield continued
        hedges = _counter("hedges")
        for outcome in ("won", "lost", "failed"):
            hedges.add_metric([outcome], getattr(self._node.dispatcher.originator.hedges, outcome))
        yield hedges
        running = sum(record.finished is None for record in self._node.dispatcher.records)
        yield _gauge("requests_in_flight", running)
        tokens = _counter("completion_tokens")
        tokens.add_metric(["local"], counters.completion_tokens - counters.offloaded_tokens)
        tokens.add_metric(["offloaded"], counters.offloaded_tokens)
        yield tokens
        prompts = _counter("prompt_tokens")
        prompts.add_metric(["local"], counters.prompt_tokens - counters.offloaded_prompt_tokens)
        prompts.add_metric(["offloaded"], counters.offloaded_prompt_tokens)
        yield prompts
        errors = _counter("client_errors")
        client_errors = self._node.dispatcher.originator.client_errors
        for outcome in ("shared", "unshared", "unconfirmed"):
            errors.add_metric([outcome], getattr(client_errors, outcome))
        yield errors
        offers = _counter("offers")
        offers.add_metric(["served"], executor.served)
        offers.add_metric(["declined_for_now"], executor.declined_for_now)
        offers.add_metric(["declined"], executor.declined - executor.declined_for_now)
        declines = _counter("declined_offers")
        for reason, count in executor.declines.items():
            declines.add_metric([reason.value], count)
        decisions = _histograms("offer_decision_seconds")
        _add_histogram(decisions, executor.decision_times)
        yield from (offers, declines, decisions)

    def _collect_admission(self) -> Iterator[Metric]:
        """One series per backend, numbered as in the configuration."""
        admissions = self._node.backend_pool.admissions
        running = _gauges("backend_running")
        capacity = _gauges("backend_capacity")
        utilization = _gauges("backend_utilization_ratio")
        queued = _gauges("backend_queued")
        up, probes = _gauges("backend_up"), _histograms("backend_probe_seconds")
        for number, scheduled in enumerate(self._node.backend_pool.scheduled):
            up.add_metric([str(number)], scheduled.backend.is_alive())
            if isinstance(scheduled.backend, ProbedBackend):
                _add_histogram(probes, scheduled.backend.probe_times, str(number))
        for number, admission in enumerate(admissions):
            running.add_metric([str(number)], admission.running)
            capacity.add_metric([str(number)], admission.capacity)
            utilization.add_metric([str(number)], admission.utilization)
            _add_queues(queued, str(number), admission)
        failures = _gauges("backend_failures")
        for number, breaker in enumerate(self._node.backend_pool.breakers):
            failures.add_metric([str(number)], breaker.failures)
        yield from (up, probes, running, capacity, utilization, queued, failures)
        yield from self._collect_waits()
        is_open = self._node.availability.check().is_open
        yield _gauge("serves_others", is_open)

    def _collect_waits(self) -> Iterator[Metric]:
        """Waits for slots, added up over the backends."""
        waited = _histograms("queue_wait_seconds")
        refused = _counter("queue_refused")
        for origin in Origin:
            counters = [admission.counters[origin] for admission in self._node.backend_pool.admissions]
            name = origin.name.lower()
            waits = histogram.Histogram(WAIT_BOUNDS_S)
            for each in counters:
                waits.add(each.waits)
            _add_histogram(waited, waits, name)
            refused.add_metric([name, "full"], sum(each.full for each in counters))
            refused.add_metric([name, "late"], sum(each.late for each in counters))
        yield from (waited, refused)

    def _collect_keys(self) -> Iterator[Metric]:
        requests = _counter("key_requests")
        tokens = _counter("key_completion_tokens")
        spent = _counter("key_spent_microcredits")
        left = _gauges("key_budget_left_microcredits")
        keys = self._node.keys
        for name, counters in keys.get_counters():
            requests.add_metric([name, "admitted"], counters.admitted)
            requests.add_metric([name, "refused"], counters.refused)
            tokens.add_metric([name], counters.completion_tokens)
            spent.add_metric([name], counters.spent)
            if (rest := keys.get_left(name)) is not None:
                left.add_metric([name], rest)
        yield from (requests, tokens, spent, left)

    def _collect_ledger(self) -> Iterator[Metric]:
        status = self._node.engine.status()
        yield _gauge("final_height", status.height)
        yield _gauge("final_block_age_seconds", status.final_age)
        intervals = _histograms("block_interval_seconds")
        _add_histogram(intervals, self._node.engine.pace.intervals)
        skipped = _counter("skipped_views")
        skipped.add_metric([], self._node.engine.pace.skipped_views)
        missed = _counter("missed_leads")
        missed.add_metric([], self._node.engine.pace.missed_leads)
        views, quorums = _histograms("view_duration_seconds"), _histograms("quorum_seconds")
        _add_histogram(views, self._node.engine.agreement_times.views)
        _add_histogram(quorums, self._node.engine.agreement_times.quorums)
        yield from (intervals, skipped, missed, views, quorums)
        yield _gauge("epoch", status.epoch)
        yield _gauge("view", status.view)
        yield _gauge("validator", status.is_validator)
        if status.standing is not None:
            yield _gauge(
                "validator_participation_ratio",
                status.standing.share,
            )
            yield _gauge(
                "validator_participation_needed_ratio",
                1 / MIN_PARTICIPATION_QUOTIENT,
            )
        yield _gauge("syncing", status.is_syncing)
        yield _gauge("mempool_operations", status.mempool_operations)
        yield _gauge("mempool_bytes", status.mempool_bytes)
        yield _gauge("connected_peers", status.peers)
        network = self._node.network
        yield _gauge("relayed_peers", sum(network.is_relayed(peer) for peer in network.peers()))
        carried = _counter("protocol_bytes")
        for protocol, both in network.byte_counts().items():
            carried.add_metric([protocol, "received"], both.received)
            carried.add_metric([protocol, "sent"], both.sent)
        yield carried
        refused = _counter("refused_connections")
        for reason, count in network.refusals().items():
            refused.add_metric([reason], count)
        yield refused
        yield _gauge("known_peers", len(self._node.discovery.table))

    def _collect_account(self) -> Iterator[Metric]:
        account = self._node.engine.state.account(self._node.key.public_key)
        balance = _gauges("balance_microcredits")
        balance.add_metric(["available"], account.available)
        balance.add_metric(["held"], account.held)
        balance.add_metric(["bonded"], account.bonded)
        balance.add_metric(["unbonding"], get_unbonding(account))
        balance.add_metric(["deposit"], account.deposit)
        yield balance
        spendable = self._node.payments.payer.spendable
        yield _gauge("spendable_microcredits", spendable)
        finality = _histograms("hold_finality_seconds")
        _add_histogram(finality, self._node.payments.payer.finality_times)
        yield finality
        earned = _counter("earned_microcredits")
        earned.add_metric([], self._node.payments.payee.earned)
        yield earned

    def _collect_duels(self, duels: DuelRunner) -> Iterator[Metric]:
        opened = _counter("duels")
        settled = _counter("duels_settled")
        for role, count in duels.log.opened.items():
            opened.add_metric([role.value], count)
        for (settled_role, verdict), count in duels.log.settled.items():
            settled.add_metric([settled_role.value, verdict.value], count)
        yield from (opened, settled)
        moved = _counter("duels_microcredits")
        moved.add_metric(["earned"], duels.log.earned)
        moved.add_metric(["paid"], duels.log.paid)
        yield moved
        texts = _counter("duel_texts")
        texts.add_metric(["handed_over"], duels.server.handed_over)
        texts.add_metric(["refused"], duels.server.refused)
        yield texts
        abstentions = _counter("duel_abstentions")
        abstentions.add_metric([], duels.abstentions)
        yield abstentions
        yield from self._collect_checks(duels)
        yield _gauge("duels_active", duels.active)
        yield _gauge("duel_table_entries", len(duels.table))
        yield _gauge("duel_table_bytes", duels.table.size)

    def _collect_checks(self, duels: DuelRunner) -> Iterator[Metric]:
        opened = _counter("checks")
        settled = _counter("checks_settled")
        for role, count in duels.check_log.opened.items():
            opened.add_metric([role.value], count)
        for (settled_role, outcome), count in duels.check_log.settled.items():
            settled.add_metric([settled_role.value, outcome.value], count)
        moved = _counter("checks_microcredits")
        moved.add_metric(["earned"], duels.check_log.earned)
        moved.add_metric(["paid"], duels.check_log.paid)
        abstentions = _counter("check_abstentions")
        abstentions.add_metric([], duels.check_abstentions)
        yield from (opened, settled, moved, abstentions)

    def _observe(self) -> None:
        """Enter the first bytes and the ends since the last scrape; requests that are no longer recorded are missed."""
        known, self._observed = self._observed, {}
        ended, self._ended = self._ended, {}
        for record in self._node.dispatcher.records:
            served = "local" if record.executor is None else "offloaded"
            if record.first_byte is not None:
                if record.id not in known:
                    self._first_byte.labels(served).observe(record.first_byte - record.started)
                self._observed[record.id] = None
            if record.outcome is Outcome.COMPLETED and record.finished is not None:
                if record.id not in ended:
                    self._duration.labels(served).observe(record.finished - record.started)
                self._ended[record.id] = None
        self._compare()

    def _compare(self) -> None:
        """Enter the times measured since the last scrape, relative to the predicted ones."""
        known, self._compared = self._compared, {}
        for record in self._node.dispatcher.records:
            ratios = dict(zip(("first_token", "total"), record.compare(), strict=True))
            if not any(ratios.values()):
                continue
            for time, ratio in ratios.items():
                if record.id not in known and ratio is not None:
                    self._prediction.labels(time).observe(ratio)
            self._compared[record.id] = None


def _say(kind: MetricKind) -> str:
    """The meaning as a sentence."""
    return f"{kind.meaning[0].upper()}{kind.meaning[1:]}."


def _counter(name: str) -> CounterMetricFamily:
    kind = METRICS[f"{name}_total"]
    return CounterMetricFamily(PREFIX + name, _say(kind), labels=kind.labels)


def _gauges(name: str) -> GaugeMetricFamily:
    kind = METRICS[name]
    return GaugeMetricFamily(PREFIX + name, _say(kind), labels=kind.labels)


def _gauge(name: str, value: float) -> GaugeMetricFamily:
    """A gauge without labels."""
    return GaugeMetricFamily(PREFIX + name, _say(METRICS[name]), value=value)


def _histogram(name: str, buckets: Sequence[float]) -> Histogram:
    kind = METRICS[name]
    return Histogram(PREFIX + name, _say(kind), kind.labels, registry=None, buckets=buckets)


def _histograms(name: str) -> HistogramMetricFamily:
    """Of what is counted elsewhere."""
    kind = METRICS[name]
    return HistogramMetricFamily(PREFIX + name, _say(kind), labels=kind.labels)


def _add_histogram(family: HistogramMetricFamily, counted: histogram.Histogram, *labels: str) -> None:
    names = [*map(floatToGoString, counted.bounds), "+Inf"]
    family.add_metric(labels, list(zip(names, counted.cumulate(), strict=True)), counted.sum)


def _add_queues(family: GaugeMetricFamily, backend: str, admission: Admission) -> None:
    family.add_metric([backend, "own"], admission.waiting(Origin.OWN))
    family.add_metric([backend, "delegated"], admission.waiting(Origin.DELEGATED))
