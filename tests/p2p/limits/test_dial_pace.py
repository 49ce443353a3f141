"""How often one address and one host are dialled for peers that may be invented."""

from __future__ import annotations

from chain.crypto import format_address
from p2p.limits.dial_pace import ADDRESS_BURST, ADDRESS_INTERVAL_S, HOST_BURST, HOST_INTERVAL_S, DialPace
from tests.support.keys import make_peer

ADDRESS = "/ip4/203.0.113.5/tcp/80"


def test_an_address_is_dialled_twice_and_then_once_a_minute() -> None:
    pace = DialPace()
    dials = [second for second in range(300) if pace.admit([ADDRESS], float(second))]
    assert dials[:ADDRESS_BURST] == [0, 1] and len(dials) == ADDRESS_BURST + 299 // ADDRESS_INTERVAL_S


def test_another_spelling_and_a_circuit_lead_to_the_same_address() -> None:
    circuit = f"{ADDRESS}/p2p/{format_address(make_peer(1))}/p2p-circuit"
    for other in (ADDRESS + "/x", "/ip4/203.0.113.5/tcp/0080", circuit):
        pace = DialPace()
        assert pace.admit([ADDRESS, ADDRESS, other], 0.0) == (ADDRESS, ADDRESS)
    assert pace.admit(["/ip4/203.0.113.5/tcp/81", "/ip4/203.0.113.6/tcp/80", "/dns4/a.example/tcp/80"], 0.0)
    assert DialPace().admit(["nonsense"] * 3, 0.0) == ("nonsense",) * 2


def test_the_ports_of_a_host_share_its_dials() -> None:
    pace = DialPace()
    ports = [f"/ip4/203.0.113.5/tcp/{port}" for port in range(1, 1000)]
    assert len(pace.admit(ports, 0.0)) == HOST_BURST
    assert len(pace.admit(ports, HOST_INTERVAL_S)) == 1
    assert pace.admit(["/ip4/203.0.113.6/tcp/1"], HOST_INTERVAL_S)
