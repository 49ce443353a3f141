"""File descriptors: without one left, a node can neither accept nor dial nor write down its chain."""

from __future__ import annotations

import logging
import resource
from dataclasses import replace

from p2p.host.connection_gater import ConnectionLimits

logger = logging.getLogger(__name__)

SPARE_DESCRIPTORS = 256
"""Descriptors for everything besides connections of this network: the database, the front and its users."""
MIN_CONNECTIONS = 16


def fit_to_descriptors(limits: ConnectionLimits, outbound: int) -> ConnectionLimits:
    """Limits for which this process has descriptors, beside those of ``outbound`` connections.

    Raises the process's own limit to what the system allows, and takes in fewer connections if that is too few.
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
        "%d file descriptors are too few for %d connections: no more than %d are taken in",
        soft,
        limits.max_connections,
        fewer,
    )
    return replace(limits, max_connections=fewer)
