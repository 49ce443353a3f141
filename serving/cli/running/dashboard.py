"""``wwwserve dashboard``: open the node's page in a browser, with the owner's rights."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.cli.text import print_line
from serving.cli.running.admin_client import ask_node
from serving.config.data_directory import ADMIN_ADDRESS_FILE

LOGIN_TIMEOUT_S = 5.0
"""How long the node may take to make a code."""


def dashboard(
    data_dir: DataDir = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Only print the address.")] = False,
    as_json: AsJson = False,
) -> None:
    """Open the dashboard of the running node with the owner's rights. The link is good once, for a minute."""
    answer = ask_node(data_dir, "POST", "/dashboard/code", {}, timeout=LOGIN_TIMEOUT_S)
    address = ((data_dir or get_default_data_dir()) / ADMIN_ADDRESS_FILE).read_text().strip()
    url = f"http://{address}/#t={answer['code']}"
    if as_json:
        print_line(json.dumps({"url": url, "expires_in_s": answer["expires_in_s"]}))
        return
    print_line(url)
    print_line(f"open it in a browser within {answer['expires_in_s']} s; it works once")
    if "SSH_CONNECTION" in os.environ:
        print_line(f"from the machine that you sit at, first: {make_tunnel_command(address, os.environ)}")
    elif not no_open and can_open_browser(os.environ):
        import webbrowser

        webbrowser.open(url)


def can_open_browser(environment: Mapping[str, str]) -> bool:
    """Whether somebody sits at this machine's screen."""
    return sys.platform in ("darwin", "win32") or any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def make_tunnel_command(address: str, environment: Mapping[str, str]) -> str:
    """The command that brings the page's port to the machine from which this one is used over SSH."""
    port = address.rpartition(":")[2]
    client = environment["SSH_CONNECTION"].split()
    host = client[2] if len(client) > 2 else "THIS-MACHINE"
    user = environment.get("USER", "")
    return f"ssh -N -L {port}:{address} {user + '@' if user else ''}{host}"
