"""Half of the validators are gone for good; the owners of the other half go on with the commands made for that."""

from __future__ import annotations

from pathlib import Path

from tests.support.cluster import SHORT_EPOCHS, ClusterNode, run_cluster
from tests.support.commands import run_here
from tests.support.waiting import wait_until


def test_the_chain_goes_on_by_decree_and_the_audit_says_so(tmp_path: Path) -> None:
    with run_cluster(tmp_path, parameters=SHORT_EPOCHS) as cluster:
        one, two, *gone = cluster.nodes
        one.transfer(two, 1_000_000)
        for node in gone:
            node.kill()
        running = run_here("chain", "restart", "show", tmp_path / "nothing", "-d", one.directory)
        assert running.code == 1 and "cannot read" in running.stderr
        file = tmp_path / "restart.file"
        strike = [part for node in gone for part in ("--remove", node.address)]
        refused = run_here("chain", "restart", "propose", file, *strike, "-d", one.directory)
        assert refused.code == 1 and "in use" in refused.stderr
        for node in (one, two):
            assert node.stop() == 0
        longest, other = sorted((one, two), key=get_height, reverse=True)
        if get_height(longest) > get_height(other):  # what one has final, the other must have first
            catch_up(longest, other)

        def restart(*arguments: object, at: ClusterNode) -> str:
            done = run_here("chain", "restart", *arguments, "-d", at.directory)
            assert done.code == 0, done
            return done.stdout

        assert "remain     2 validators with 50.0%" in restart("propose", file, *strike, at=longest)
        again = run_here("chain", "restart", "propose", file, *strike, "-d", longest.directory)
        assert again.code == 1 and "exists already" in again.stderr
        second = run_here("chain", "restart", "propose", tmp_path / "second", *strike, "-d", longest.directory)
        assert second.code == 1 and "signed another restart" in second.stderr
        early = run_here("chain", "restart", "apply", file, "--yes", "-d", longest.directory)
        assert early.code == 1 and "more than 2/3" in early.stderr
        assert "signed     100.0%" in restart("sign", file, at=other)
        for node in (one, two):
            assert "restarted" in restart("apply", file, "--yes", at=node)
        before = get_height(one)
        for node in (one, two):
            node.start()
        cluster.wait_ready([one, two])
        assert one.transfer(two, 1_000_000) > before
        for node in (one, two):
            assert node.stop() == 0
        export = tmp_path / "export"
        assert run_here("chain", "export", export, "-d", one.directory).code == 0
        genesis = one.directory / "genesis.json"
        for target in (one.directory, export):
            doubt = run_here("chain", "verify", target)
            assert doubt.code == 5 and "restarted here without a quorum" in doubt.stdout, doubt
            assert "accepted by no genesis file" in doubt.stdout
            trust = run_here("chain", "verify", target, "--genesis", genesis)
            assert trust.code == 0 and "TRUST BREAK" in trust.stdout and f"accepted by {genesis}" in trust.stdout, trust


def get_height(node: ClusterNode) -> int:
    with node.blocks() as blocks:
        return blocks.height


def catch_up(ahead: ClusterNode, behind: ClusterNode) -> None:
    """Run both until the one has what the other has."""
    height = get_height(ahead)
    for node in (ahead, behind):
        node.start()
    wait_until(lambda: behind.is_healthy() and behind.height >= height, "it does not catch up")
    for node in (ahead, behind):
        assert node.stop() == 0
