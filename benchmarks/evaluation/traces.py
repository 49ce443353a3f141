"""Recorded traffic as workloads: times and lengths of real requests, given to nodes by chance.

- Azure's conversation trace of 2023: 19,366 requests of an hour, with the tokens of prompt and answer.
- Mooncake's synthetic trace: 3,993 requests of 17 minutes, long prompts that share blocks of 512 tokens.

Their licences are beside the copies in ``benchmarks/data``.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from benchmarks.evaluation.workloads import Request

DATA = Path(__file__).resolve().parents[1] / "data"


@dataclass(frozen=True, slots=True)
class Record:
    """A recorded request: seconds from the first, tokens of prompt and answer, and names of the prompt's blocks."""

    time: float
    prompt: int
    output: int
    blocks: tuple[int, ...] = ()


@cache
def load_azure() -> Sequence[Record]:
    """Azure's trace in the order of times."""
    with gzip.open(DATA / "azure_conv_2023.csv.gz", "rt", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]) for row in rows]
    return [
        Record((time - times[0]).total_seconds(), int(row["ContextTokens"]), max(1, int(row["GeneratedTokens"])))
        for time, row in zip(times, rows, strict=True)
    ]


@cache
def load_mooncake() -> Sequence[Record]:
    """Mooncake's trace in the order of times."""
    with gzip.open(DATA / "mooncake_synthetic.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    return [
        Record(row["timestamp"] / 1000, row["input_length"], max(1, row["output_length"]), tuple(row["hash_ids"]))
        for row in rows
    ]


def draw_from_trace(
    trace: Sequence[Record], weights: Sequence[float], duration: float, speed: float, seed: int
) -> list[Request]:
    """Requests of ``duration`` seconds from a place of the trace that the seed chooses.

    The trace runs at ``speed`` times its pace. Each request goes to a node (index) drawn by ``weights``.
    """
    chance = random.Random(f"trace:{seed}")
    start = chance.uniform(0, max(0.0, trace[-1].time - duration * speed))
    requests: list[Request] = []
    for record in trace:
        time = (record.time - start) / speed
        if 0 <= time < duration:
            (node,) = chance.choices(range(len(weights)), weights)
            requests.append(Request(len(requests), node, time, record.prompt, record.output, record.blocks))
    return requests
