"""A data directory belongs to one process at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from chain.exceptions import StoreInUse
from serving.config.data_directory import lock_data_dir


def test_a_second_holder_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    with lock_data_dir(tmp_path), pytest.raises(StoreInUse, match="stop it first"), lock_data_dir(tmp_path):
        pass
    with lock_data_dir(tmp_path):
        pass
