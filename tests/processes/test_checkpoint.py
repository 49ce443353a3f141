"""A node process that begins with a state over real libp2p, prunes, is audited, and refuses a false checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from chain.genesis import load_genesis
from serving.config.file import load_config
from tests.support.cluster import SHORT_EPOCHS, run_cluster
from tests.support.commands import run_here
from tests.support.waiting import wait_until


def test_a_new_node_begins_with_the_state_at_a_checkpoint(tmp_path: Path) -> None:
    with run_cluster(tmp_path, 1, parameters=SHORT_EPOCHS, config=lambda _: {"block_spacing_ms": 10}) as cluster:
        (first,) = cluster.nodes
        cluster.wait_ready()
        guest = cluster.add_guest("late", {})
        sent = 0
        while first.height < 41:  # an epoch has 20 heights
            first.transfer(guest, 1)
            sent += 1
        checkpoint = first.ask("/status")["checkpoint"]
        assert re.fullmatch(r"40:[0-9a-f]{64}", checkpoint)
        guest.write_config(
            {
                **yaml.safe_load((guest.directory / "config.yaml").read_text()),
                "checkpoint": checkpoint,
                "keep_epochs": 1,
            }
        )
        guest.start()
        wait_until(lambda: guest.is_healthy() and guest.height >= first.height, "it does not catch up")
        height = first.transfer(guest, 1)
        wait_until(lambda: guest.height >= height, "it does not follow")
        assert guest.ask("/wallet")["available"] == sent + 1, "with what it was sent before its first block"
        guest.stop()
        with guest.blocks() as blocks:
            base = blocks.base.height  # the end of one of the two epochs whose states a node serves
            assert base in (20, 40) and blocks.raw_block(base) is None and blocks.raw_block(base + 1) is not None
        result = run_here("chain", "verify", guest.directory)
        assert f"FROM BLOCK   {base} on; the blocks before are not here" in result.output
        report = json.loads(run_here("chain", "verify", "--json", guest.directory).output)
        assert report["base"]["height"] == base
        if report["base"]["is_proven"]:  # it was too slow for the state at the checkpoint, and came there by blocks
            assert report["ok"] and "proved final by the validators of every epoch since genesis" in result.output
        elif base == 40:
            assert f"trusted because of the checkpoint {checkpoint}" in result.output
            assert report["ok"] and report["checkpoint"] == checkpoint
            doubt = run_here("chain", "verify", guest.directory, "--genesis", guest.directory / "genesis.json")
            assert doubt.code == 6 and "NOT PROVEN" in doubt.stdout
            assert report["base"] == {"height": 40, "block_id": checkpoint[3:], "is_proven": False}
        # The rest of the chain has no room for another block 40.
        false = f"40:{'ab' * 32}"
        guest.write_config({**yaml.safe_load((guest.directory / "config.yaml").read_text()), "checkpoint": false})
        guest.start()
        assert guest.wait() == 1
        assert "contradicts block 40" in guest.log


@pytest.mark.parametrize(
    ("checkpoint", "reason"),
    [
        ("20", "expected HEIGHT:BLOCKID"),
        ("0:" + "ab" * 32, "genesis needs no checkpoint"),
        ("x:" + "ab" * 32, "number"),
    ],
)
def test_init_refuses_what_is_no_checkpoint(checkpoint: str, reason: str, tmp_path: Path) -> None:
    run_here("init", "-d", tmp_path / "one", "--new-chain", "mine")
    genesis = tmp_path / "one" / "genesis.json"
    words = ("init", "-d", tmp_path / "two", "--genesis", genesis, "--checkpoint")
    result = run_here(*words, checkpoint)
    assert result.code == 1 and reason in result.stderr and not (tmp_path / "two").exists()


def test_init_writes_the_checkpoint_into_the_configuration(tmp_path: Path) -> None:
    run_here("init", "-d", tmp_path / "one", "--new-chain", "mine")
    genesis = tmp_path / "one" / "genesis.json"
    good = "7:" + "ab" * 32
    run_here("init", "-d", tmp_path / "two", "--genesis", genesis, "--checkpoint", good)
    checkpoint = load_config(tmp_path / "two" / "config.yaml").get_checkpoint()
    assert checkpoint is not None and str(checkpoint) == good
    assert load_genesis(tmp_path / "two" / "genesis.json") == load_genesis(genesis)
    result = run_here("init", "-d", tmp_path / "three", "--new-chain", "x", "--checkpoint", good)
    assert result.code == 1 and "goes with --genesis" in result.stderr
