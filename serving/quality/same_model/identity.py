"""The identity of a model: what its node declares that it serves. Only equal identities are compared.

Two honest nodes whose declarations differ look like a cheat and its judge: 8-bit weights with 16-bit activations give
other probabilities than with 8-bit activations, and each engine has kernels of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from chain import crypto
from chain.codec import Bounds, Hash, ModelName, Record


class IdentityRefused(Exception):
    """A backend cannot honour the identity that is configured for its model. The message names the model."""


Label = Annotated[str, Bounds(1, 64)]


@dataclass(frozen=True, slots=True)
class ModelIdentity(Record):
    """A declaration: name, digest of the weights, number formats, and family of the engine.

    ``weights`` is the BLAKE2b-256 of the weight files. ``quantization`` names the formats of weights, activations and
    key-value cache, such as ``w4a16-kv16``. ``engine`` is ``vllm``, ``sglang`` or ``llamacpp``.
    """

    model: ModelName
    weights: Hash
    quantization: Label
    engine: Label

    @property
    def digest(self) -> bytes:
        """Under which the checks of this identity are counted."""
        return crypto.hash_bytes("model identity", self.encode())
