"""Passes captured as CUDA graphs: the same training, whatever comes between a pass and the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fused import batch, results
from method_data import write_method_data
from test_documents import ROWS, WORDS, assert_near, on

from tunesmith.train.documents import read_documents

TUNINGS = ("lora", "full")
# Three lengths of the row; the last has one document less.
BATCHES = [
    batch(ROWS),
    batch([(WORDS * 2, [5, 6, 7]), *ROWS[1:]]),
    batch([(WORDS * 3, [5, 6, 7]), (WORDS, [9, 8])]),
]


@pytest.fixture
def make(tiny_model: Path) -> Callable[..., Any]:
    """Makes the tiny model with documents, its layers captured or not."""
    from tunesmith.train.attention import has_varlen

    if not has_varlen():
        pytest.skip("CUDA graphs over varlen attention need a CUDA device from Ampere on")
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    def made(
        tuning: str, *, captured: bool, said: list[str] | None = None, spoil: Any = None, **how: Any
    ) -> Any:
        torch.manual_seed(0)
        dtype = torch.float32 if tuning == "full" else torch.bfloat16
        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype).to("cuda")
        add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
        model = base
        if tuning == "lora":
            lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
            model = get_peft_model(base, lora)
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=0.1)
        said = [] if said is None else said
        made.said = said
        read_documents(base, "varlen", said.append)
        if spoil:
            spoil(base)
        if captured:
            from tunesmith.train.captured import Captured

            model.captured = Captured(base.base_model, said.append, **how)
        inner = model.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast("cuda", torch.bfloat16):
                return inner(*args, **kwargs)

        model.forward = forward
        return model

    return made


def train(model: Any, num_steps: int = 6, accumulate: int = 2) -> list[float]:
    """Losses of a short training over all shapes in turn, gradients added up over two batches."""
    import torch

    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.02)
    losses, turn = [], 0
    for _ in range(num_steps):
        for _ in range(accumulate):
            ids, mask, labels = on(model, BATCHES[turn % len(BATCHES)])
            turn += 1
            out = model(
                input_ids=ids, attention_mask=mask, labels=labels, use_cache=False, fused_lm_head=True
            )
            loss = -out.log_probs.mean()
            loss.backward()
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return losses


def replays(model: Any) -> int:
    return sum(graphs is not None for pool in model.captured._pools.values() for graphs in pool.seen.values())


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_captured_training_is_the_training(make, tuning: str):
    plain, model = make(tuning, captured=False), make(tuning, captured=True)
    expected = train(plain)
    found = train(model)
    assert replays(model) == len(BATCHES), make.said
    assert found == pytest.approx(expected, rel=2e-3)
    assert expected[-1] < expected[0]
    trained = zip(model.parameters(), plain.parameters(), strict=True)
    for one, other in ((a, b) for a, b in trained if b.requires_grad):
        assert_near(one.detach(), other.detach(), 1e-3)


@pytest.mark.parametrize(("eager", "num_replayed"), [(2**20, len(BATCHES)), (2**50, 0)])
def test_passes_are_captured_where_the_plan_leaves_room_for_them(make, eager: float, num_replayed: int):
    from tunesmith.plan.room import Room

    model = make("full", captured=True, room=Room(eager, 2**20, 64, 2**40))
    train(model)
    assert replays(model) == num_replayed


@pytest.mark.parametrize("tuning", TUNINGS)
def test_gradients_are_those_of_the_layers_themselves(make, tuning: str):
    plain, model = make(tuning, captured=False), make(tuning, captured=True)
    for given in BATCHES * 3:
        expected = results(plain, *on(plain, given))
        found = results(model, *on(model, given))
        for one, other in zip(found[:2], expected[:2], strict=True):
            assert_near(one, other, 1e-2)
        for name, gradient in expected[3].items():
            assert_near(found[3][name], gradient, 1e-2, name)
    assert replays(model) == len(BATCHES)


def test_a_second_pass_before_the_first_went_back_keeps_both_right(make):
    plain, model = make("lora", captured=False), make("lora", captured=True)
    for _ in range(3):
        gradients = []
        for each in (plain, model):
            each.zero_grad()
            outs = []
            for given in BATCHES[:2]:
                ids, mask, labels = on(each, given)
                outs.append(each(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True))
            (outs[0].log_probs.sum() + outs[1].log_probs.sum()).backward()
            gradients.append({name: w.grad.clone() for name, w in each.named_parameters() if w.requires_grad})
        for name, gradient in gradients[0].items():
            assert_near(gradients[1][name], gradient, 1e-2, name)
    assert replays(model) > 0


def test_a_reference_without_the_adapter_is_asked_between_the_passes(make):
    import torch

    plain, model = make("lora", captured=False), make("lora", captured=True)
    ids, mask, labels = on(model, BATCHES[0])
    call = {"input_ids": ids, "attention_mask": mask, "labels": labels, "fused_lm_head": True}
    for _ in range(4):
        gradients, references = [], []
        for each in (plain, model):
            each.zero_grad()
            out = each(**call)
            with torch.no_grad(), each.disable_adapter():
                references.append(each(**call).log_probs)
            out.log_probs.sum().backward()
            gradients.append({name: w.grad.clone() for name, w in each.named_parameters() if w.requires_grad})
        assert_near(references[1], references[0], 1e-2)
        for name, gradient in gradients[0].items():
            assert_near(gradients[1][name], gradient, 1e-2, name)
    assert replays(model) == 2


def test_layers_that_ask_the_gpu_are_left_as_they_are(make):
    import torch

    def spoil(base: Any) -> None:
        layer = base.model.layers[1].mlp
        inner = layer.forward
        layer.forward = lambda x: inner(x) * (1.0 if float(x.detach().abs().sum()) >= 0 else 2.0)

    said: list[str] = []
    plain, model = (
        make("lora", captured=False, spoil=spoil),
        make("lora", captured=True, said=said, spoil=spoil),
    )
    assert train(model) == pytest.approx(train(plain), rel=2e-3)
    assert replays(model) == 0
    assert len(said) == 1
    assert "captured" in said[0]
    # Random numbers are drawn as before.
    torch.rand(4, device="cuda")


def test_dropout_differs_from_step_to_step(make):
    import torch

    model = make("lora", captured=True)
    for module in model.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = torch.nn.Dropout(0.5)
    model.train()
    found = [results(model, *on(model, BATCHES[0]))[0] for _ in range(5)]
    assert replays(model) == 1
    assert not torch.equal(found[-1], found[-2])


@pytest.mark.parametrize("tuning", TUNINGS)
def test_what_a_captured_run_saves_is_read_by_plain_peft_and_transformers(
    make, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuning: str
):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tunesmith.config.loading import load_config
    from tunesmith.plan.choice import WORTH_CAPTURING
    from tunesmith.runs.folder import RunFolder
    from tunesmith.train import captured
    from tunesmith.train.setup import set_up
    from tunesmith.train.training import train as train_setup

    monkeypatch.chdir(tmp_path)
    write_method_data(tmp_path, 8)
    shapes: list[int] = []
    capture = captured.Captured._capture

    def counted(self: Any, call: Any, asked: bool) -> Any:
        shapes.append(call["input_ids"].numel())
        return capture(self, call, asked)

    monkeypatch.setattr(captured.Captured, "_capture", counted)
    flags = {"method": "sft", "model": str(tiny_model), "dataset": "chats.jsonl", "tuning": tuning,
             "global_batch_size": 4, "max_steps": WORTH_CAPTURING, "learning_rate": 0.005,
             "device": "cuda"}  # fmt: skip
    config = load_config(flags=flags, assignments=["trl.report_to=none"], environ={}).config
    setup = set_up(config, lambda event: None)
    run = RunFolder.create(Path("run"), setup.record())
    trained = train_setup(setup, run, lambda event: None).model.eval()
    assert shapes
    if tuning == "lora":
        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
        saved = PeftModel.from_pretrained(base, run.model_path)
    else:
        saved = AutoModelForCausalLM.from_pretrained(run.model_path, dtype=trained.dtype)
    ids = torch.tensor([[5, 9, 200, 31, 7]], device="cuda")
    # Both in fp32, without the autocast that accelerate puts around forward: rounding is not asked here.
    vars(trained).pop("forward", None)
    trained = trained.float()
    saved = saved.to("cuda").float().eval()
    with torch.inference_mode():
        expected = trained(input_ids=ids, use_cache=False).logits
        assert_near(saved(input_ids=ids, use_cache=False).logits, expected, 1e-4)
