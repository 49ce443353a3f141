"""A stand-in for a node of a large network: it answers the page as a node does, with made-up figures.

It is for what real nodes on one machine cannot show: a hundred nodes, and an account with very many operations.
``python -m tests.web.large_network`` serves it for a look.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from chain.crypto import format_address
from serving.admin.confinement import HEADERS
from serving.admin.troubles import describe
from serving.dashboard.files import load_files
from serving.dashboard.views import SAMPLED

MODELS = ("Qwen3-8B", "Llama-3.1-8B", "gemma-3-12b", "Qwen3-32B", "smollm2-135m")
CREDIT = 1_000_000


@dataclass
class LargeNetwork:
    """The figures of a network of ``nodes`` nodes with ``operations`` operations of one account."""

    nodes: int = 100
    operations: int = 100_000
    seed: int = 1
    height: int = 48_213

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.addresses = [format_address(self.chance.randbytes(32)) for _ in range(self.nodes)]

    @cached_property
    def network(self) -> list[dict[str, Any]]:
        chance = self.chance
        return [
            {
                "address": address,
                "models": [MODELS[min(chance.choices(range(5), (9, 5, 3, 2, 2))[0], 4)]] if number % 17 else [],
                "running": chance.randrange(9),
                "slots": 8,
                "bonded": round((50 + 4_000 * chance.random() ** 4) * CREDIT),
                "is_me": number == 0,
            }
            for number, address in enumerate(self.addresses)
        ]

    def make_block(self, height: int) -> dict[str, Any]:
        chance = random.Random(height)
        kinds = {"hold": chance.randrange(9), "capture": chance.randrange(3), "transfer": chance.randrange(2)}
        return {
            "height": height,
            "id": f"{height:064x}",
            "at": round(time.time() * 1000) - 1_000 * (self.height - height),
            "epoch": height // 1_024,
            "view": height + 7,
            "proposer": chance.choice(self.addresses[:20]),
            "operations": sum(kinds.values()),
            "kinds": {kind: count for kind, count in kinds.items() if count},
            "paid": 1_400 * kinds["capture"],
            "bytes": 4_000,
            "skipped": int(chance.random() < 0.05),
            "signed": round(0.7 + 0.3 * chance.random(), 4),
        }

    def make_event(self, *, is_owner: bool, first: bool) -> dict[str, Any]:
        self.height += not first
        now = round(time.time() * 1000)
        flows = [
            {"payer": payer, "payee": payee, "holds": self.chance.randrange(1, 9), "amount": 5_000}
            for payer, payee in (self.chance.sample(self.addresses, 2) for _ in range(round(1.3 * self.nodes)))
        ]
        heights = range(self.height - 60, self.height + 1) if first else [self.height]
        event = {
            "now": now,
            "blocks": [self.make_block(height) for height in heights],
            "flows": flows
            + [{"payer": self.addresses[0], "payee": self.addresses[n], "holds": 4, "amount": 9_000} for n in (3, 9)],
            "chain": self._make_chain(now),
            "network": self.network,
            "models": [
                {
                    "id": m,
                    "local": m == MODELS[0],
                    "executors": 20,
                    "stake": 4_000 * CREDIT,
                    "duels": 812,
                    "win_rate": 0.53,
                    "identities": [],
                }
                for m in MODELS
            ],
        }
        return {**event, **self._make_owner(now)} if is_owner else event

    def _make_chain(self, now: int) -> dict[str, Any]:
        return {
            "name": "large",
            "chain_id": "ab" * 32,
            "height": self.height,
            "block": "cd" * 32,
            "final_at": now - 400,
            "idle_beat_ms": 10_000,
            "stalled_after_ms": 60_000,
            "epoch": self.height // 1_024,
            "epoch_heights": 1_024,
            "is_syncing": False,
            "supply": 5_300_000 * CREDIT,
            "treasury": 12_000 * CREDIT,
        }

    def _make_owner(self, now: int) -> dict[str, Any]:
        own = self.addresses[0]
        return {
            "troubles": [
                asdict(describe("backend", name="http://127.0.0.1:9000/v1 (gemma-3-12b)", fault="connection refused")),
                asdict(describe("unreachable")),
            ],
            "node": {
                "address": own,
                "listening": [f"/ip4/192.0.2.7/tcp/4001/p2p/{own}"],
                "is_dialable": False,
                "models": [MODELS[0]],
                "connected": 24,
                "known": self.nodes - 1,
                "is_validator": True,
                "mempool": 3,
                "serves_others": True,
                "serves_others_because": "",
                "under_way": 3,
                "first_token_p50_ms": 181.0,
                "first_token_p95_ms": 640.0,
                "local": 148,
                "offloaded": 20,
                "refused": 3,
                "failed": 0,
                "cancelled": 1,
                "completed": 166,
                "completion_tokens": 21_000,
                "offers_served": 31,
                "offers_declined": 4,
            },
            "sample": self._make_sample(now // 1000),
            "backends": [
                {
                    "models": [MODELS[0]],
                    "is_alive": True,
                    "running": 3,
                    "capacity": 8,
                    "queued_own": 0,
                    "queued_delegated": 1,
                },
                {
                    "models": ["gemma-3-12b"],
                    "is_alive": False,
                    "running": 0,
                    "capacity": 4,
                    "queued_own": 0,
                    "queued_delegated": 0,
                },
            ],
            "requests": [self._make_request(now, number) for number in range(40)],
            "peers": [
                {
                    "address": each,
                    "connected": n % 4 == 0,
                    "path": ("direct", "relayed")[n % 3 == 0] if n % 4 == 0 else None,
                    "addresses": [f"/ip4/198.51.100.{n}/tcp/4001"],
                    "relays": [],
                }
                for n, each in enumerate(self.addresses[1:])
            ],
            "wallet": {
                "address": own,
                "nonce": 12,
                "available": 9_874_210_000,
                "spendable": 9_870_100_000,
                "held": 41_200,
                "bonded": self.network[0]["bonded"],
                "locked": 0,
                "deposit": 0,
                "unbonding": 0,
                "income_to_bond": 0,
                "earned": 412_000,
                "models": [MODELS[0]],
                "validator": "enrolled",
            },
            "policy": {
                "name": "paper",
                "target_utilization": 0.7,
                "offload_frequency": 0.5,
                "accept_frequency": 0.8,
                "queue_frequency": 0.5,
                "max_queue": 64,
                "max_tokens": 4096,
                "max_wait_s": 60.0,
                "prioritize_own": True,
                "schedule": [],
                "stake": 1_000 * CREDIT,
            },
            "duels": {"duels": [], "judge": None, "benched_s": 0, "checks": [], "identities": []},
        }

    def _make_sample(self, second: int) -> dict[str, Any]:
        chance = random.Random(second // 20)
        values = dict.fromkeys(SAMPLED, 0.0) | {
            "local": 2 * second + chance.randrange(20),
            "offloaded": second // 2 + chance.randrange(6),
            "served": second // 3,
            "tokens": 61 * second + chance.randrange(400),
            "running": chance.randrange(2, 8),
            "capacity": 12,
            "available": 9_874_210_000 + chance.randrange(10**7),
            "bonded": 10**9,
            "held": chance.randrange(10**6),
        }
        return {"at": second, **values}

    def _make_request(self, now: int, number: int) -> dict[str, Any]:
        chance = random.Random(number)
        executor = "local" if number % 3 == 0 else chance.choice(self.addresses[1:])
        state = 0 if number < 2 else 1 if number < 5 else 2
        paid = executor != "local"
        return {
            "id": f"req-{number:016x}",
            "model": chance.choice(MODELS[:2]),
            "executor": executor,
            "attempt": 0,
            "reason": "policy",
            "predicted_ttft_ms": 200.0,
            "predicted_duration_ms": 2_000.0,
            "started_at": now // 1000 - 4 * number,
            "ttft_ms": chance.uniform(90, 700),
            "duration_ms": None if state == 0 else 2_100.0,
            "completion_tokens": chance.randrange(20, 400),
            "completion_tokens_estimated": False,
            "outcome": "running" if state == 0 else "completed",
            "hold": "ef" * 32 if paid else None,
            "held": 5_210 if paid else None,
            "amount": 1_733 if paid and state == 2 else None,
            "hold_height": self.height - number if paid and state else None,
            "settled_height": self.height - number + 2 if paid and state == 2 else None,
        }

    def make_operation(self, number: int) -> dict[str, Any]:
        """Operation ``number`` of the account, counted from its first."""
        chance = random.Random(number)
        kind = chance.choice(("hold", "capture", "transfer"))
        fields: dict[str, Any] = {
            "hold": {"payee": chance.choice(self.addresses), "amount": 5_210, "model": MODELS[0]},
            "capture": {"items": [{"delivery": {"amount": 1_733}}]},
            "transfer": {"recipient": chance.choice(self.addresses), "amount": 12_500_000},
        }[kind]
        return {
            "id": f"{number:064x}",
            "kind": kind,
            "signer": self.addresses[0],
            **fields,
            "height": number // 2 + 1,
            "index": number % 2,
            "failure": None,
            "timestamp": round(time.time() * 1000) - 1_000 * (self.operations - number),
        }

    def answer(self, path: str, query: dict[str, str]) -> dict[str, Any] | None:
        """The JSON answer to ``GET`` of a path; None: not found."""
        parts = path.strip("/").split("/")
        if path == "/dashboard/history":
            now = int(time.time())
            samples = [self._make_sample(at) for at in range(now - 599, now + 1)]
            return {name: [sample[name] for sample in samples] for name in ("at", *SAMPLED)}
        if path == "/doctor":
            disk = {"code": "", "severity": "ok", "text": "41.0 GiB free, fsync 3 ms", "mend": "", "command": ""}
            return {"findings": [{**disk, "subject": "disk"}]}
        if path == "/chain/validators":
            rows = [{"address": a, "stake": 900 * CREDIT, "share": 0.05, "votes": 700} for a in self.addresses[:20]]
            return {
                "height": self.height,
                "epoch": self.height // 1_024,
                "last_height": (self.height // 1_024 + 1) * 1_024,
                "total_stake": 18_000 * CREDIT,
                "counted_blocks": 720,
                "validators": rows,
                "jailed": [],
            }
        if parts[:2] == ["chain", "accounts"] and parts[3:] == ["movements"]:
            reach = {"height": self.height, "indexed_height": self.height, "first_height": 0, "balance": 0}
            return {**reach, "entries": [], "next": None}
        if parts[:2] == ["chain", "accounts"] and len(parts) == 4:
            top = int(query.get("before", f"{self.operations}.0").partition(".")[0])
            numbers = range(top - 1, max(-1, top - 1 - int(query.get("limit", "50"))), -1)
            last = numbers[-1]
            return {"operations": [self.make_operation(n) for n in numbers], "next": f"{last}.0" if last else None}
        if parts[:2] == ["chain", "accounts"]:
            return {
                "address": parts[2],
                "available": 9_874_210_000,
                "held": 41_200,
                "bonded": 10**9,
                "deposit": 0,
                "models": list(MODELS),
                "nonce": 12,
            }
        return None


@contextmanager
def serve_large_network(network: LargeNetwork, *, is_owner: bool = True) -> Iterator[int]:
    """Serve ``network`` on a free port of loopback, which is yielded."""
    files = {("/" if name == "index.html" else f"/static/{name}"): file for name, file in load_files().items()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path in files:
                self.reply(200, files[url.path].content, files[url.path].media_type)
            elif url.path == "/dashboard/session":
                level = {"level": "reading" if is_owner else "public", "locked_in_s": None}
                self.reply(200, json.dumps(level).encode(), "application/json")
            elif url.path == "/dashboard/events":
                self.stream()
            else:
                content = network.answer(url.path, {name: values[0] for name, values in parse_qs(url.query).items()})
                body = json.dumps(content or {"error": "not found"}).encode()
                self.reply(200 if content else 404, body, "application/json")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            answer = {"requests": 1_000, "offloaded": 148, "would_offload": 212}  # of a replay of the policy
            self.reply(200, json.dumps(answer).encode(), "application/json")

        def reply(self, status: int, body: bytes, kind: str) -> None:
            self.begin(status, kind)
            self.wfile.write(body)

        def begin(self, status: int, kind: str) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            for name, value in HEADERS:
                self.send_header(name.decode(), value.decode())
            self.end_headers()

        def stream(self) -> None:
            self.begin(200, "text/event-stream")
            first = True
            try:
                while True:
                    event = network.make_event(is_owner=is_owner, first=first)
                    self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                    first = False
                    time.sleep(1)
            except OSError:
                pass  # the page was closed

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    with serve_large_network(LargeNetwork()) as port:
        print(f"http://127.0.0.1:{port}", flush=True)
        threading.Event().wait()
