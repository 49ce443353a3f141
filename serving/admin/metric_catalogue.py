"""The metrics of a node: kind, labels and meaning of each (pure).

:mod:`serving.admin.metrics` makes them from this, docs/reference/metrics.md lists them, and the board and the alerts in
``docs/monitoring`` may name no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]

PREFIX = "wwwserve_"
"""What every name begins with."""


class MetricKind(NamedTuple):
    """One metric. The name of a counter ends in ``_total``."""

    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()


SECTIONS: Mapping[str, Mapping[str, MetricKind]] = {
    "The node": {
        "build_info": MetricKind("gauge", "always 1; `version` is that of the program", ("version",)),
        "trouble": MetricKind(
            "gauge", "1 for each thing that is wrong now, by its code and severity (see Troubles)", ("code", "severity")
        ),
        "can_be_dialled": MetricKind("gauge", "1 if others can dial this node, 0 if not; absent while not known"),
    },
    "The machine": {
        "event_loop_lag_seconds": MetricKind(
            "histogram", "by how much the event loop came later than it was asked to, every quarter of a second"
        ),
        "database_write_seconds": MetricKind(
            "histogram", "how long each batch of the chain's database took until it was on the disk"
        ),
        "disk_free_bytes": MetricKind("gauge", "space on the disk of the data directory; absent while not known"),
    },
    "Requests of your users": {
        "requests_total": MetricKind(
            "counter",
            "requests of your users that ended: completed, error (a status other than 200 of a backend or a node was "
            "passed on), refused (by this node), failed (the answer broke off), cancelled (the user left)",
            ("outcome",),
        ),
        "routed_requests_total": MetricKind(
            "counter", "requests of your users by where they were served: local, offloaded", ("served",)
        ),
        "requests_in_flight": MetricKind("gauge", "requests of your users under way"),
        "time_to_first_byte_seconds": MetricKind(
            "histogram", "from a user's request to the first byte of the answer", ("served",)
        ),
        "request_duration_seconds": MetricKind(
            "histogram", "from a user's request to the end of its answer, of those that are completed", ("served",)
        ),
        "prediction_ratio": MetricKind(
            "histogram",
            "measured by predicted time of answers to your users: first_token (of streams), total",
            ("time",),
        ),
        "continued_answers_total": MetricKind("counter", "times that another went on with an answer that was cut"),
        "hedges_total": MetricKind(
            "counter",
            "executors that were asked because another was late: won (they gave the answer), lost (the late one did), "
            "failed (neither)",
            ("outcome",),
        ),
        "prompt_tokens_total": MetricKind(
            "counter",
            "tokens of the prompts of your users, by where they were served; 0 where no usage is reported",
            ("served",),
        ),
        "completion_tokens_total": MetricKind(
            "counter", "completion tokens of the answers to your users, by where they were served", ("served",)
        ),
        "client_errors_total": MetricKind(
            "counter",
            "errors 400, 413, 415 and 422 of executors, by what another answered: shared (passed on), unshared (an "
            "answer), unconfirmed (no other could be asked; passed on)",
            ("outcome",),
        ),
    },
    "API keys": {
        "key_requests_total": MetricKind(
            "counter", "requests by the name of their API key: admitted, refused", ("key", "outcome")
        ),
        "key_completion_tokens_total": MetricKind("counter", "completion tokens of the answers to them", ("key",)),
        "key_spent_microcredits_total": MetricKind("counter", "price of those answers", ("key",)),
        "key_budget_left_microcredits": MetricKind(
            "gauge", "what is left of the budget of a key that has one", ("key",)
        ),
    },
    "Backends and queues": {
        "offers_total": MetricKind(
            "counter", "offers of other nodes: served, declined_for_now (busy or closed), declined", ("outcome",)
        ),
        "offer_decision_seconds": MetricKind(
            "histogram", "from the arrival of an offer until it was accepted or declined; its body came meanwhile"
        ),
        "declined_offers_total": MetricKind(
            "counter",
            "offers of other nodes that were declined: busy, closed (your hours, your own use), model (not served, or "
            "not so), unpaid (the payer owes), stalled (no block becomes final), bond (yours covers no more), draw "
            "(another node is drawn), hold (its terms), request (what came is not what was offered)",
            ("reason",),
        ),
        "backend_up": MetricKind(
            "gauge", "1 if a backend answers; backends are numbered as in `models`, from 0", ("backend",)
        ),
        "backend_probe_seconds": MetricKind(
            "histogram",
            "how long each probe of a backend took, failed ones too: its metrics page, or its list of models",
            ("backend",),
        ),
        "backend_running": MetricKind("gauge", "requests that a backend works on", ("backend",)),
        "backend_capacity": MetricKind("gauge", "requests that it may work on at a time", ("backend",)),
        "backend_utilization_ratio": MetricKind(
            "gauge", "requests running and waiting, divided by capacity; above 1 when requests wait", ("backend",)
        ),
        "backend_failures": MetricKind(
            "gauge", "failures of a backend in a row, since its last answer; from 2 on it is asked last", ("backend",)
        ),
        "backend_queued": MetricKind("gauge", "requests that wait: own, delegated", ("backend", "origin")),
        "queue_wait_seconds": MetricKind(
            "histogram", "how long requests waited that got a slot of a backend: own, delegated", ("origin",)
        ),
        "queue_refused_total": MetricKind(
            "counter",
            "requests that got none: full (the queue was), late (it would have come after the deadline)",
            ("origin", "reason"),
        ),
        "serves_others": MetricKind("gauge", "1 if offers of other nodes are considered now, by schedule and own use"),
    },
    "Ledger": {
        "final_height": MetricKind("gauge", "height of the last final block"),
        "final_block_age_seconds": MetricKind("gauge", "time since a block became final here"),
        "block_interval_seconds": MetricKind(
            "histogram", "time between each block that became final here and the one before it, by their timestamps"
        ),
        "skipped_views_total": MetricKind(
            "counter", "views without a block before those that became final here: a leader was away, or late"
        ),
        "missed_leads_total": MetricKind(
            "counter", "those of them that this validator led, as far as the blocks show them"
        ),
        "view_duration_seconds": MetricKind(
            "histogram",
            "how long each view took that this node was in, from when there was something to agree about",
        ),
        "quorum_seconds": MetricKind(
            "histogram",
            "from this validator's vote for a block until it is final here, which takes two quorums of votes",
        ),
        "epoch": MetricKind("gauge", "epoch that agreement is in"),
        "view": MetricKind("gauge", "view that agreement is in"),
        "validator": MetricKind("gauge", "1 if this node votes in this epoch"),
        "validator_participation_ratio": MetricKind(
            "gauge", "part of the blocks of the present span that this validator voted for"
        ),
        "validator_participation_needed_ratio": MetricKind(
            "gauge", "the part below which it is jailed when the span ends"
        ),
        "syncing": MetricKind("gauge", "1 if the node knows that it lacks final blocks"),
        "mempool_operations": MetricKind("gauge", "operations that wait for a block"),
        "mempool_bytes": MetricKind("gauge", "their size"),
    },
    "Network": {
        "connected_peers": MetricKind("gauge", "peers connected now"),
        "relayed_peers": MetricKind("gauge", "those of them that are connected through a relay"),
        "known_peers": MetricKind("gauge", "peers that are online as far as this node knows"),
        "protocol_bytes_total": MetricKind(
            "counter",
            "bytes by protocol: received, sent; gossip and all streams, without what connections and encryption add",
            ("protocol", "direction"),
        ),
        "refused_connections_total": MetricKind("counter", "connections of other nodes that were refused", ("reason",)),
    },
    "Money": {
        "balance_microcredits": MetricKind(
            "gauge", "final balance: available, held, bonded, unbonding, deposit", ("kind",)
        ),
        "spendable_microcredits": MetricKind("gauge", "available, less the holds that are not final yet"),
        "hold_finality_seconds": MetricKind(
            "histogram", "from the moment at which a hold is signed to that at which it is final here"
        ),
        "earned_microcredits_total": MetricKind("counter", "captured for answers to other nodes since the start"),
    },
    "Duels and checks of a model": {
        "duels_total": MetricKind(
            "counter", "duels that this node took part in, as executor, originator, challenger or judge", ("role",)
        ),
        "duels_settled_total": MetricKind("counter", "those of them that are settled, by verdict", ("role", "verdict")),
        "duels_microcredits_total": MetricKind(
            "counter", "credit that duels gave to this account (earned) or took (paid)", ("direction",)
        ),
        "duel_texts_total": MetricKind("counter", "requests of others for texts: handed_over, refused", ("outcome",)),
        "duel_abstentions_total": MetricKind("counter", "duels in which your judge had no ballot"),
        "checks_total": MetricKind(
            "counter", "checks of a model that this node took part in, as executor, originator or checker", ("role",)
        ),
        "checks_settled_total": MetricKind("counter", "those of them that are settled", ("role", "outcome")),
        "checks_microcredits_total": MetricKind(
            "counter", "credit that checks gave to this account (earned) or took (paid)", ("direction",)
        ),
        "check_abstentions_total": MetricKind("counter", "checks in which your backend could not score"),
        "duels_active": MetricKind("gauge", "duels and checks that this node works for now"),
        "duel_table_entries": MetricKind("gauge", "entries of what this node remembers of duels"),
        "duel_table_bytes": MetricKind("gauge", "bytes of texts of what this node remembers of duels"),
    },
}
"""The metrics by their subject."""

METRICS: Mapping[str, MetricKind] = {name: each for section in SECTIONS.values() for name, each in section.items()}
"""Every metric by its name without the prefix."""
