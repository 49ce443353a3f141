"""The pages of the reference are what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "write.py"


def test_the_reference_is_as_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("write", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.find_differences() == [], "run: make reference"
