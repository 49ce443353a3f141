"""Commands in this process."""

from __future__ import annotations

import tests.support.commands  # noqa: F401  # which has commands wait as long as tests do
