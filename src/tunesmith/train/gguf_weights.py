"""A GGUF file as a transformers folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tunesmith.data.gguf_header import check_gguf


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of `gguf` to `folder` as fp32 safetensors, whole or not at all."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    check_gguf(gguf)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        whole = Path(temporary) / folder.name
        # Without dequantize a later save_pretrained of the model raises.
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # transformers 5.17 takes the wrong token of SmolLM2 for the end of a turn: the file knows.
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(_end_of_turn(gguf))
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        tokenizer.save_pretrained(whole)
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.save_pretrained(whole)
        shutil.rmtree(folder, ignore_errors=True)
        whole.replace(folder)


def _end_of_turn(gguf: Path) -> int:
    """The id of the token that ends a turn, as the file names it."""
    from gguf import GGUFReader

    return int(GGUFReader(gguf).fields["tokenizer.ggml.eos_token_id"].contents())
