"""An adapter merged into its base, in fp32 a layer at a time, so that one copy of the model is enough.

peft adds what a layer learned in the precision of its weight: on a base in 16 bit small changes are lost
before they are rounded. Here each layer is merged in fp32 and rounded once, to the precision of the base.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError, first_words
from tunesmith.export.trained import Trained
from tunesmith.plan.parameters import stored_parameters

# Weights are copied once more while a file of them is written.
SHARD = "500MB"
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def merge(trained: Trained, folder: Path, progress: Callable[[str], None] = lambda said: None) -> str:
    """Write the merged model with its tokenizer into `folder`; the name of its precision comes back.

    Raises:
        ModelError: base and adapter don't belong together, or can't be loaded.
    """
    base = trained.base_path
    dtype = stored_dtype(base)
    progress(f"merging {trained.name} in fp32, kept in {dtype}")
    model = load_base(base, dtype, four_bit=trained.four_bit)
    if trained.adapter_path is not None:
        model = _merged(model, base, trained.adapter_path)
    model.save_pretrained(folder, max_shard_size=SHARD)
    trained.tokenizer.save_pretrained(folder)
    keep_generation_config(trained, base, folder)
    return dtype


def load_base(base: Path, dtype: str, *, four_bit: bool = False) -> Any:
    """The base on the CPU; of an adapter that was trained in 4 bit as that adapter saw it, dequantised."""
    import torch
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if four_bit:
        from tunesmith.train.model import four_bit_config

        options["quantization_config"] = four_bit_config(torch.float32)
    fix = "pip install 'tunesmith[qlora]'" if four_bit else "check the folder, or fetch it again"
    with _in_a_sentence(f"the base {base} can't be loaded", base, fix):
        model = AutoModelForCausalLM.from_pretrained(base, use_safetensors=True, **options)
        return model.dequantize() if four_bit else model


def load_adapted(model: Any, base: Path, adapter: Path) -> Any:
    """`model` with the adapter beside it, unmerged, its weights in fp32.

    Raises:
        ModelError: it doesn't fit this base.
    """
    from peft import PeftModel

    what = f"the adapter {adapter} doesn't fit the base {base}"
    with _in_a_sentence(what, adapter, "name the base that it was trained on"):
        return PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=True).eval()


def stored_dtype(folder: Path) -> str:
    """The precision that most numbers of a folder's safetensors have: float32, bfloat16 or float16."""
    counts = stored_parameters(folder) or {}
    known = {name: count for name, count in counts.items() if name in _DTYPES}
    if not known:
        raise ModelError(
            f"{folder} has no weights in safetensors of 32 or 16 bit",
            where=str(folder),
            fix="export from the model before it was quantised",
        )
    return _DTYPES[max(known, key=lambda name: known[name])]


def keep_generation_config(trained: Trained, base: Path, folder: Path) -> None:
    """Take over how the trained model generates: the run's own settings, else the base's."""
    for source in (Path(trained.tokenizer_source), base):
        path = source / "generation_config.json"
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
            return


def _merged(model: Any, base: Path, adapter: Path) -> Any:
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped = load_adapted(model, base, adapter)
    fix = "its values may be no numbers: train it again, or export --format adapter"
    with _in_a_sentence(f"the adapter {adapter} can't be merged", adapter, fix), torch.no_grad():
        _untie_adapted(wrapped.get_base_model())
        for layer in wrapped.modules():
            if isinstance(layer, BaseTunerLayer):
                weights = layer.get_base_layer()
                kept = weights.weight.dtype
                weights.to(torch.float32)
                layer.merge(safe_merge=True)
                weights.to(kept)
        return wrapped.merge_and_unload()  # what is merged already stays as it is


@contextmanager
def _in_a_sentence(what: str, where: Path, fix: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # transformers and peft raise many kinds (test_export_merge.py)
        raise ModelError(f"{what}: {first_words(error)}", where=str(where), fix=fix) from error


def _untie_adapted(model: Any) -> None:
    """Give the output layer weights of its own where an adapter changes one of two that are tied."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    adapted = any(isinstance(each, BaseTunerLayer | AuxiliaryTrainingWrapper) for each in ends)
    if not (adapted and model.config.get_text_config().tie_word_embeddings):
        return
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
    output = ends[1].get_base_layer() if isinstance(ends[1], BaseTunerLayer) else ends[1]
    if not isinstance(output, AuxiliaryTrainingWrapper):
        output.weight = torch.nn.Parameter(output.weight.detach().clone())
