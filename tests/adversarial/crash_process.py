"""Four validators on real files in one process, which may kill itself: ``python -m … DIRECTORY NUMBER AFTER``.

It dies by SIGKILL at durable write ``NUMBER`` of the four together (0: never), before it or (``AFTER`` = 1) right after
it. What was sent and what was called final goes to the file ``said``, which the next run reads first and must not
contradict.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import trio

from chain.blocks import Block, Header
from chain.votes import Vote
from consensus.repair import CHAIN, JOURNAL, DataDisk
from p2p.runtime import SimulatedRuntime, run_simulation
from tests.adversarial.crash import ALL, GENESIS, PAYER, CrashWorld, Reaper, pay
from tests.consensus.world import make_key
from tests.simulation.checkers import AgreementChecker, VoteChecker


def main(directory: Path, number: int, after: bool) -> None:
    """Run until the write, or until a few operations are final."""
    said = directory / "said"
    lines = said.read_text().splitlines() if said.exists() else []
    log = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    class Votes(VoteChecker):
        def on_sent(self, vote: Vote) -> None:
            os.write(log, f"vote {vote.encode().hex()}\n".encode())
            super().on_sent(vote)

    class Finals(dict[int, Header]):
        def __setitem__(self, node: int, header: Header) -> None:
            os.write(log, f"final {node} {header.encode().hex()}\n".encode())
            super().__setitem__(node, header)

    class Chain(AgreementChecker):
        def on_final(self, name: str, block: Block) -> None:
            super().on_final(name, block)
            assert not self.violations, self.violations

    async def play() -> None:
        async with trio.open_nursery() as nursery:
            world = CrashWorld(GENESIS, nursery, seed=len(lines), is_outage=True)
            before = VoteChecker()
            for line in lines:
                kind, *rest = line.split()
                if kind == "vote":
                    vote = Vote.decode(bytes.fromhex(rest[0]))
                    before.on_durable(vote)
                    before.on_sent(vote)
                else:
                    world.finals[int(rest[0])] = Header.decode(bytes.fromhex(rest[1]))
            world.votes, world.chain = Votes(before.votes, before.violations, before.durable), Chain()
            world.finals = Finals(world.finals)
            await nursery.start(world.hub.run)
            reaper = Reaper(number, after)
            for each in ALL:
                home = directory / f"node{each}"
                home.mkdir(exist_ok=True)
                world.add_disk(each, DataDisk(home, lambda: SimulatedRuntime.EPOCH), reaper)
            reaper.on_kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
            await world.keep_up(*ALL)
            world.nonces[PAYER] = max(get_nonce(world, each) for each in ALL)
            await pay(world, 3)
            assert world.violations == []
            for each in ALL:
                assert {path.name for path in (directory / f"node{each}").iterdir()} == {CHAIN, JOURNAL}
            world.check_same_chain()
            nursery.cancel_scope.cancel()

    run_simulation(len(lines), play)


def get_nonce(world: CrashWorld, node: int) -> int:
    """The payer's next, as far as a node knows."""
    return world.engine(node).state.account(make_key(PAYER).public_key).nonce


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1")
