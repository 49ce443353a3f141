"""Turns a GGUF file into the folder of safetensors, configuration and tokenizer that vLLM loads, in bfloat16.

Run as ``python make_safetensors.py GGUF FOLDER`` with vLLM's Python, which has torch and transformers.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Command line."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    dequantize = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, quantization_config=dequantize)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    part = target.with_name(f"{target.name}.part")
    model.to(torch.bfloat16).save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(target)


if __name__ == "__main__":
    main()
