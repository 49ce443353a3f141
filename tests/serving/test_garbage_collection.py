"""A node that is ready searches for garbage only among what has come since."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from serving.daemon.garbage_collection import spare_what_was_loaded


class Cycle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """The settings of the tests, put back afterwards."""
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)


def test_what_was_loaded_is_spared_and_what_comes_later_is_not() -> None:
    spared, garbage = Cycle(), weakref.ref(Cycle())
    spare_what_was_loaded()
    assert garbage() is None, "what was garbage already is freed first"
    later = weakref.ref(Cycle())
    spared_too = weakref.ref(spared)
    del spared
    gc.collect()
    assert later() is None and spared_too() is not None
