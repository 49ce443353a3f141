"""``wwwserve calibrate``: thresholds of the same-model check, from what honest backends differ by."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from chain.cli.contract import CommandError, print_result
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.cli.text import format_count, format_percent, print_line
from chain.files import write_atomically
from chain.genesis import load_genesis
from chain.state.sequential_test import PPM
from p2p.runtime import RealRuntime
from serving.backends.backend import Backend, BackendError
from serving.backends.openai_compatible import OpenAICompatibleBackend
from serving.config.build import build_backend, build_identity
from serving.config.data_directory import CONFIG_FILE, GENESIS_FILE
from serving.config.file import load_config
from serving.config.models import EmbeddedModel
from serving.quality.same_model.calibration import (
    CONFIDENCE,
    MIN_CHECKS,
    Calibration,
    calibrate,
    judge_limits,
)
from serving.quality.same_model.checking import CheckRun, make_request, record_answer, run_checks
from serving.quality.same_model.engines import find_scorer
from serving.quality.same_model.identity import ModelIdentity
from serving.quality.same_model.one_token import LlamaCppScorer
from serving.quality.same_model.prompts import draw_prompts
from serving.quality.same_model.scoring import POSITIONS, ScoringError

START_TIMEOUT_S = 120.0
"""Seconds until a backend has to answer."""
MANY_CHECKS = 1000
"""Checks that a long honest past has, for the table."""
PARALLEL = 4
"""Concurrent checks, so that answers are computed in batches, as for users."""


def calibrate_check(
    data_dir: DataDir = None,
    model: Annotated[
        str | None, typer.Option(help="Which of the models in config.yaml (default: the first one).")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A second backend with the same weights, which answers; yours scores."),
    ] = None,
    against_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable with the API key of that backend.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=MIN_CHECKS, help="Answers to check.")] = 200,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 48,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Of every other answer; the rest are drawn at 0.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the prompts, the answers and the positions.")] = 7,
    out: Annotated[Path | None, typer.Option(help="File to write the proposed thresholds to, as JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check honest answers of a backend, and propose the thresholds of the same-model check."""
    if against_key_env is not None and against is None:
        raise CommandError("--against-key-env names the key of the backend that --against names")
    path = (data_dir or get_default_data_dir()) / CONFIG_FILE
    own, second, identity = _build_own(path, model)
    other = second if against is None else _build_other(against, against_key_env)
    drawn = [(prompt, temperature * (number % 2)) for number, prompt in enumerate(draw_prompts(seed, prompts))]
    try:
        engine, name, run = trio.run(partial(_measure, own, other, model, drawn, tokens, seed))
    except* (ScoringError, BackendError) as group:
        raise CommandError(f"cannot calibrate: {_get_first(group)}") from group
    if len(run.measurements) < MIN_CHECKS:
        reasons = "; ".join(reason for reason, _ in run.left_out.most_common(1))
        checked = f"{len(run.measurements)} of {format_count(prompts, 'answer')} could be checked"
        raise CommandError(f"cannot calibrate: {checked}, and {MIN_CHECKS} are needed: {reasons}")
    calibration = calibrate(run.measurements)
    if identity is not None and identity.engine != engine:
        raise CommandError(f"the identity of {identity.model!r} names {identity.engine}, and the engine is {engine}")
    digest = None if identity is None else identity.digest.hex()
    content = {"model": name, "engine": engine, "identity": digest, "positions": POSITIONS, **asdict(calibration)}
    if not as_json:
        _show(engine, run, calibration)
        _show_network(path.parent / GENESIS_FILE, run)
        if identity is not None:
            print_line(f"identity {digest} of {identity.model}: weights {identity.weights.hex()}")
    if out is not None:
        try:
            write_atomically(out, json.dumps(content, indent=1).encode() + b"\n")
        except OSError as error:
            raise CommandError(f"cannot write {out}: {error.strerror}") from error
    print_result(content, as_json, *(() if out is None else (f"wrote {out}",)))


def _build_own(path: Path, model: str | None) -> tuple[Backend, Backend | None, ModelIdentity | None]:
    """The backend of the configuration that serves ``model``, or the first one; its double, if it can have one; and
    the identity that is configured for it.

    Raises:
        CommandError: there is none.
        ConfigError: the configuration cannot be used.
    """
    for entry in load_config(path).models:
        backend = build_backend(entry, RealRuntime())
        if model is None or not backend.models or model in backend.models:
            double = build_backend(entry, RealRuntime()) if isinstance(entry, EmbeddedModel) else None
            return backend, double, build_identity(entry, path.parent)
    raise CommandError(f"{path} names no {'backend' if model is None else f'model {model!r}'}")


