"""The events that a node logs: name, level, fields and meaning of each (pure).

``docs/reference/events.md`` is made from this, and a test compares it with every call of a logger in the code. The name
of an event is its text in the log. Besides, every event has ``timestamp`` (UTC), ``level`` and ``logger``, and a defect
has its traceback under ``exception``. Events of ``p2p`` and of libraries have whole sentences as names.

No event holds a prompt, an answer or a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Level = Literal["debug", "info", "warning", "error"]


class Event(NamedTuple):
    """One event: at what level, with which fields, and what it means for the owner of the node."""

    level: Level
    fields: tuple[str, ...]
    meaning: str


SECTIONS: Mapping[str, Mapping[str, Event]] = {
    "Life of the node": {
        "ready": Event(
            "info",
            ("after_s", "version", "address", "chain", "api", "admin", "models"),
            "the node has started and answers requests",
        ),
        "stopping": Event("info", ("requests",), "a signal to stop came; that many requests are finished first"),
        "ends at once, as told": Event("warning", (), "a second signal to stop came: what was under way is given up"),
        "stopped": Event("info", ("after_s",), "the node has ended in order"),
        "cannot tell the service manager how the node is": Event(
            "warning", ("reason",), "the socket that systemd named does not take what is said"
        ),
        "the data directory was open to other users, and is closed now": Event(
            "warning", ("directory",), "others may have read the keys in it: replace them"
        ),
        "lines left out": Event(
            "warning", ("of", "count"), "so many lines of one event were above its rate in a minute"
        ),
    },
    "Health": {
        "trouble": Event(
            "warning",
            ("code", "text", "mend", "command"),
            "something is wrong; the codes are those of `wwwserve doctor`",
        ),
        "trouble is over": Event("info", ("code",), "it is wrong no more"),
        "peer joined": Event("info", ("peer",), "a node of the network is online"),
        "peer left": Event("info", ("peer",), "it is not any more"),
    },
    "Requests of your users": {
        "request ended": Event(
            "info",
            (
                "request",
                "model",
                "key_name",
                "served_by",
                "reason",
                "first_byte_ms",
                "duration_ms",
                "tokens",
                "outcome",
            ),
            "what became of a request; `key_name` names its API key, and `served_by` is local or the address of a node",
        ),
        "more requests ended": Event("info", ("count",), "in the same second, beside those that have a line each"),
        "payment final": Event("info", ("request", "hold", "credits", "height"), "what an answer cost is final"),
        "served here after all": Event("info", ("request", "reason"), "no other node took it"),
        "offloaded after all": Event("info", ("request", "reason"), "no backend here took it"),
        "an answer is gone on with": Event(
            "info", ("model", "written", "after"), "it was cut after so many bytes, and another gives the rest"
        ),
        "stream broke off": Event("info", ("request", "reason"), "the user has a part of the answer, and an error"),
        "a request with an Idempotency-Key failed": Event("error", (), "a defect: please report it"),
        "handler failed": Event("error", ("path", "exception"), "a defect in the API: please report it"),
        "connection failed": Event("error", ("exception",), "a defect in the API: please report it"),
    },
    "Backends": {
        "a backend did not deliver": Event("info", ("model", "reason"), "another backend or node was asked"),
        "a backend fails this node's own check": Event(
            "warning", ("model", "reason"), "it gave others errors, and this node not one token: it is asked last"
        ),
        "backend is not usable: it does not answer, or lists no models": Event(
            "warning", ("url",), "start it, or correct `base_url`"
        ),
        "backend does not list a configured model": Event("warning", ("missing", "listed"), "correct `names`"),
        "backend refuses the API key": Event("warning", ("url", "status"), "correct `api_key` or `api_key_env`"),
        "the server of the model starts": Event("info", ("command", "times"), "a server that the node itself runs"),
        "the server of the model answers": Event("info", ("after_s",), "it has loaded its model"),
        "the server of the model is started again": Event("error", ("reason", "after_s", "in_s"), "it has ended"),
    },
    "Offloading": {
        "other nodes are served": Event("info", ("why",), "offers of other nodes are considered from now on"),
        "no other node is served": Event("info", ("why",), "they are declined from now on"),
        "an executor has fallen silent": Event(
            "info", ("executor", "model"), "all that this node has under way there is given up, and asked elsewhere"
        ),
        "the first content is late: another executor is asked as well": Event(
            "info", ("executor",), "a hedge (`offload.hedging`); `executor` is the second one, and the first may answer"
        ),
        "no backend goes on with an answer": Event(
            "info",
            ("model", "reason"),
            "a backend has cut an answer for another node, and the second did not give the rest",
        ),
        "executor did not deliver": Event("info", ("executor", "reason"), "the next one is asked"),
        "a content filter has the last word": Event(
            "info", ("executor",), "an answer was withheld for what was asked; no other node is asked"
        ),
        "a client error is passed on unconfirmed": Event(
            "info", ("executor",), "one node refused the request of a user, and no other could be asked"
        ),
        "a client error was not shared": Event(
            "info", ("executor",), "a node refused what another answered; it is asked last for a while"
        ),
        "resumed an answer": Event("info", ("executor", "received"), "after a broken connection, from that byte on"),
        "the receipt was not taken": Event("info", ("executor",), "the executor captures without it, later"),
        "offload failed": Event("info", ("payer", "reason"), "a request of another node was not answered here"),
        "no valid receipt": Event("info", ("payer",), "the payer sent none; the captured amount is disputed or proven"),
        "an offload session failed": Event("error", ("exc_info",), "a defect: please report it"),
    },
    "Money": {
        "operation refused": Event("info", ("kind", "reason"), "the ledger refuses an operation of this account"),
        "refunding a hold from before the start": Event("info", ("hold",), "its answer was never given"),
        "hold never became final; the answer stays unpaid": Event("warning", ("hold",), "a payer's hold failed"),
        "registration starts again in another epoch": Event(
            "info", ("epoch", "tries"), "the proof of work for first credits was not found in one epoch"
        ),
        "stake not kept": Event("warning", ("reason",), "the bond that the policy asks for cannot be made"),
        "models not declared": Event("warning", ("reason",), "the models in the account are not those that are served"),
        "operation not final in time": Event("warning", ("operation",), "it is asked for again"),
        "does not judge for a while: its votes differed when others repeated them": Event(
            "error", ("until",), "the account is benched: its judge gives other votes than others with the same weights"
        ),
    },
    "Ledger": {
        "block dropped": Event("debug", ("height", "block"), "its parent is not known, or it is too late"),
        "message refused": Event("debug", ("reason", "peer"), "a message of agreement is old, or not valid"),
        "malformed message": Event("debug", ("peer", "reason"), "bytes of a peer are no message"),
        "gossip dropped": Event("debug", ("topic", "peer", "reason"), "a message is above the rate, or not valid"),
        "gossip was not published": Event("debug", ("topic", "reason"), "no neighbour took it"),
        "a proof of work does not hold": Event("debug", ("peer",), "a registration is not passed on"),
        "operations refused": Event("debug", ("peer", "count", "last"), "operations of a peer cannot be taken"),
        "link lost": Event("debug", ("peer", "reason"), "a stream to another validator ended; it is opened again"),
        "a message is too long to send": Event("warning", ("bytes",), "a defect: please report it"),
        "final blocks were missed": Event("debug", ("height",), "they are fetched from others"),
        "two votes in conflict": Event(
            "warning", ("signer", "epoch", "view", "first", "second"), "a validator signed both; the node reports it"
        ),
        "a block is ahead of this clock and gets no vote yet; if many are, this clock is slow: set it": Event(
            "warning", ("height", "ms", "allowed_ms"), "run an NTP client"
        ),
        "a block is invalid": Event(
            "warning", ("height", "block", "reason"), "a validator proposed it; it gets no vote"
        ),
        "sync: peer avoided": Event("debug", ("peer", "seconds", "reason"), "it gave a wrong answer, or none"),
        "sync: state adopted": Event("info", ("height", "block"), "a snapshot is fetched and proven"),
        "sync: no peer has the rest of a snapshot": Event("info", ("height",), "another snapshot is fetched"),
        "sync: the owner must act": Event("warning", ("text",), "what keeps the node from catching up; said once"),
        "the chain database is damaged: it is kept aside, and the chain is fetched from other nodes": Event(
            "error", ("fault", "kept_as", "entries_carried_over", "lost_unless_put_back"), "check the disk"
        ),
    },
    "Validating": {
        "validator operation sent": Event("info", ("operation",), "a commitment, evidence, or to be unjailed"),
        "validator operation refused": Event("warning", ("reason",), "the node asks again"),
        "evidence refused": Event("debug", ("signer", "reason"), "another node reported it first, mostly"),
        "this validator misses too many blocks: if that goes on, it is jailed": Event(
            "warning", ("votes", "blocks", "needed", "to_do"), "it is away, slow, or its clock is wrong"
        ),
        "this validator votes for enough blocks again": Event("info", ("votes", "blocks"), "the danger is over"),
        "this validator cannot lead: its hash chain is used up, or is not that of its key": Event(
            "error", (), "`wallet retire`, then `wallet enroll` again"
        ),
        "this validator may have forgotten votes: it votes again in the epoch after the one in which an operation that "
        "it now makes is final": Event("error", ("journal", "nonce"), "the journal of votes was lost"),
        "cannot yet ask for the operation that ends the wait": Event(
            "warning", ("reason", "account", "to_do", "fee"), "send the account enough to pay the fee"
        ),
        "this validator has not seen all blocks: it votes again in the epoch after the one in which an operation that "
        "it now makes is final": Event("warning", ("nonce",), "it was away, or was restored from a backup"),
        "another machine with this key takes over its votes: this one votes no more after this epoch": Event(
            "error", ("epoch", "height", "to_do"), "a backup was restored elsewhere: keep one of the two machines"
        ),
        "another machine with this key has taken over its votes: this one only follows": Event(
            "error", ("to_do",), "a backup was restored elsewhere: keep one of the two machines"
        ),
        "this validator votes again": Event("warning", ("from_epoch", "height"), "the wait is over"),
        "the vote journal is damaged: it is kept aside": Event(
            "error", ("at_byte", "reason", "kept_as"), "check the disk; see Damage in operating.md"
        ),
    },
    "Duels and checks of a model": {
        "duel opened": Event("info", ("hold", "role", "stage", "challenger"), "this node has a part in it"),
        "duel goes on": Event("info", ("hold", "role", "stage", "challenger"), "it is in its next stage"),
        "duel settled": Event("info", ("hold", "role", "verdict", "moved"), "`moved` is what this account got or paid"),
        "duel operation submitted": Event("info", ("hold", "kind"), "this node did its part"),
        "no answer to the request of a duel": Event("info", ("hold", "reason"), "the backend gave none"),
        "no ballot on a duel": Event("warning", ("hold", "reason"), "the judge gave none; see Judging in operating.md"),
        "check of a model opened": Event("info", ("hold", "role", "model"), "this node has a part in it"),
        "check of a model settled": Event("info", ("hold", "role", "outcome", "moved"), "what came of it"),
        "no report on a check of a model": Event("warning", ("hold", "reason"), "the backend could not score"),
        "what this node serves was found to be another model than it declares": Event(
            "error", ("model",), "it is declared no more: correct `models` in config.yaml"
        ),
        "a text of a duel is another than on the ledger": Event(
            "warning", ("hold", "text", "holder"), "its holder handed over a wrong one"
        ),
        "a text of a duel cannot be read": Event("error", ("hold", "error"), "check the disk"),
        "a text of a duel was not obtained": Event(
            "info", ("hold", "text", "holder", "reason"), "its holder is asked again"
        ),
        "no room for the texts of a paid request": Event(
            "warning", ("hold",), "this node loses the duel, if there is one"
        ),
        "the table of duels cannot be written": Event("error", ("error",), "check the disk"),
        "the table of duels is damaged, and begins anew": Event("error", ("error",), "check the disk"),
        "identity": Event("info", ("model", "digest", "weights"), "of the model that this node declares"),
        "an identity is not declared": Event("error", ("reason",), "correct `identity` of the backend in config.yaml"),
        "an identity is not declared yet": Event("warning", ("model", "reason"), "it is tried again"),
        "an answer has no transcript": Event("info", ("reason",), "it cannot be checked later"),
    },
    "API, keys and administration": {
        "commands cannot reach this node by a socket": Event(
            "warning", ("path", "error"), "the path is too long, mostly"
        ),
        "policy changed": Event("info", ("changes",), "by the owner, until the node stops"),
        "policy read again": Event("info", ("file",), "from config.yaml"),
        "policy not read again": Event("error", ("reason",), "config.yaml has a fault; the old policy stays"),
        "admin request failed": Event("error", ("path",), "a defect: please report it"),
        "the certificate of the API was renewed": Event("info", ("file",), "it is read anew when the file changes"),
        "the certificate of the API cannot be renewed": Event("error", ("reason",), "the old one stays in use"),
    },
}
"""The events by their subject."""

EVENTS: Mapping[str, Event] = {name: event for section in SECTIONS.values() for name, event in section.items()}
"""Every event by its name."""
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")
"""Levels, the least first."""
