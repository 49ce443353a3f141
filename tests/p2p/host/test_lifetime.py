"""What a host does as long as it runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import trio

from p2p.host.lifetime import Lifetime, RunningHost


def test_a_task_begins_while_the_host_runs_and_never_after_it() -> None:
    began: list[str] = []

    async def begin(name: str) -> None:
        began.append(name)

    async def main() -> None:
        lifetime = Lifetime()
        lifetime.start_soon(begin, "before")
        async with trio.open_nursery() as nursery:
            lifetime.running = cast(RunningHost, SimpleNamespace(nursery=nursery))
            lifetime.start_soon(begin, "meanwhile")
        lifetime.start_soon(begin, "after its last task")

    trio.run(main)
    assert began == ["meanwhile"]
