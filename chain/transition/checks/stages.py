"""The stages of a check. As with duels, one ends when all it waits for has come, or with the first block at or after
its deadline."""

from __future__ import annotations

from dataclasses import replace

from chain.parameters.checks import CheckParameters
from chain.state.check_records import CHECK_COMMIT, CHECK_REVEAL, ModelCheck
from chain.state.keys import CHECK_PREFIX, check_key
from chain.state.state import StateOverlay
from chain.transition.deadlines import add_deadline


def enter_stage(
    overlay: StateOverlay, parameters: CheckParameters, hold_id: bytes, check: ModelCheck, stage: int, now: int
) -> ModelCheck:
    """Store a check that begins a stage at chain time ``now``, and the deadline of that. Returns the check."""
    length = {CHECK_COMMIT: parameters.commit_ms, CHECK_REVEAL: parameters.reveal_ms}[stage]
    check = replace(check, stage=stage, ends_at=now + length)
    add_deadline(overlay, stage, hold_id, check.ends_at)
    overlay.put(check_key(hold_id), check)
    return check


def list_complete(overlay: StateOverlay) -> list[tuple[bytes, ModelCheck]]:
    """The checks whose stage this block has completed, by hold."""
    changed = sorted(key for key in overlay.changes if key[:1] == CHECK_PREFIX)
    checks = [(key[1:], overlay.model_check(key[1:])) for key in changed]
    return [(hold_id, check) for hold_id, check in checks if check is not None and check.is_stage_complete]
