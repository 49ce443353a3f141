"""A validator is lost with its machine and restored from a backup on another one, while the chain goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chain.parameters.parameters import CREDIT
from tests.support.cluster import SHORT_EPOCHS, run_cluster
from tests.support.forked import run_command
from tests.support.waiting import wait_until


@pytest.mark.long
def test_a_restored_validator_waits_and_then_votes_and_is_not_punished(tmp_path: Path) -> None:
    with run_cluster(tmp_path / "cluster", parameters=SHORT_EPOCHS) as cluster:
        *others, lost = cluster.nodes
        file = tmp_path / "node.backup"
        taken = run_command("backup", file, "-d", lost.directory)  # while it runs
        assert taken.code == 0, taken
        others[0].transfer(others[1], 1)
        lost.kill()
        restored = replace(lost, directory=tmp_path / "restored")
        assert run_command("restore", file, "-d", restored.directory).code == 0
        cluster.nodes[-1] = restored
        restored.start()
        cluster.wait_ready([restored])
        assert "this validator may have forgotten votes" in restored.log

        def votes() -> bool:
            others[0].transfer(others[1], 1)  # the epochs have heights, and the chain rests without work
            return "this validator votes again" in restored.log

        wait_until(votes, "it does not vote again")
        # The former machine comes back: it finds on the chain that it votes no more.
        restored.kill()
        lost.start()
        wait_until(lambda: "takes over its votes" in lost.log, "it does not find out")
        wait_until(
            lambda: "handed_over" in {each["code"] for each in lost.ask("/status")["troubles"]}, "it does not say so"
        )
        assert (
            "another machine with this key has taken over the votes"
            in run_command("doctor", "-d", lost.directory).stdout
        )
        assert lost.stop() == 0
        again = run_command("chain", "verify", lost.directory)
        assert again.code == 0, again
        with lost.blocks() as blocks:
            record = blocks.state.validator_record(lost.key.public_key)
            account = blocks.state.account(lost.key.public_key)
        assert record is not None and account.bonded == 1_000 * CREDIT, "it lost its bond"
