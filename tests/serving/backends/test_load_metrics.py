"""Metrics pages of engines (``pages/README.md`` says where each comes from), joined with a node's own requests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.backends.backend import Load
from serving.backends.load_metrics import PARSERS, MetricsPage, compute_full_load, compute_load, detect_reader

PAGES = Path(__file__).parents[1] / "pages"


@pytest.mark.parametrize(
    ("name", "reader", "expected"),
    [
        ("vllm_idle", "vllm", MetricsPage(0, 0, 0.0, 46_592, "auto")),
        ("vllm", "vllm", MetricsPage(2, 4, 0.0055096418732781816, 46_592, "auto")),  # six requests, two places
        (
            "vllm_two_engines",
            "vllm",
            MetricsPage(4, 6, 0.0055096418732781816, 93_184, "auto"),
        ),  # ten over two of them
        ("llamacpp_idle", "llamacpp", MetricsPage(0, 0, None)),
        ("llamacpp", "llamacpp", MetricsPage(2, 3, None)),  # five requests, two places
    ],
)
def test_pages_recorded_from_real_servers(name: str, reader: str, expected: MetricsPage) -> None:
    check_page((PAGES / f"{name}.prom").read_text(), reader, expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sglang_rendered", MetricsPage(11, 2, 0.31)),  # two tensor-parallel ranks report the same requests
        # Two engines add up, their caches are averaged; the breakdown by priority is not added to the totals.
        ("sglang_rendered_dp_priority", MetricsPage(12, 3, 0.5)),
    ],
)
def test_pages_rendered_by_sglang_itself_from_chosen_values(name: str, expected: MetricsPage) -> None:
    check_page((PAGES / f"{name}.prom").read_text(), "sglang", expected)


def test_a_composed_page_of_an_older_vllm() -> None:
    """Composed by hand, after the metric's documentation: the cache gauge's old name."""
    engine = '{engine="0",model_name="m"}'
    page = f"vllm:num_requests_running{engine} 5.0\nvllm:num_requests_waiting{engine} 1.0\n"
    check_page(page + f"vllm:gpu_cache_usage_perc{engine} 0.25\n", "vllm", MetricsPage(5, 1, 0.25))
    both = f"vllm:gpu_cache_usage_perc{engine} 0.25\nvllm:kv_cache_usage_perc{engine} 0.25\n"
    check_page(page + both, "vllm", MetricsPage(5, 1, 0.25))
    blocks = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n'
    check_page(page + both + blocks, "vllm", MetricsPage(5, 1, 0.25, 1_600))
    unknown = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1.0\n'
    check_page(page + both + unknown, "vllm", MetricsPage(5, 1, 0.25))


def check_page(page: str, reader: str, expected: MetricsPage) -> None:
    assert detect_reader(page) == reader
    for kind, parse in PARSERS.items():
        assert parse(page) == (expected if kind == reader else None)


@pytest.mark.parametrize("page", ["", "not a page {{{", "# HELP vllm:x only a comment", "python_info 1.0\n"])
def test_other_pages_say_nothing(page: str) -> None:
    assert detect_reader(page) is None
    assert [parse(page) for parse in PARSERS.values()] == [None, None, None]


@pytest.mark.parametrize(
    "page",
    [
        "vllm:num_requests_running{engine=\n",
        "vllm:num_requests_running many\n",
        "vllm:num_requests_running NaN\n",
        "vllm:num_requests_running +Inf\n",
        "vllm:num_requests_running_elsewhere 3\n",
    ],
)
def test_damaged_lines_count_as_absent(page: str) -> None:
    assert PARSERS["vllm"](page) is None
    assert PARSERS["vllm"](page + "vllm:num_requests_running 7\n") == MetricsPage(7, 0, None)


def test_own_requests_are_added_but_not_twice() -> None:
    page = MetricsPage(running=6, waiting=0, cache_usage=None)
    assert compute_load(page, own_at_page=4, own_now=4, capacity=8) == Load(6, 0, 0.75, True)
    assert compute_load(page, own_at_page=4, own_now=6, capacity=8) == Load(8, 0, 1.0, True)
    assert compute_load(page, own_at_page=4, own_now=0, capacity=8) == Load(2, 0, 0.25, True)
    assert compute_load(page, own_at_page=9, own_now=9, capacity=8) == Load(8, 1, 1.125, True)


def test_the_scarcer_resource_counts_and_waiting_comes_on_top() -> None:
    assert compute_load(MetricsPage(2, 0, 0.9), 0, 0, capacity=8).utilization == 0.9
    assert compute_load(MetricsPage(2, 4, 0.9), 0, 0, capacity=8).utilization == pytest.approx(1.4)


def test_without_a_page_own_requests_are_all_that_is_known() -> None:
    assert compute_load(None, 0, 0, capacity=4) == Load(0, 0, 0.0, False)
    assert compute_load(None, 0, 5, capacity=4) == Load(4, 1, 1.25, False)


def test_silence_never_reads_as_idle() -> None:
    assert compute_full_load(0, 4) == Load(0, 0, 1.0, False)
    assert compute_full_load(6, 4).utilization == 1.5


counts = st.integers(0, 500)


@given(counts, counts, st.none() | st.floats(0, 1), counts, counts, st.integers(1, 300))
def test_load_never_shows_less_than_is_known(
    running: int, waiting: int, cache: float | None, own_at_page: int, own_now: int, capacity: int
) -> None:
    load = compute_load(MetricsPage(running, waiting, cache), own_at_page, own_now, capacity)
    assert load.running >= 0 and load.waiting >= 0
    assert load.running + load.waiting >= own_now
    assert load.utilization >= max(own_now / capacity, cache or 0.0) - 1e-9
    busier = compute_load(MetricsPage(running, waiting, cache), own_at_page, own_now + 1, capacity)
    assert busier.utilization >= load.utilization
