"""Answers of a node to its owner, in which every name that others chose tries to take over the terminal."""

from __future__ import annotations

from typing import Any

EVIL = "\x1b[2J\x1b[31mall your peers are gone\x1b]0;owned\x07\u202e"
MARKUP = "[/nothing][bold]x[/bold]\nforged row"

NUMBERS = (
    "uptime_s", "height", "final_age_s", "epoch", "epoch_blocks_left", "connected_peers", "known_peers", "available",
    "requests_local", "requests_offloaded", "requests_failed", "requests_refused", "requests_error",
    "offers_served", "held", "bonded", "earned",
)  # fmt: skip
THERE = {"local": True, "executors": 1, "stake": 1, "price": {"completion": "0.000001"}}
CHECKED = {"checks": 3, "shortfall_failures": 1, "distance_failures": 0}
UNMEASURED = {"shortfall": None, "distance": None, "is_substitution": False, "moved": 0}
ANSWERS: dict[str, Any] = {
    "/peers": {
        "peers": [
            {
                "address": EVIL,
                "models": [MARKUP, EVIL],
                "utilization": 0,
                "addresses": [EVIL, MARKUP],
                "connected": False,
                "connected_s": None,
                "round_trip_ms": None,
                "bonded": 0,
            },
        ]
    },
    "/models": {
        "models": [
            {
                "id": EVIL,
                "win_rate": 0.55,
                "duels": 20,
                **THERE,
                "identities": [{"digest": EVIL, "executors": 1, **CHECKED}],
            },
            {"id": MARKUP, "win_rate": None, "duels": 0, **THERE, "identities": []},
        ],
        "backends": [{"place": EVIL, "models": [MARKUP], "is_alive": False, "fault": EVIL}],
    },
    "/status": {
        **dict.fromkeys(NUMBERS, 1),
        **dict.fromkeys(("is_syncing", "is_validator", "serves_others", "can_be_dialled"), False),
        "verdict": "degraded",
        "ending": None,
        "troubles": [
            {"code": "backend", "subject": EVIL, "severity": "problem", "text": EVIL, "mend": MARKUP, "command": EVIL}
        ],
        "version": EVIL,
        "declines": {EVIL: 1},
        "backends": [],
        "models": [MARKUP, EVIL],
        "address": EVIL,
        "listening": [MARKUP],
        "checkpoint": EVIL,
    },
    "/wallet": {"address": EVIL, "models": [MARKUP, EVIL], "available": 5, "income_to_bond": 0},
    "/policy": {"name": EVIL},
    "/duels": {
        "benched_s": 0,
        "duels": [
            {
                "hold": EVIL,
                "role": "judge",
                "executor": EVIL,
                "challenger": MARKUP,
                "stage": None,
                "verdict": "tie",
                "moved": -5,
            }
        ],
        "judge": {"model": EVIL},
        "checks": [{"hold": EVIL, "role": "checker", "executor": EVIL, "outcome": None, "stage": MARKUP, **UNMEASURED}],
        "identities": [{"model": EVIL, "digest": EVIL, **CHECKED}],
    },
}
