"""Workloads: nodes with their hardware, users who send requests at changing rates, and answers of some lengths.

The paper evaluates four settings of four nodes (its Table 3 and Figure 4) with problems of mathematics, reasoning mode
and at most 8,192 tokens. Of these settings its mean latencies are known, and from the published code of its reference
implementation the shape: four nodes, Poisson arrivals whose rates change halfway, peaks of one request in 15 s or
more often and valleys of half of that, requests over 300 to 750 s. The hardware and the exact rates are not.

So the four settings below are ours, after that pattern, and their rates are set such that four nodes without sharing
have about the mean latencies that the paper reports for them: 200.4, 226.6, 237.9 and 241.0 s. Every node serves under
one name of a model, as a request of the paper may be answered by the model of any node.

The lengths of answers are drawn from a log-normal distribution, cut at the limit of the request: reasoning models often
run into a limit of 8,192 tokens.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from serving.simulation.gpu_curves import GpuCurve, load_curve

MODEL = "reasoning"
"""The name under which every node serves."""
MAX_TOKENS = 8192
"""Limit of an answer, as in the paper."""
OUTPUT_MEDIAN = 4500
"""Tokens of the median answer, uncut: assumed."""
OUTPUT_SIGMA = 0.7
"""Standard deviation of the logarithm of an answer's tokens: assumed. A fifth of the answers are cut."""
PROMPT_TOKENS = (60, 240)
"""Least and most tokens of a problem of mathematics."""
BLOCK_TOKENS = 512
"""Tokens in a named block of a prompt, as in Mooncake's trace."""
DURATION_S = 750.0
"""Seconds in which requests arrive."""


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier turn of a conversation: the ``id`` of its request, and the tokens of message and answer."""

    id: int
    prompt: int
    output: int


@dataclass(frozen=True, slots=True)
class Request:
    """One request: the ``node`` (index) that is asked at ``time`` (s), and the tokens it would take if not cut.

    ``blocks`` name the blocks of the prompt where other prompts may begin with the same. ``history`` are the turns of a
    conversation before it, which are sent with it; ``prompt`` are the tokens of its own message. ``stream``: whether
    the answer is wanted as it is written, or as a whole.
    """

    id: int
    node: int
    time: float
    prompt: int
    output: int
    blocks: tuple[int, ...] = ()
    history: tuple[Turn, ...] = ()
    stream: bool = True


@dataclass(frozen=True, slots=True)
class Site:
    """One node: its model and card, and the rates of its users' requests: (from, until, requests/s), times in s."""

    model: str
    card: str
    rates: tuple[tuple[float, float, float], ...]

    @property
    def curve(self) -> GpuCurve:
        return load_curve(self.model, self.card)


@dataclass(frozen=True, slots=True)
class Setting:
    """Nodes and their users. ``single_latency_s`` is the paper's mean latency without sharing, which it resembles."""

    name: str
    about: str
    sites: tuple[Site, ...]
    single_latency_s: float


def shift(first: float, second: float, at: float = DURATION_S / 2) -> tuple[tuple[float, float, float], ...]:
    """A rate until ``at`` and another one from there to the end."""
    return ((0.0, at, first), (at, DURATION_S, second))


def draw_requests(setting: Setting, seed: int) -> list[Request]:
    """All requests of a setting in the order of their times."""
    drawn = []
    for node, site in enumerate(setting.sites):
        chance = random.Random(f"requests:{setting.name}:{node}:{seed}")
        for start, end, rate in site.rates:
            time = start + chance.expovariate(rate)
            while time < end:
                drawn.append((time, node, chance.randint(*PROMPT_TOKENS), draw_output(chance)))
                time += chance.expovariate(rate)
    return [Request(id, node, time, prompt, output) for id, (time, node, prompt, output) in enumerate(sorted(drawn))]


def draw_output(chance: random.Random) -> int:
    """The tokens of an answer, uncut."""
    return max(1, round(chance.lognormvariate(math.log(OUTPUT_MEDIAN), OUTPUT_SIGMA)))


SETTINGS: Sequence[Setting] = (
    Setting(
        "1",
        "two cards, equal users",
        (
            Site("qwen3-8b", "RTX 4090", shift(0.068, 0.068)),
            Site("qwen3-8b", "RTX 4090", shift(0.068, 0.068)),
            Site("qwen3-8b", "RTX 3090", shift(0.064, 0.064)),
            Site("qwen3-8b", "RTX 3090", shift(0.064, 0.064)),
        ),
        200.380,
    ),
    Setting(
        "2",
        "peaks that change places",
        (
            Site("qwen3-8b", "RTX 4090", shift(0.094, 0.031)),
            Site("qwen3-8b", "RTX 4090", shift(0.094, 0.031)),
            Site("qwen3-8b", "RTX 3090", shift(0.031, 0.094)),
            Site("qwen3-8b", "RTX 3090", shift(0.031, 0.094)),
        ),
        226.578,
    ),
    Setting(
        "3",
        "one node with more users",
        (
            Site("qwen3-8b", "RTX 4090", shift(0.102, 0.102)),
            Site("qwen3-8b", "RTX 4090", shift(0.063, 0.063)),
            Site("qwen3-8b", "RTX 3090", shift(0.063, 0.063)),
            Site("qwen3-8b", "RTX 3090", shift(0.063, 0.063)),
        ),
        237.925,
    ),
    Setting(
        "4",
        "three models, four cards",
        (
            Site("qwen3-32b", "A100 80GB", shift(0.080, 0.040)),
            Site("qwen3-8b", "L40S", shift(0.080, 0.320)),
            Site("qwen3-8b", "RTX 4090", shift(0.107, 0.053)),
            Site("qwen3-4b", "RTX 3090", shift(0.053, 0.107)),
        ),
        241.042,
    ),
)


def describe(setting: Setting) -> str:
    """A row for the document: nodes, and the mean seconds between two requests, before and after a change."""
    nodes = []
    for site in setting.sites:
        gaps = " then ".join(f"{1 / rate:.3g} s" for rate in dict.fromkeys(rate for _, _, rate in site.rates))
        nodes.append(f"{site.model} on {site.card}: {gaps}")
    return f"| {setting.name} | {setting.about} | {'; '.join(nodes)} | {setting.single_latency_s:.1f} s |"
