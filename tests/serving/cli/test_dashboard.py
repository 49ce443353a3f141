"""What ``wwwserve dashboard`` says and opens."""

from __future__ import annotations

import pytest

from serving.cli.running.dashboard import can_open_browser, make_tunnel_command


@pytest.mark.parametrize("name", ["DISPLAY", "WAYLAND_DISPLAY"])
def test_a_browser_is_opened_where_somebody_sits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert can_open_browser({name: ":0"})
    assert not can_open_browser({name: ""})
    assert not can_open_browser({})


def test_over_ssh_the_tunnel_is_named() -> None:
    environment = {"SSH_CONNECTION": "192.0.2.7 50000 192.0.2.9 22", "USER": "alice"}
    assert make_tunnel_command("127.0.0.1:8001", environment) == "ssh -N -L 8001:127.0.0.1:8001 alice@192.0.2.9"
    assert make_tunnel_command("127.0.0.1:8001", {"SSH_CONNECTION": ""}).endswith(" THIS-MACHINE")
