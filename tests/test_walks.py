"""Fewer walks over the model change nothing of what a training does."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from method_data import options_for, write_method_data
from running import rows_of, same_weights, tunesmith

from tunesmith.train import training
from tunesmith.train.walks import walk_less


@pytest.mark.parametrize("extra", [("--lora-dropout", "0.2"), ("--tuning", "full")], ids=["lora", "full"])
def test_a_training_with_evaluations_is_the_same_to_the_last_bit(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, extra: tuple[str, ...]
):
    """An evaluation turns dropout off, and the next step has to turn it on again."""
    monkeypatch.chdir(tmp_path)
    write_method_data(tmp_path, 24)
    for name in ("less", "as-ever"):
        if name == "as-ever":
            monkeypatch.setattr(training, "walk_less", lambda model: contextlib.nullcontext())
        ran = tunesmith(
            "train", *options_for("sft", tiny_model), "--test-size", "4", "--eval-steps", "1",
            "--run-dir", f"runs/{name}", *extra,
        )  # fmt: skip
        assert ran.code == 0, ran.err
    for key in ("loss", "eval_loss", "grad_norm"):
        assert rows_of(Path("runs/less"), key) == rows_of(Path("runs/as-ever"), key)
    assert same_weights(Path("runs/less/model"), Path("runs/as-ever/model"))


def test_mode_gradients_and_counts_are_those_of_the_whole_model(tiny_model: Path):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    counts = model.num_parameters(), model.num_parameters(exclude_embeddings=True)
    weights = list(model.parameters())
    with walk_less(model):
        assert all(one is other for one, other in zip(model.parameters(), weights, strict=True))
        assert not list(model.parameters(recurse=False))
        assert (model.num_parameters(), model.num_parameters(exclude_embeddings=True)) == counts
        for mode in (True, True, False, True):
            model.train(mode)
            assert {each.training for each in model.modules()} == {mode}
        model.eval()
        assert {each.training for each in model.modules()} == {False}
        model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
        model.zero_grad(set_to_none=False)
        assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())
        model.zero_grad()
        assert all(weight.grad is None for weight in model.parameters())
    model.add_module("late", torch.nn.Linear(2, 2))
    assert len(list(model.parameters())) == len(weights) + 2
    assert model.num_parameters() == counts[0] + 6
