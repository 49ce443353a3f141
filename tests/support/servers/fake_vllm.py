"""Stands for ``vllm`` or ``llama-server``: listens where it is told, lists its model, has a process of its own.

``python -m tests.support.servers.fake_vllm [serve MODEL] --host HOST --port PORT [--notes FILE]``. It asks for the key
in ``VLLM_API_KEY``, and passes over other arguments. The ids of its processes go to the file, a line for each start.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", nargs="?")
    parser.add_argument("model", nargs="?", default="fake-model")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--notes", type=Path, default=Path(os.devnull))
    options, _ = parser.parse_known_args()
    engine = subprocess.Popen(["sleep", "1000"])
    listed = json.dumps({"data": [{"id": options.model, "owned_by": "vllm"}]}).encode()
    key = os.environ.get("VLLM_API_KEY", "")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_allowed = self.headers["authorization"] == f"Bearer {key}"
            found = self.path == "/v1/models"
            self.send_response(404 if not found else 200 if is_allowed else 401)
            self.send_header("content-length", str(len(listed)))
            self.end_headers()
            self.wfile.write(listed)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer((options.host, options.port), Handler)
    with options.notes.open("a") as file:
        file.write(f"{os.getpid()} {engine.pid}\n")
    server.serve_forever()


if __name__ == "__main__":
    main()
