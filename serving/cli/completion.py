"""``wwwserve completion``: the script by which a shell completes commands and options."""

from __future__ import annotations

from typing import Annotated

import typer

from chain.cli.contract import CommandError, ExitCode, print_result
from chain.cli.options import AsJson

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
PROGRAMS = ("wwwserve", "chain")


def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh, fish, powershell or pwsh.")],
    program: Annotated[str, typer.Option(help="The command to complete: wwwserve or chain.")] = "wwwserve",
    as_json: AsJson = False,
) -> None:
    """Print what makes a shell complete commands and options."""
    from typer._completion_shared import get_completion_script

    if shell not in SHELLS or program not in PROGRAMS:
        known = f"one of {', '.join(SHELLS)}, for one of {', '.join(PROGRAMS)}"
        raise CommandError(f"no completion of {program!r} for {shell!r}; expected {known}", code=ExitCode.USAGE)
    script = get_completion_script(prog_name=program, complete_var=f"_{program.upper()}_COMPLETE", shell=shell)
    print_result({"script": script}, as_json, script)
