"""Layers compiled in the middle of a run: only where it pays, with the same training and the same files."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from method_data import write_method_data
from running import rows_of

from tunesmith.train import compiled
from tunesmith.train.compiled import NUM_WARM, NUM_WATCHED, CompileCallback


def watch(monkeypatch: pytest.MonkeyPatch, step_s: float, max_steps: int) -> tuple[int, list[str]]:
    """At which step of a run with such steps its layers were compiled (0 for never), and what was said."""
    now, said, compiled_at = [0.0], [], [0]
    monkeypatch.setattr(compiled.time, "monotonic", lambda: now[0])
    state = SimpleNamespace(global_step=0, max_steps=max_steps)

    def compile_layers(model: object) -> int:
        assert not compiled_at[0], "compiled twice"
        compiled_at[0] = state.global_step
        return 2

    monkeypatch.setattr(compiled, "compile_layers", compile_layers)
    callback = CompileCallback(None, said.append)
    for step in range(1, min(max_steps, 40) + 1):
        callback.on_step_begin(None, state, None)
        # The first step holds what happens once.
        now[0] += 60.0 if step == 1 else step_s
        state.global_step = step
        callback.on_step_end(None, state, None)
    return compiled_at[0], said


def test_a_long_run_is_compiled_once_its_pace_is_known(monkeypatch):
    at, said = watch(monkeypatch, step_s=0.2, max_steps=10_000)
    assert at == NUM_WARM + NUM_WATCHED
    assert len(said) == 1
    assert "compiling" in said[0]


@pytest.mark.parametrize(("step_s", "max_steps"), [(0.2, 100), (0.2, 5), (0.001, 10_000)])
def test_a_run_too_short_to_earn_it_back_is_not(monkeypatch, step_s: float, max_steps: int):
    assert watch(monkeypatch, step_s, max_steps) == (0, [])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++")
def test_a_compiled_training_is_the_same_and_its_adapter_loads_in_plain_peft(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    import torch
    from peft import PeftModel
    from torch._dynamo.utils import counters
    from transformers import AutoModelForCausalLM

    from tunesmith.config.loading import load_config
    from tunesmith.runs.folder import RunFolder
    from tunesmith.train.setup import set_up
    from tunesmith.train.training import train

    monkeypatch.setattr(compiled, "COST_S", 0.0)
    write_method_data(tmp_path, 24)
    flags = {"method": "sft", "model": str(tiny_model), "dataset": str(tmp_path / "chats.jsonl"),
             "max_steps": 12, "global_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1}  # fmt: skip
    setup = set_up(load_config(flags=flags, assignments=["trl.report_to=none"], environ={}).config, print)
    trained, said = [], []
    for may_compile in (False, True):
        run = RunFolder.create(tmp_path / f"compiled-{may_compile}", setup.record())
        choice = dataclasses.replace(setup.choice, may_compile=may_compile)
        trained.append(train(dataclasses.replace(setup, choice=choice), run, said.append).model)
    assert any("compiling" in str(each) for each in said)
    assert counters["stats"]["calls_captured"] > 0, "nothing was compiled"
    losses = [rows_of(tmp_path / f"compiled-{each}") for each in (False, True)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    ids = torch.arange(5, 30)[None]
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path / "compiled-True" / "model"
    )
    found = plain(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(
        found, trained[1].eval()(input_ids=ids, use_cache=False).logits, rtol=1e-4, atol=1e-5
    )
