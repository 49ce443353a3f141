"""How a command line ends: one line for an error of its user, a traceback for a defect."""

from __future__ import annotations

import pytest
import typer

from chain.exceptions import StoreDamaged
from p2p.network import NetworkError
from serving.cli.errors import REPAIR, CommandError, run_app


def run(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command that raises ``error``."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["wwwserve"])
    run_app(app)


@pytest.mark.parametrize(
    "error",
    [
        CommandError("do this"),
        NetworkError("do this"),
        ExceptionGroup("g", [CommandError("do this")]),
        ExceptionGroup("g", [ExceptionGroup("h", [NetworkError("do this")]), CommandError("and that")]),
    ],
)
def test_an_error_of_the_user_is_one_line(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(error, monkeypatch)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: do this\n"


def test_who_owns_a_damaged_database_is_told_how_a_node_repairs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(ExceptionGroup("g", [StoreDamaged("block 3 is missing")]), monkeypatch)
    assert capsys.readouterr().err == f"error: block 3 is missing; {REPAIR}\n"


@pytest.mark.parametrize(
    "error", [KeyError("defect"), ExceptionGroup("g", [CommandError("do this"), KeyError("defect")])]
)
def test_a_defect_is_not_hidden(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(type(error)):
        run(error, monkeypatch)
