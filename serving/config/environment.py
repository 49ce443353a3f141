"""The environment variables that the program reads (pure). A test finds those that are read and not listed here."""

from __future__ import annotations

from collections.abc import Mapping

VARIABLES: Mapping[str, str] = {
    "WWWSERVE_DATA_DIR": "The data directory of commands without `-d`.",
    "WWWSERVE_PASSPHRASE": "The passphrase of a protected key. Set at `init`, it protects the new key.",
    "WWWSERVE_TESTING": "Set to anything: tests may cut the node off from peers (`PUT /testing/partition`).",
    "SSH_CONNECTION": "Set in a shell over SSH: `dashboard` prints the command of a tunnel and opens no browser.",
    "DISPLAY, WAYLAND_DISPLAY": "Whether there is a screen, on which `dashboard` opens a browser.",
    "USER": "The user in the command of that tunnel.",
    "NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID": "Set by systemd: where `run` says how it is, and how often.",
    "LIBP2P_DEBUG": "Set: the logs of libp2p are not silenced.",
}
"""What each one does. Configuration may name more: the variables that hold keys of backends (`api_key_env`)."""