def _build_other(url: str, key_variable: str | None) -> Backend:
    """The second backend.

    Raises:
        CommandError: there is no such URL or key.
    """
    key = None if key_variable is None else os.environ.get(key_variable)
    if key_variable is not None and not key:
        raise CommandError(f"--against-key-env: {key_variable} is not set")
    try:
        return OpenAICompatibleBackend(url, api_key=key)
    except ValueError as error:
        raise CommandError(f"--against: {error}") from None


async def _measure(
    own: Backend, other: Backend | None, model: str | None, drawn: list[tuple[str, float]], tokens: int, seed: int
) -> tuple[str, str, CheckRun]:
    """Check an answer to each of the prompts. Returns the engine of the scorer, the model, and what was found.

    Raises:
        ScoringError, BackendError: a backend cannot be used.
    """
    async with trio.open_nursery() as nursery:
        for backend in (own, *([other] if other is not None else ())):
            nursery.start_soon(backend.run)
            with trio.move_on_after(START_TIMEOUT_S) as waiting:
                await backend.wait_alive()
            if waiting.cancelled_caught:
                whose = "second" if backend is other else "own"
                raise BackendError(f"the {whose} backend does not answer")
        name = _choose_model(own, model)
        answering = other or own
        # Two servers may call the same weights by different names.
        answering_name = _choose_model(answering, name if name in answering.models else None)
        scorer = await find_scorer(own, name)
        if other is None and scorer.engine == LlamaCppScorer.engine:
            raise ScoringError("llama.cpp would score its own answers from its cache: name a second server (--against)")
        requests = [
            make_request(answering_name, prompt, max_tokens=tokens, temperature=temperature, seed=seed + number)
            for number, (prompt, temperature) in enumerate(drawn)
        ]
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("checking", total=len(requests))
            run = await run_checks(
                partial(record_answer, answering),
                scorer,
                requests,
                seed,
                parallel=PARALLEL,
                note=partial(progress.advance, task),
            )
        nursery.cancel_scope.cancel()
    return scorer.engine, name, run


def _choose_model(backend: Backend, wanted: str | None) -> str:
    """The model of a backend that is called so, or the first one if any will do.

    Raises:
        BackendError: it has none of that name.
    """
    if wanted is None or wanted in backend.models:
        return wanted or backend.models[0]
    raise BackendError(f"the backend has no model {wanted!r}, but {', '.join(backend.models)}")


def _get_first(group: BaseExceptionGroup[Exception]) -> BaseException:
    """One of the errors in a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _show_network(path: Path, run: CheckRun) -> None:
    """What the answers make of the limits of the chain that the node belongs to, if there is one with checks."""
    parameters = load_genesis(path).parameters if path.exists() else None
    if parameters is None or not parameters.duels.rate or not parameters.checks.checkers:
        return
    for name, limit in zip(("shortfall", "distance"), judge_limits(run.measurements, parameters.checks), strict=True):
        bound, granted = format_percent(limit.bound_ppm / PPM), format_percent(limit.honest_ppm / PPM)
        print_line(
            f"the network's limit of the {name}, {limit.threshold:g}, {limit.holds.value}: {limit.above} of "
            f"{format_count(limit.checks, 'honest check')} are above it, so at most {bound}; {granted} are granted"
        )


def _show(engine: str, run: CheckRun, calibration: Calibration) -> None:
    table = Table("statistic", box=None)
    for heading in ("median", "95 %", "largest", "threshold", "honest failures", "failures that prove"):
        table.add_column(heading, justify="right")
    test = calibration.test
    rows = (
        ("shortfall", calibration.shortfall, test.shortfall, [each.shortfall for each in run.measurements]),
        ("distance", calibration.distance, test.distance, [each.distance for each in run.measurements]),
    )
    for name, limit, sequence, values in rows:
        values.sort()
        shown = [values[len(values) // 2], values[int(0.95 * len(values))], values[-1], limit.threshold]
        failures = f"{sequence.count_failures_needed()}-{sequence.count_failures_needed(passed=MANY_CHECKS)}"
        honest = f"≤ {format_percent(limit.honest_ppm / PPM)}"
        table.add_row(name, *(f"{value:.4f}" for value in shown), honest, failures)
    Console(width=120).print(table)
    print_line(f"{format_count(calibration.checks, 'honest check')} by {engine}; bounds at {CONFIDENCE:.0%} confidence")
    print_line(
        f"failures that prove a substitution in a row, at once and after {MANY_CHECKS:,} checks that were passed; an "
        "honest node is ever found guilty with a probability of at most 0.0001"
    )
    for reason, count in run.left_out.most_common():
        print_line(f"left out: {format_count(count, 'answer')}: {reason}")
