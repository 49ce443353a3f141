"""The commands ``wwwserve judge``: how well the owner's own backend judges, and the prompt that it is given."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import trio
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from chain.cli.contract import CommandError, print_result
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.cli.text import format_percent, print_line
from chain.cli.tree import Entry, build_group
from serving.config.data_directory import CONFIG_FILE
from serving.config.fields import Section
from serving.config.file import describe_errors, load_config
from serving.config.models import EmbeddedModel, OpenAIModel
from serving.config.schema import JudgeConfig

if TYPE_CHECKING:
    from serving.cli.quality.judge_run import JudgeReport, OnProgress
    from serving.quality.judging.measurement import Proportion, Recommendation

S = TypeVar("S", bound=Section)

QUICK_STEP = 4
"""Of how many cases ``--quick`` takes one."""
DEFAULT_SEED = 7
"""Seed of all that is drawn, unless another is named."""
TABLE_COLUMNS = 120
"""Width of the table."""


def build_judge_app() -> typer.Typer:
    """The commands."""
    entries = {
        "test": Entry(
            "Measure how well a backend judges, and say whether to judge with it.",
            lambda: test,
            ("wwwserve judge test --quick",),
        ),
        "prompt": Entry(
            "Print the judging prompt in force, to begin one of your own with.",
            lambda: show_prompt,
            ("wwwserve judge prompt",),
        ),
    }
    return build_group(entries, "Comparing answers of other nodes with your own backend.")


def test(
    data_dir: DataDir = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="A server with OpenAI's API, in place of the node's backends.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable with the API key of that server.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model that judges; default: the first.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="A judging prompt to try.")] = None,
    form: Annotated[str | None, typer.Option(help="How it replies: auto, json or letter.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A quarter of the cases.")] = False,
    parallel: Annotated[int, typer.Option(min=1, help="Trials at a time, up to the capacity of the backend.")] = 4,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of all that is drawn.")] = DEFAULT_SEED,
    as_json: AsJson = False,
) -> None:
    """Measure how well a backend judges, and say whether to judge with it.

    It asks 436 short questions whose right ballots are known, a quarter of them with --quick.
    """
    if url is not None and data_dir is not None:
        raise CommandError("--url takes the place of the node's backends: give it without -d")
    if api_key_env is not None and url is None:
        raise CommandError("--api-key-env goes with --url; the keys of the node's backends are in its configuration")
    directory = data_dir or get_default_data_dir()
    entries: tuple[EmbeddedModel | OpenAIModel, ...]
    if url is not None:
        entries = (_read_options(OpenAIModel, {"kind": "openai", "base_url": url, "api_key_env": api_key_env}),)
        chosen = JudgeConfig()
    else:
        config = load_config(directory / CONFIG_FILE)
        entries, chosen = config.models, config.judge
    given = {name: value for name, value in (("model", model), ("form", form)) if value is not None}
    chosen = _read_options(JudgeConfig, {**chosen.model_dump(), **given})
    if not entries:
        raise CommandError(f"{directory / CONFIG_FILE} names no backend, so there is none to judge with")
    if prompt_file is not None:
        chosen = chosen.model_copy(update={"prompt_file": str(prompt_file.absolute())})
    prompt = chosen.load_prompt(directory)

    from serving.cli.quality.judge_run import measure_judge

    async def run() -> JudgeReport:
        with _showing_progress() as on_progress:
            return await measure_judge(
                entries,
                chosen,
                prompt,
                seed=seed,
                step=QUICK_STEP if quick else 1,
                parallel=parallel,
                on_progress=on_progress,
            )

    _print_report(trio.run(run), as_json)
    if quick and not as_json:
        print_line("A quarter of the cases leaves wide intervals: decide by a run without --quick.")


def show_prompt(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print the judging prompt in force, to begin one of your own with."""
    directory = data_dir or get_default_data_dir()
    path = directory / CONFIG_FILE
    config = load_config(path).judge if path.exists() else JudgeConfig()
    config.load_prompt(directory)  # one that cannot be used is an error
    prompt = config.read_prompt(directory)
    if as_json:
        print_result({"prompt": prompt.decode()}, as_json)
    else:
        sys.stdout.buffer.write(prompt)


