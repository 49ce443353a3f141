"""The servers of a setting, and users who send its requests and wait for the answers, in simulated time.

A scheduler decides where each request is served. No request is left out: one that fails, or has no answer after
:data:`TIMEOUT_S`, counts as a miss for every threshold, and with that time in the mean.
"""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from benchmarks.evaluation.workloads import BLOCK_TOKENS, MAX_TOKENS, MODEL, Request, Setting
from p2p.runtime import Runtime
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from serving.backends.backend import Backend, BackendError
from serving.openai.requests import CHAT_COMPLETIONS
from serving.simulation.modelled_backend import ModelledBackend
from serving.simulation.modelled_requests import BYTES_PER_TOKEN, TOKEN

TIMEOUT_S = 600.0
"""Patience of a user: that of the reference implementation."""
FIRST_TOKEN_OBJECTIVE_S = 2.0
"""Most seconds until the first token of a stream, for it to count as served in time."""
TOKEN_OBJECTIVE_S = 0.1
"""Most seconds for each token after that, on average."""
REPORT_INTERVAL_S = 5.0
"""Time between two bursts of tokens of an answer."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a request: seconds until its whole answer, and who served it (index); None if nobody did.

    ``reason`` is what the user of a request was told that was not answered.
    ``first_token``: seconds until the first token, where the scheduler measures it.
    """

    id: int
    node: int
    time: float
    latency: float
    executor: int | None
    reason: str = ""
    first_token: float | None = None

    @property
    def is_answered(self) -> bool:
        return self.executor is not None


def meets_objective(result: Result, request: Request) -> bool:
    """Whether a stream was as it should be: a first token within 2 s, and then 10 tokens/s on average."""
    if not result.is_answered or result.first_token is None or result.first_token > FIRST_TOKEN_OBJECTIVE_S:
        return False
    tokens = min(request.output, MAX_TOKENS)
    return result.latency - result.first_token <= tokens * TOKEN_OBJECTIVE_S


class Scheduler(Protocol):
    """Decides where requests are served."""

    async def handle(self, request: Request) -> int:
        """Have a request served; returns by which node.

        Raises:
            BackendError: it failed.
        """

    async def run(self) -> None:
        """Work beside the requests, until cancelled."""


MakeScheduler = Callable[[Setting, Sequence[ModelledBackend], random.Random], Scheduler]
"""From a setting, its servers and chance to a scheduler."""


class Servers:
    """The modelled GPUs of a setting. How long an answer will be stands in a table that no scheduler reads."""

    def __init__(self, setting: Setting, requests: Sequence[Request]) -> None:
        self.setting = setting
        self._outputs = {request.id: request.output for request in requests}

    def make_backend(self, number: int, runtime: Runtime, capacity: int | None = None) -> ModelledBackend:
        """The GPU of a node. ``capacity``: running requests that count as full."""
        curve = self.setting.sites[number].curve
        return ModelledBackend(
            curve,
            runtime,
            models=(MODEL,),
            capacity=capacity,
            report_interval=REPORT_INTERVAL_S,
            output_length=self._find_output,
        )

    def _find_output(self, messages: Sequence[Mapping[str, Any]]) -> int:
        return self._outputs[int(messages[-1]["content"].rpartition(" ")[2])]


def make_body(request: Request) -> bytes:
    """The request as its user sends it: a prompt of its length, like no other but for its blocks and its history."""
    messages = []
    for turn in request.history:
        messages.append({"role": "user", "content": _make_text(turn.id, turn.prompt)})
        messages.append({"role": "assistant", "content": TOKEN * turn.output})
    messages.append({"role": "user", "content": _make_text(request.id, request.prompt, request.blocks)})
    body = {"model": MODEL, "stream": request.stream, "max_tokens": MAX_TOKENS, "messages": messages}
    return json.dumps(body).encode()


def _make_text(id: int, tokens: int, blocks: Sequence[int] = ()) -> str:
    """A message that ends with the id of its request."""
    end = f" {id}"
    size = max(0, BYTES_PER_TOKEN * tokens - len(end))
    text = "".join(f"block {name} ".ljust(BYTES_PER_TOKEN * BLOCK_TOKENS, "x") for name in blocks)
    return (text or f"request {id} ").ljust(size, "x")[:size] + end


async def serve(backend: Backend, request: Request) -> None:
    """Have a backend answer a request.

    Raises:
        BackendError: it failed.
    """
    async with backend.complete(CHAT_COMPLETIONS, make_body(request), stream=request.stream) as answer:
        if answer.status != 200:
            raise BackendError(f"answered with {answer.status}")
        async for _ in answer.body:
            pass


async def send_all(requests: Sequence[Request], handle: Callable[[Request], Awaitable[int]]) -> list[Result]:
    """Users send all requests at their times, from now on, and wait; returns what became of them, by id."""
    results: list[Result] = []
    start = trio.current_time()

    async def send(request: Request) -> None:
        await trio.sleep_until(start + request.time)
        executor, reason = None, "timeout"
        with trio.move_on_after(TIMEOUT_S):
            try:
                executor, reason = await handle(request), ""
            except BackendError as error:
                reason = str(error)
        latency = TIMEOUT_S if executor is None else trio.current_time() - start - request.time
        results.append(Result(request.id, request.node, request.time, latency, executor, reason))

    async with trio.open_nursery() as users:
        for request in requests:
            users.start_soon(send, request)
    return sorted(results, key=lambda result: result.id)


def replay(
    setting: Setting,
    requests: Sequence[Request],
    seed: int,
    make_scheduler: MakeScheduler,
) -> list[Result]:
    """Run a scheduler over the servers of a setting."""

    async def main() -> list[Result]:
        servers = Servers(setting, requests)
        backends = [servers.make_backend(number, SimulatedRuntime(number)) for number in range(len(setting.sites))]
        scheduler = make_scheduler(setting, backends, random.Random(f"scheduler:{seed}"))
        async with trio.open_nursery() as nursery:
            for backend in backends:
                nursery.start_soon(backend.run)
            nursery.start_soon(scheduler.run)
            results = await send_all(requests, scheduler.handle)
            nursery.cancel_scope.cancel()
        return results

    return run_simulation(f"{setting.name}:{seed}", main)
