"""wwwserve as it is installed: a directory with the packages ``chain``, ``consensus``, ``p2p`` and ``serving``.

Importing this package makes them importable under these names, in this process alone, so that they collide with nothing
else that is installed. The commands begin here; so does a program that uses the packages: ``import wwwserve`` first.
"""

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent)
"""What holds the packages."""

if ROOT not in sys.path:
    sys.path.insert(0, ROOT)


def main() -> None:
    """Entry point of the ``wwwserve`` command."""
    from serving.cli.main import main

    main()


def chain_main() -> None:
    """Entry point of the ``chain`` command."""
    from serving.cli.main import chain_main

    chain_main()
