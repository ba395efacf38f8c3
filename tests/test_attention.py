"""Attention kernels: those that lose a run are left out."""

from __future__ import annotations

import pytest

from tunesmith.train.attention import leave_out_cudnn


@pytest.fixture
def on_cuda():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch


def test_a_padded_batch_of_sixty_four_tokens_has_finite_gradients_on_a_gpu(on_cuda):
    """pytorch/pytorch#196678: without the switch the first gradient is NaN on an H100 (torch 2.11)."""
    torch = on_cuda
    leave_out_cudnn()
    query, key, value = (torch.randn(4, 9, 64, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    key[..., 0], query[..., 0] = -120 * 8, 1.0
    for each in (query, key, value):
        each.requires_grad_()
    mask = torch.ones(64, 64, dtype=torch.bool, device="cuda").tril()[None, None]
    torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in (query, key, value))


def test_loading_a_model_for_a_gpu_leaves_cudnn_out(monkeypatch):
    import torch

    from tunesmith.train import setup

    monkeypatch.setattr(setup, "load_model", lambda *_: None)
    torch.backends.cuda.enable_cudnn_sdp(True)
    made = type("Setup", (), {"config": None, "method": None, "origin": None})()
    made.choice = type("Choice", (), {"device": "cuda"})()
    setup.load_base(made, lambda event: None)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_answers_are_generated_as_before_where_documents_are_read(tiny_model):
    """Generation pads its prompts on the left; the attention that reads documents leaves that to PyTorch."""
    import torch
    from fused import batch
    from transformers import AutoModelForCausalLM

    from tunesmith.train.attention import VARLEN, register_varlen

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids, mask, _ = batch([([5, 9, 30], []), (list(range(20, 40)), []), ([7, 8], [])], left=True)
    given = {
        "input_ids": ids,
        "attention_mask": mask,
        "max_new_tokens": 8,
        "do_sample": False,
        "pad_token_id": 0,
    }
    expected = model.generate(**given)
    register_varlen()
    model.set_attn_implementation(VARLEN)
    assert torch.equal(model.generate(**given), expected)
