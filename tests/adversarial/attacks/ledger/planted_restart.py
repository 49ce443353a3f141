"""A data directory whose genesis accepts a restart that its author made up, handed to an auditor."""

from __future__ import annotations

import tempfile
from pathlib import Path

from typer.testing import CliRunner

from chain.cli.app import build_app
from chain.store.kv import LevelStore
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.chains.chain_store import fill_store
from tests.support.chains.restarted_chain import append_after, go_on, make_halted, propose


def run() -> Outcome:
    """Two of four validators strike off the others, and write so into the genesis beside their blocks."""
    chain = make_halted()
    finals = {height: chain.finality(chain.blocks[height - 1]) for height in (4, 6)}
    finals[7] = go_on(chain, propose(chain))
    finals[8] = chain.finality(append_after(chain, finals[7]))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        store = LevelStore(path / "chain")
        fill_store(store, chain, finals)
        store.close()
        genesis = path / "genesis.json"
        genesis.write_text(chain.genesis.to_json())
        audit = CliRunner().invoke(build_app(), ["verify", directory])
        named = CliRunner().invoke(build_app(), ["verify", directory, "--genesis", str(genesis)])
    assert named.exit_code == 0 and "TRUST BREAK" in named.stdout, named.stdout  # nothing else is wrong with it
    return Outcome(0, int(audit.exit_code == 0), 0, audit.stdout.partition(":")[0], "audits deceived")


ATTACK = Attack(
    "a directory that its auditor did not write names its own restart as accepted",
    before=Outcome(0, 1, 0, "ok, beside TRUST BREAK", "audits deceived"),
    run=run,
)
