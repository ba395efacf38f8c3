"""A GGUF file as a transformers folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of `gguf` to `folder` as fp32 safetensors, whole or not at all."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        whole = Path(temporary) / folder.name
        # Without dequantize a later save_pretrained of the model raises.
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True)
        )
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(whole)
        model.save_pretrained(whole)
        shutil.rmtree(folder, ignore_errors=True)
        whole.replace(folder)
