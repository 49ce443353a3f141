"""Whether this process has a terminal: SIGHUP means that it has gone to one that had one, and is an order to others."""

from __future__ import annotations

import os
import signal


def has_terminal() -> bool:
    """Whether there is a controlling terminal now. A hang-up takes it away before the signal comes."""
    try:
        os.close(os.open(os.ctermid(), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def ends_with_terminal() -> bool:
    """Whether this process is to end with its terminal; not if it has none, or was started to outlive it (nohup(1)).

    To be asked before SIGHUP is given a handler.
    """
    return signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and has_terminal()
