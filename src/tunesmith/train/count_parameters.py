"""A model's exact numbers of parameters, counted at the model itself; it can be built without its weights.

As a program (`python -m tunesmith.train.count_parameters`) it takes one JSON object on stdin, `name`, `path`
(of config.json), `revision` and `trust_remote_code`, and writes one line of JSON: `num_params`,
`num_linear_params` and `config`, or `error`. plan/base.py asks it about families that have no closed form.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from tunesmith.data.model_files import needs_code
from tunesmith.data.tokenizer import model_sentence
from tunesmith.errors import TunesmithError

# Layers lie in numbered lists; routed experts in one of their own within a layer.
_IN_A_LAYER = re.compile(r"\.\d+\.")
_EXPERT = re.compile(r"\.experts\.")
# Names that classes give to the same facts (their `attribute_map`).
_MAPPED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings")


def count_parameters_of(model: Any) -> tuple[int, int]:
    """Numbers of all parameters, tied ones once, and those of the decoder layers' linear modules.

    The second are weights and biases, as `linear` of `plan.parameters.Parameters`: routed experts aren't
    among them.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    def linear_in_layers(part: Any) -> set[Any]:
        return {
            weight
            for name, module in part.named_modules()
            if isinstance(module, torch.nn.Linear | Conv1D)
            and _IN_A_LAYER.search(f".{name}")
            and not _EXPERT.search(name)
            for weight in module.parameters()
        }

    # The text part of a multimodal model. A few classes name their head so (ModernBERT's).
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    weights = (linear_in_layers(decoder) if decoder else None) or linear_in_layers(model)
    return sum(weight.numel() for weight in model.parameters()), sum(weight.numel() for weight in weights)


def config_of(config: Any) -> dict[str, Any]:
    """A transformers configuration as a dictionary, in which sizes have their usual names too."""
    whole: dict[str, Any] = config.to_dict()
    nested = whole.get("text_config")
    text = nested if isinstance(nested, dict) else whole
    for key in _MAPPED:
        if text.get(key) is None:
            text[key] = getattr(config.get_text_config(), key, None)
    return whole


def count_without_weights(
    name: str, path: str, revision: str | None = None, *, trust_remote_code: bool = False
) -> dict[str, Any]:
    """The numbers of a causal language model, and its configuration with the class's defaults.

    The configuration is the one at `path`; where a model brings its own code, the one that `name` names.

    Raises:
        ModelError, DownloadError: no such model can be built.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    where = {"pretrained_model_name_or_path": name, "revision": revision} if trust_remote_code else {}
    where = where or {"pretrained_model_name_or_path": path}
    try:
        config = AutoConfig.from_pretrained(**where, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises many kinds; each becomes a sentence (test_plan_base.py)
        if "trust_remote_code" in str(error) and not trust_remote_code:
            raise needs_code(name, revision) from error
        raise model_sentence(name, error, "causal language model") from error
    num_params, num_linear = count_parameters_of(model)
    return {"num_params": num_params, "num_linear_params": num_linear, "config": config_of(config)}


def main() -> None:
    """Answer the request on stdin."""
    try:
        answer = count_without_weights(**json.load(sys.stdin))
    except TunesmithError as error:
        answer = {"error": error.as_dict()}
    sys.stdout.write(f"{json.dumps(answer, default=str)}\n")


if __name__ == "__main__":
    main()
