"""Other weights made from the embedded model, for nodes that serve something else than they declare.

Each variant is a GGUF file in the user's cache directory, made once: the same values in another number format, the
values rounded to fewer bits, or the model without some of its layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from serving.backends.embedded import find_smollm2

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

DROPPED_LAYERS = {
    "28 layers": (16, 22),
    "26 layers": (16, 19, 22, 25),
    "22 layers": (15, 16, 18, 19, 21, 22, 24, 25),
}
"""Layers that a variant with fewer than 30 lacks; they are counted from 0."""

_LAYER = re.compile(r"blk\.(\d+)\.(.*)")

Tensor = tuple[str, Any, "GGMLQuantizationType"]
"""Name, stored values and their format."""


def get_variant(name: str) -> Path:
    """The file of a variant: ``q4_1`` (as shipped), ``bf16`` or ``q8_0`` (the same values), ``q4_0`` (rounded), or
    ``28 layers``, ``26 layers`` or ``22 layers`` of 30."""
    source = find_smollm2()
    if name == "q4_1":
        return source
    folder = Path(platformdirs.user_cache_dir("wwwserve")) / "model-variants"
    path = folder / f"{source.stem}-{name.replace(' ', '-')}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        if dropped := DROPPED_LAYERS.get(name):
            _copy(source, part, _make_dropper(dropped), fewer_layers=len(dropped))
        else:
            _copy(source, part, _make_requantizer(name.upper()))
        part.replace(path)
    return path


def _make_requantizer(format_name: str) -> Callable[[Tensor], Tensor]:
    from gguf import GGMLQuantizationType, quants  # here: only those who make a variant need it

    wanted = GGMLQuantizationType[format_name]

    def requantize(tensor: Tensor) -> Tensor:
        name, data, kind = tensor
        if kind != GGMLQuantizationType.Q4_1:  # norms, which stay in full precision
            return tensor
        return name, quants.quantize(quants.dequantize(data, kind), wanted), wanted

    return requantize


def _make_dropper(dropped: tuple[int, ...]) -> Callable[[Tensor], Tensor | None]:
    def drop_layer(tensor: Tensor) -> Tensor | None:
        """A tensor under the number that its layer has in the smaller model; None if its layer is dropped."""
        name, data, kind = tensor
        found = _LAYER.fullmatch(name)
        if found is None:
            return tensor
        layer = int(found[1])
        if layer in dropped:
            return None
        return f"blk.{layer - sum(other < layer for other in dropped)}.{found[2]}", data, kind

    return drop_layer


def _copy(source: Path, target: Path, change: Callable[[Tensor], Tensor | None], fewer_layers: int = 0) -> None:
    """Write a model file whose tensors are changed or left out."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":  # which the writer adds itself
            continue
        value, kind = field.contents(), field.types[0]
        if name == f"{architecture}.block_count":
            value -= fewer_layers
        writer.add_key_value(name, value, kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        kept = change((tensor.name, tensor.data, tensor.tensor_type))
        if kept is not None:
            name, data, stored = kept
            writer.add_tensor(name, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