def _read_options(section: type[S], values: dict[str, Any]) -> S:
    """A section of the configuration from options. Raises CommandError, naming the option at fault."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        path, reason = next(describe_errors(error, section))
        option = {"base_url": "url"}.get(str(path[0]), str(path[0])).replace("_", "-")
        raise CommandError(f"--{option}: {reason}") from None


@contextmanager
def _showing_progress() -> Iterator[OnProgress]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("trials", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield show


def _print_report(report: JudgeReport, as_json: bool) -> None:
    from serving.quality.judging.measurement import Recommendation, recommend

    advice, reasons = recommend(report.measured)
    if not report.refuses_long:
        advice, reasons = Recommendation.NONE, ["it shortens long prompts without saying so", *reasons]
    if as_json:
        print_line(json.dumps(_to_plain(report, advice, reasons)))
        return
    print_line(f"model    {report.model}, replies: {report.form.value}")
    print_line(f"prompt   {report.prompt.digest.hex()}")
    print_line(f"trials   {report.trials} in {report.elapsed_s:.0f} s, seed {report.seed}")
    table = Table("", "measured", "95 % interval", "bar", "cases", box=None)
    for name, found, bar in _make_rows(report):
        low, high = found.interval
        table.add_row(
            name,
            format_percent(found.share) if found.cases else "-",
            f"{format_percent(low)} to {format_percent(high)}" if found.cases else "-",
            bar,
            str(found.cases),
        )
    Console(width=TABLE_COLUMNS).print(table)
    for reason, number in report.measured.reasons.items():
        print_line(f"abstained {number} times: {reason.value}")
    print_line("")
    for text in reasons:
        print_line(f"- {text}")
    print_line(f"recommendation: {_ADVICE[advice.name]}")


_ADVICE = {
    "STRONG": "strong. Judge with it, in one order.",
    "WEAK": "weak. Judge with it in both orders only.",
    "NONE": "do not judge with this.",
}
"""What to do, by recommendation."""


def _make_rows(report: JudgeReport) -> Iterator[tuple[str, Proportion, str]]:
    """What was measured, and the bar for it."""
    from serving.quality.judging import measurement as bars

    def at_least(share: float) -> str:
        return f"at least {format_percent(share)}"

    def at_most(share: float) -> str:
        return f"at most {format_percent(share)}"

    measured = report.measured
    yield "same ballot in both orders", measured.consistency, at_least(bars.MIN_CONSISTENCY)
    yield "other ballot when asked again", measured.repeat_differences, at_most(bars.MAX_REPEAT_DIFFERENCES)
    yield "abstentions", measured.abstentions, at_most(bars.MAX_ABSTENTIONS)
    yield "sound answer found better than a broken one", measured.sound_preferred, "above 50 %, with certainty"
    yield "broken answer called unusable", measured.unusable_found, at_least(bars.MIN_UNUSABLE_FOUND)
    yield "broken answer alone called unusable", measured.solo_found, ""
    yield "sound answer called unusable", measured.false_alarms, at_most(bars.MAX_FALSE_ALARMS)
    yield "sound answer alone called unusable", measured.solo_false_alarms, at_most(bars.MAX_FALSE_ALARMS)
    yield "fooled by an injection", measured.fooled, at_most(bars.MAX_FOOLED)
    for family, found in measured.fooled_by.items():
        yield f"  {family}", found, ""
    yield "fooled by an answer that says nothing", measured.null_wins, at_most(bars.MAX_FOOLED)
    yield "padding wins against the same without", measured.padded_wins, at_most(bars.MAX_PADDED_WINS)


def _to_plain(report: JudgeReport, advice: Recommendation, reasons: list[str]) -> dict[str, Any]:
    """The report as JSON data."""

    def plain(found: Proportion) -> dict[str, Any]:
        low, high = found.interval
        return {"share": found.share, "low": low, "high": high, "cases": found.cases}

    measured = report.measured
    names = (
        "consistency", "repeat_differences", "abstentions", "sound_preferred", "unusable_found", "solo_found",
        "false_alarms", "solo_false_alarms", "fooled", "null_wins", "padded_wins",
    )  # fmt: skip
    return {
        "model": report.model,
        "form": report.form.value,
        "prompt": report.prompt.digest.hex(),
        "seed": report.seed,
        "trials": report.trials,
        "elapsed_s": round(report.elapsed_s, 1),
        "refuses_long": report.refuses_long,
        **{name: plain(getattr(measured, name)) for name in names},
        "fooled_by": {family: plain(found) for family, found in measured.fooled_by.items()},
        "abstained": {reason.name.lower(): number for reason, number in measured.reasons.items()},
        "recommendation": advice.value,
        "reasons": reasons,
    }
