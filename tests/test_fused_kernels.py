"""Liger's kernels in a model's layers: the same numbers, and the classes of transformers given back."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from fused import batch, results
from test_documents import ROWS, assert_near, on

from tunesmith.train.fused_kernels import kernels_fused


@pytest.fixture
def make(tiny_model: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    if importlib.util.find_spec("liger_kernel") is None or not torch.cuda.is_available():
        pytest.skip("Liger's kernels need a CUDA device and the extra gpu")

    def made() -> Any:
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).to("cuda")
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
        return model

    return made


def test_numbers_and_gradients_are_those_of_the_layers_themselves(make):
    given = batch(ROWS)
    plain, model = make(), make()
    expected = results(plain, *on(plain, given))
    said: list[str] = []
    with kernels_fused([model], said.append):
        assert "Liger" in type(model.model.norm).__name__ or "liger" in model.model.norm.forward.__module__
        found = results(model, *on(model, given))
    assert said == []
    for one, other in zip(found[:2], expected[:2], strict=True):
        assert_near(one, other, 1e-2)
    for name, gradient in expected[3].items():
        assert_near(found[3][name], gradient, 1e-2, name)


def test_models_made_afterwards_have_the_layers_of_transformers(make):
    from transformers.models.llama import modeling_llama

    before = dict(vars(modeling_llama))
    with kernels_fused([make()], lambda message: None):
        pass
    after = vars(modeling_llama)
    assert all(after[name] is value for name, value in before.items())


def test_without_liger_nothing_is_changed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said: list[str] = []
    with kernels_fused([object()], said.append):
        pass
    assert said == []
