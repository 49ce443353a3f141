"""The certificate of an HTTP listener, from files. A renewed one is taken up without a restart."""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

RENEWAL_CHECK_INTERVAL_S = 60.0
"""Seconds between looks for a renewed certificate."""


class CertificateError(Exception):
    """The certificate or its key cannot be used. The message says why."""


class ServerCertificate:
    """A chain of certificates and the key of the first, both in PEM."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises :class:`CertificateError`."""
        self._paths = certificate, key
        self._looked_at = float("-inf")
        self._changed_at = self._read_times()
        self._context = self._load()

    def get_context(self, now: float) -> ssl.SSLContext:
        """The TLS context of a new connection at time ``now`` (seconds of a monotonic clock).

        A renewed certificate that cannot be used leaves the old one in force.
        """
        if now - self._looked_at >= RENEWAL_CHECK_INTERVAL_S:
            self._looked_at = now
            try:
                changed_at = self._read_times()
                if changed_at != self._changed_at:
                    self._context, self._changed_at = self._load(), changed_at
                    log.info("the certificate of the API was renewed", file=str(self._paths[0]))
            except CertificateError as error:
                log.error("the certificate of the API cannot be renewed", reason=str(error))
        return self._context

    def _read_times(self) -> tuple[int, ...]:
        try:
            return tuple(path.stat().st_mtime_ns for path in self._paths)
        except OSError as error:
            raise CertificateError(f"{error.filename}: cannot be read: {error.strerror}") from None

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        certificate, key = self._paths
        try:
            context.load_cert_chain(certificate, key, password="")  # never ask at the terminal
        except (OSError, ValueError) as error:
            raise CertificateError(f"{certificate} and {key} are no certificate with its key: {error}") from None
        return context
