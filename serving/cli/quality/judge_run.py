"""Measuring the owner's own backend as a judge: opens it, asks it all trials, and says what came out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from chain.cli.contract import CommandError
from p2p.runtime import RealRuntime
from serving.backends.backend import Backend, BackendError
from serving.config.build import build_backend
from serving.config.models import EmbeddedModel, OpenAIModel
from serving.config.schema import JudgeConfig
from serving.quality.judging.ballot import ReplyForm
from serving.quality.judging.cases import load_cases
from serving.quality.judging.judge import Judge, JudgeError, JudgeSettings, detect_form
from serving.quality.judging.measurement import JudgeScores, measure
from serving.quality.judging.prompt import JudgePrompt
from serving.quality.judging.trials import make_trials, run_trials

BACKEND_TIMEOUT_S = 60.0
"""How long a backend may take to be there."""

Entry = EmbeddedModel | OpenAIModel
"""A backend in the configuration."""
OnProgress = Callable[[int, int], None]
"""Told how many trials are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """What was measured, and of whom. ``refuses_long``: a prompt beyond any context was not silently shortened."""

    model: str
    form: ReplyForm
    prompt: JudgePrompt
    seed: int
    trials: int
    elapsed_s: float
    refuses_long: bool
    measured: JudgeScores


async def measure_judge(
    entries: Sequence[Entry],
    config: JudgeConfig,
    prompt: JudgePrompt,
    *,
    seed: int,
    step: int,
    parallel: int,
    on_progress: OnProgress,
) -> JudgeReport:
    """Measure the first backend that serves the model of ``config``, with every ``step``-th case.

    Raises:
        CommandError: no backend serves the model, or it gives no answer.
    """
    trials = make_trials(load_cases(), seed, step)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        on_progress(done, len(trials))

    async with _open_backend(entries, config.model) as (entry, backend, model):
        try:
            if config.form == "auto":
                form = await detect_form(backend, model, config.reasoning_tokens)
            else:
                form = ReplyForm(config.form)
        except JudgeError as error:
            raise CommandError(f"{model} gives no answer: {error}") from None
        judge = Judge(backend, prompt, JudgeSettings(model, form, config.timeout_s, config.reasoning_tokens))
        refuses_long = await judge.refuses_long_texts()
        on_progress(0, len(trials))
        began = trio.current_time()
        outcomes = await run_trials(judge, trials, min(parallel, entry.capacity), count)
        elapsed_s = trio.current_time() - began
    return JudgeReport(model, form, prompt, seed, len(trials), elapsed_s, refuses_long, measure(trials, outcomes))


@asynccontextmanager
async def _open_backend(entries: Sequence[Entry], model: str | None) -> AsyncIterator[tuple[Entry, Backend, str]]:
    """The first backend that is there and serves ``model`` (None: any), running, with the name of the model."""
    faults: list[str] = []
    for entry in entries:
        name = "the embedded model" if isinstance(entry, EmbeddedModel) else entry.base_url
        backend = build_backend(entry, RealRuntime())
        async with trio.open_nursery() as nursery:
            try:
                nursery.start_soon(_run, backend)
                with trio.move_on_after(BACKEND_TIMEOUT_S):
                    await backend.wait_alive()
                if not backend.is_alive():
                    faults.append(f"{name} does not answer")
                elif model is not None and model not in backend.models:
                    faults.append(f"{name} serves {', '.join(backend.models)}")
                else:
                    yield entry, backend, model or backend.models[0]
                    return
            finally:
                nursery.cancel_scope.cancel()
    raise CommandError(f"no backend serves {model or 'a model'}: {'; '.join(faults)}")


async def _run(backend: Backend) -> None:
    try:
        await backend.run()
    except BackendError as error:
        raise CommandError(str(error)) from None
