"""``wwwserve doctor``: what is wrong with a node, running or not, and what mends it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chain.cli.contract import ExitCode, print_result
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.cli.text import format_count
from chain.printable import escape_unprintable
from serving.admin.health.self_checks import Finding
from serving.admin.health.troubles import Severity, describe_mend
from serving.cli.doctor.checks import examine
from serving.cli.running.status import SEVERITY_MARKS


def doctor(
    data_dir: DataDir = None,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write findings, reports and log into an archive, without any secret."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong with the node, running or not, and say what mends it.

    Exit code 1 if there is a problem.
    """
    directory = data_dir or get_default_data_dir()
    found = examine(directory)
    severities = [each.trouble.severity for each in found if each.trouble is not None]
    problems, advice = severities.count(Severity.PROBLEM), severities.count(Severity.ADVICE)
    content = {"problems": problems, "advice": advice, "findings": [each.to_plain() for each in found]}
    summary = f"{format_count(problems, 'problem')}, {advice} advice" if problems or advice else "all is well"
    lines = [*(line for each in found for line in _describe(each)), summary]
    if bundle is not None:
        from serving.cli.doctor.bundle import write_bundle

        names = write_bundle(directory, content, bundle)
        lines.append(f"written to {bundle}: {', '.join(names)}; look through it before you give it away")
    print_result(content, as_json, *lines)
    raise typer.Exit(ExitCode.FAILED if problems else ExitCode.OK)


def _describe(finding: Finding) -> list[str]:
    trouble = finding.trouble
    text, mark = (finding.text, "✓") if trouble is None else (trouble.text, SEVERITY_MARKS[trouble.severity])
    first, *more = escape_unprintable(text, keep="\n").splitlines() or [""]
    lines = [f"{mark} {finding.subject:<11}  {first}", *(f"{'':15}{line}" for line in more)]
    if trouble is not None:
        lines.append(f"{'':15}→ {escape_unprintable(describe_mend(trouble.mend, trouble.command))}")
    return lines
