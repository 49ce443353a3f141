"""The HTTP server over TLS: a client that trusts its certificate is served, others hold nothing for long."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
import trio

from serving.http.client import HttpClientError
from serving.http.limits import HttpLimits
from serving.http.messages import HttpRequest
from serving.http.responder import Responder
from serving.http.tls import RENEWAL_CHECK_INTERVAL_S, CertificateError, ServerCertificate
from tests.serving.certificate import write_certificate
from tests.support.http_front import connect, receive_all, run_front
from tests.support.patience import make_patient_pool
from tests.support.waiting import eventually, undisturbed


async def answer(request: HttpRequest, respond: Responder) -> None:
    await respond.start(200, [(b"content-type", b"text/plain")])
    for _ in range(50):
        await respond.send(request.body)
    await respond.end()


def test_requests_over_tls(tmp_path: Path) -> None:
    async def main() -> None:
        paths = write_certificate(tmp_path)
        limits = HttpLimits(headers_timeout_s=0.5)
        async with run_front(answer, limits, certificate=ServerCertificate(*paths)) as server:
            assert server.scheme == "https"
            trust = ssl.create_default_context(cafile=str(paths[0]))
            pool = make_patient_pool("https://127.0.0.1:{1}".format(*server.address), ssl_context=trust)
            for _ in range(2):  # the second over the connection of the first
                async with pool.request("POST", "/v1/x", b"y" * 100_000) as response:
                    assert await response.read() == b"y" * 5_000_000
            assert server.connections == 1
            await pool.aclose()
            stranger = make_patient_pool("https://127.0.0.1:{1}".format(*server.address))
            with pytest.raises(HttpClientError):
                async with stranger.request("GET", "/v1/x"):
                    pass
            await stranger.aclose()
            for said in (b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"):  # silent, and in the clear
                async with await connect(server) as stream:
                    if said:
                        await stream.send_all(said)
                    assert b"HTTP/1.1" not in await receive_all(stream)
            await eventually(lambda: server.connections == 0)

    trio.run(undisturbed, main, 0.2)


def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(tmp_path: Path) -> None:
    paths = write_certificate(tmp_path)
    certificate = ServerCertificate(*paths)
    first = certificate.get_context(0.0)
    write_certificate(tmp_path)
    os.utime(paths[0], (1, 1))
    assert certificate.get_context(RENEWAL_CHECK_INTERVAL_S - 1) is first
    second = certificate.get_context(RENEWAL_CHECK_INTERVAL_S)
    assert second is not first
    paths[1].write_text("no key")
    assert certificate.get_context(2 * RENEWAL_CHECK_INTERVAL_S) is second
    paths[1].unlink()
    assert certificate.get_context(3 * RENEWAL_CHECK_INTERVAL_S) is second
    for _ in range(2):
        with pytest.raises(CertificateError):
            ServerCertificate(*paths)
        paths[1].write_text("no key")
