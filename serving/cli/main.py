"""The entry points of the installed commands."""

from __future__ import annotations

from serving.cli.errors import run_app


def main() -> None:
    """Entry point of the ``wwwserve`` command."""
    from serving.cli.app import build_wwwserve_app

    run_app(build_wwwserve_app())


def chain_main() -> None:
    """Entry point of the ``chain`` command."""
    from serving.cli.ledger.chain import build_chain_app

    run_app(build_chain_app())


if __name__ == "__main__":
    main()
