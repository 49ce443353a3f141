"""File descriptors: with none left, a node can neither accept nor dial nor write its chain."""

from __future__ import annotations

import logging
import resource
from dataclasses import replace

from p2p.host.connection_gater import ConnectionLimits

logger = logging.getLogger(__name__)

SPARE_DESCRIPTORS = 256
"""Descriptors for all but connections of the overlay: the database, the API and its users."""
MIN_CONNECTIONS = 16
"""Inbound connections that are accepted however few descriptors there are."""


def fit_to_descriptors(limits: ConnectionLimits, outbound: int) -> ConnectionLimits:
    """Lower the limits to what this process has descriptors for, beside those of ``outbound`` connections.

    First it raises the process's own limit to what the system allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:  # the system may have a limit of its own
            logger.debug("the limit of %d descriptors cannot be raised: %s", soft, error)
    if soft == resource.RLIM_INFINITY:
        return limits
    room = soft - SPARE_DESCRIPTORS - outbound - limits.max_half_open
    if room >= limits.max_connections:
        return limits
    fewer = max(room, MIN_CONNECTIONS)
    logger.warning(
        "%d file descriptors are too few for %d connections: no more than %d are accepted",
        soft,
        limits.max_connections,
        fewer,
    )
    return replace(limits, max_connections=fewer)
