"""F27, F47: what an adapter learned is in the merged model, to the precision of its base and no less."""

from __future__ import annotations

import math

import numpy as np
import pytest
from export_models import write_adapter

from tunesmith.errors import ConfigError, ModelError
from tunesmith.export.divergence import Compared, compared, log_probabilities
from tunesmith.export.merge import merge, stored_dtype
from tunesmith.export.reference import compare_folder, reference_of
from tunesmith.export.samples import Row, Samples
from tunesmith.export.trained import trained_elsewhere
from tunesmith.export.verify import verify_merged

SAMPLES = Samples([Row(list(range(5, 45)), 0), Row(list(range(60, 90)), 4)], [], "rows of this test")
KINDS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "a bias of its own": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "embeddings that are tied": {"target_modules": ["q_proj", "embed_tokens"]},
    "an output layer that was tied": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "ranks of their own": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
}


def in_precision(model, folder, dtype):
    """A copy of the model stored in `dtype`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def reference_for(trained, tmp_path):
    return reference_of(trained, SAMPLES, tmp_path / "reference.npy")


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    """The tiny model with weights so large that what it predicts depends on each of them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("strong") / "base"
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 8 if weight.dim() > 1 else 1
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapted(base, tmp_path_factory):
    adapter = write_adapter(base, tmp_path_factory.mktemp("adapted") / "adapter")
    return trained_elsewhere(str(base), str(adapter))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_f27_f47_the_merged_model_predicts_what_base_and_adapter_predict(kind, base, tmp_path):
    adapter = write_adapter(base, tmp_path / "adapter", **KINDS[kind])
    trained = trained_elsewhere(str(base), str(adapter))
    reference = reference_for(trained, tmp_path)
    assert compare_folder(base, reference).mean_divergence > 1e-3  # the adapter does something
    dtype = merge(trained, tmp_path / "merged")
    verified = verify_merged(tmp_path / "merged", dtype, reference)
    assert verified.passed, verified.failures
    assert verified.checks["top1_agreement"] == 1.0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_f27_a_base_in_sixteen_bit_is_merged_in_fp32_and_rounded_once(dtype, base, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = in_precision(base, tmp_path / "rounded", dtype)
    adapter = write_adapter(base, tmp_path / "adapter")
    trained = trained_elsewhere(str(base), str(adapter))
    assert merge(trained, tmp_path / "merged") == stored_dtype(tmp_path / "merged") == dtype
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    exact = PeftModel.from_pretrained(whole, adapter).merge_and_unload().to(getattr(torch, dtype))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    for name, weight in exact.state_dict().items():
        assert torch.equal(weight, merged.state_dict()[name]), name
    assert verify_merged(tmp_path / "merged", dtype, reference_for(trained, tmp_path)).passed


def test_f27_a_merge_in_bf16_of_a_base_in_fp32_is_caught(adapted, tmp_path):
    reference = reference_for(adapted, tmp_path)
    merge(adapted, tmp_path / "merged")
    rounded = in_precision(tmp_path / "merged", tmp_path / "rounded", "bfloat16")
    verified = verify_merged(rounded, "float32", reference)
    assert "adapter to merged: next tokens diverge by" in verified.failures[0]


@pytest.mark.parametrize("part", ["q_proj", "down_proj", "embed_tokens"])
def test_f27_noise_on_one_tensor_of_the_merged_model_is_caught(part, adapted, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    reference = reference_for(adapted, tmp_path)
    merge(adapted, tmp_path / "merged")
    path = tmp_path / "merged" / "model.safetensors"
    tensors = load_file(path)
    name = next(each for each in tensors if part in each)
    torch.manual_seed(1)
    tensors[name] *= 1 + 0.05 * torch.randn_like(tensors[name])
    save_file(tensors, path, {"format": "pt"})
    assert not verify_merged(tmp_path / "merged", "float32", reference).passed


def test_f27_an_adapter_on_a_base_of_another_shape_is_named(adapted, tmp_path):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(adapted.base)
    config.hidden_size, config.head_dim = 64, 16
    with torch.random.fork_rng():
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    adapted.tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="doesn't fit the base"):
        merge(trained_elsewhere(str(tmp_path / "other"), str(adapted.adapter)), tmp_path / "merged")


def test_an_adapter_names_its_own_base_and_is_no_base_itself(adapted):
    alone = trained_elsewhere(str(adapted.adapter), None)
    assert (alone.base, alone.adapter) == (adapted.base, adapted.adapter)
    with pytest.raises(ConfigError, match="is an adapter itself"):
        trained_elsewhere(str(adapted.adapter), str(adapted.adapter))


def test_divergence_is_that_of_the_definition_and_no_numbers_are_no_agreement():
    rng = np.random.default_rng(3)
    known, other = (rng.normal(size=(6, 9)).astype(np.float32) for _ in range(2))
    p, q = (np.exp(each) / np.exp(each).sum(-1, keepdims=True) for each in (known, other))
    expected = (p * np.log(p / q)).sum(-1).mean()
    tokens = np.arange(6)
    found = compared(log_probabilities(known), other, tokens)
    assert found.mean_divergence == pytest.approx(expected, rel=1e-5)
    assert found.top1_agreement == (p.argmax(-1) == q.argmax(-1)).mean()
    assert found.perplexity == pytest.approx(math.exp(-np.log(q[tokens, tokens]).mean()), rel=1e-5)
    broken = other.copy()
    broken[2, 1] = np.nan
    assert compared(log_probabilities(known), broken, tokens).mean_divergence == math.inf
    assert math.isnan(Compared().mean_divergence)
