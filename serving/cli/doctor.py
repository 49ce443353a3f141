"""``wwwserve doctor``: what is wrong with a node, running or not, and what mends it."""

from __future__ import annotations

from dataclasses import asdict

import typer

from chain.cli.contract import ExitCode, print_result
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.cli.text import format_count
from chain.printable import escape_unprintable
from serving.cli.doctor_checks import Finding, Level, examine

MARKS = {Level.OK: "✓", Level.ADVICE: "!", Level.PROBLEM: "✗"}


def doctor(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Look for what is wrong with the node, running or not, and say what mends it.

    Exit code 1 if there is a problem.
    """
    found = examine(data_dir or get_default_data_dir())
    problems = sum(each.level is Level.PROBLEM for each in found)
    advice = sum(each.level is Level.ADVICE for each in found)
    content = {"problems": problems, "advice": advice, "findings": [asdict(each) for each in found]}
    summary = f"{format_count(problems, 'problem')}, {advice} advice" if problems or advice else "all is well"
    print_result(content, as_json, *(line for each in found for line in _describe(each)), summary)
    raise typer.Exit(ExitCode.FAILED if problems else ExitCode.OK)


def _describe(finding: Finding) -> list[str]:
    first, *more = escape_unprintable(finding.text, keep="\n").splitlines() or [""]
    lines = [f"{MARKS[finding.level]} {finding.subject:<11}  {first}", *(f"{'':15}{line}" for line in more)]
    if finding.mend:
        lines.append(f"{'':15}→ {escape_unprintable(finding.mend)}")
    return lines
