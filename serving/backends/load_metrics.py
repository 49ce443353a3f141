"""Reading the metrics pages (Prometheus text) of vLLM, SGLang and llama.cpp: pure functions from a page to numbers.

A page is as old as its refresh and the polling interval, but only the page shows the requests of other users of the
backend. So :func:`compute_load` adds two numbers: the requests of others when the page was read, and this node's now.

Utilization is ``max(running / capacity, cache usage) + waiting / capacity``: a backend is as full as the scarcer of its
two resources, slots for running requests and memory of the key-value cache; requests that wait are added.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from serving.backends.backend import Load

_CACHE_CONFIGURATION = "vllm:cache_config_info{"
_LABEL = re.compile(r'\b(kv_cache_size_tokens|block_size|num_gpu_blocks|cache_dtype)="(\w{1,32})"')

LoadReader = Literal["auto", "vllm", "sglang", "llamacpp", "none"]

CONTINUING: frozenset[LoadReader] = frozenset({"vllm", "llamacpp"})
"""Servers, by their metrics page, that can continue an answer: vLLM with ``continue_final_message``, and llama.cpp
whenever the last message is the assistant's."""
RANKS_OF_ONE_ENGINE = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "pid"})
"""Labels that number the processes of one engine, which all report the same requests (tensor, pipeline, expert)."""


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """What a page says: requests running and waiting, and the used fraction of the key-value cache if it says so.

    ``cache_tokens``: how many tokens that cache holds (0: not said), and ``cache_format`` its number format (empty: not
    said, or not the same of all engines).
    """

    running: int
    waiting: int
    cache_usage: float | None
    cache_tokens: int = 0
    cache_format: str = ""


def parse_vllm(page: str) -> MetricsPage | None:
    """vLLM; engines of one server (data parallelism) are added up. None if the page is not vLLM's.

    Older versions call the cache gauge ``vllm:gpu_cache_usage_perc``. Despite the name it is a fraction. They give the
    size of the cache in blocks only.
    """
    found = _read(
        page,
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    )
    engines = [dict(_LABEL.findall(line)) for line in page.splitlines() if line.startswith(_CACHE_CONFIGURATION)]
    formats = {engine.get("cache_dtype", "") for engine in engines}
    return found and replace(
        found,
        cache_tokens=sum(map(_get_cache_tokens, engines)),
        cache_format=formats.pop() if len(formats) == 1 else "",
    )


def _get_cache_tokens(labels: Mapping[str, str]) -> int:
    """What the cache of one engine holds; 0: not said."""
    tokens, size, blocks = (labels.get(name, "") for name in ("kv_cache_size_tokens", "block_size", "num_gpu_blocks"))
    if tokens.isdigit():
        return int(tokens)
    return int(size) * int(blocks) if size.isdigit() and blocks.isdigit() else 0


def parse_sglang(page: str) -> MetricsPage | None:
    """SGLang, started with ``--enable-metrics``. None if the page is not SGLang's."""
    return _read(page, "sglang:num_running_reqs", "sglang:num_queue_reqs", ("sglang:token_usage",))


def parse_llamacpp(page: str) -> MetricsPage | None:
    """llama.cpp, started with ``--metrics``; it shows no cache usage. None if the page is not llama.cpp's."""
    return _read(page, "llamacpp:requests_processing", "llamacpp:requests_deferred", ())


PARSERS: dict[LoadReader, Callable[[str], MetricsPage | None]] = {
    "vllm": parse_vllm,
    "sglang": parse_sglang,
    "llamacpp": parse_llamacpp,
}
"""The function that reads the metrics page of each known server."""


def detect_reader(page: str) -> LoadReader | None:
    """Which backend a page belongs to, or None: every sample of theirs is called ``<backend>:<what>``."""
    return next((reader for reader in PARSERS if f"\n{reader}:" in f"\n{page}"), None)


def compute_load(page: MetricsPage | None, own_at_page: int, own_now: int, capacity: int) -> Load:
    """The load of a backend that can run ``capacity`` requests at a time.

    ``own_at_page`` and ``own_now`` are this node's requests in flight when the page was read and now. Without a page
    (None) they are all that is known.
    """
    others = 0 if page is None else max(0, page.running + page.waiting - own_at_page)
    total = others + own_now
    waiting = max(0, total - capacity)
    cache_usage, cache_tokens = 0.0, 0
    if page is not None:
        cache_tokens = page.cache_tokens
        waiting = min(total, max(waiting, page.waiting))
        cache_usage = page.cache_usage or 0.0
    running = total - waiting
    utilization = compute_utilization(running, waiting, cache_usage, capacity)
    return Load(running, waiting, utilization, page is not None, cache_tokens)


def compute_utilization(running: int, waiting: int, cache_usage: float, capacity: int) -> float:
    """How full a backend is: 0 idle, 1 full, more when requests wait (see the top of this module)."""
    return max(running / capacity, cache_usage) + waiting / capacity


def compute_full_load(own_now: int, capacity: int) -> Load:
    """The load of a backend about which nothing can be learnt: full, so that silence never reads as idleness."""
    return Load(own_now, 0, max(1.0, own_now / capacity), known=False)


def _read(page: str, running: str, waiting: str, cache_usage: tuple[str, ...]) -> MetricsPage | None:
    samples = _samples(page, (running, waiting, *cache_usage))
    runs = _per_engine(samples, running)
    if not runs:
        return None
    usages = next((values for name in cache_usage if (values := _per_engine(samples, name))), [])
    return MetricsPage(
        running=round(sum(runs)),
        waiting=round(sum(_per_engine(samples, waiting))),
        cache_usage=sum(usages) / len(usages) if usages else None,
    )


def _samples(page: str, names: Iterable[str]) -> list[Sample]:
    """The samples called one of ``names``; lines that cannot be parsed count as absent.

    Only their lines are parsed: a page has hundreds of histogram lines, is read every second, and the parser is slow.
    """
    wanted = tuple(f"{name}{end}" for name in names for end in ("{", " "))
    lines = [line for line in page.splitlines() if line.startswith(wanted)]
    samples: list[Sample] = []
    for line in lines:
        try:
            samples += [sample for family in text_string_to_metric_families(line + "\n") for sample in family.samples]
        except ValueError:
            continue
    return samples


def _per_engine(samples: list[Sample], name: str) -> list[float]:
    """Values of the gauge ``name``, one for each engine behind the server.

    With priority scheduling SGLang repeats an engine's requests by priority, and the total under an empty one.
    """
    engines: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in samples:
        if sample.name == name and math.isfinite(sample.value) and not sample.labels.get("priority"):
            engine = tuple(sorted(item for item in sample.labels.items() if item[0] not in RANKS_OF_ONE_ENGINE))
            engines[engine] = max(sample.value, engines.get(engine, 0.0))
    return list(engines.values())
