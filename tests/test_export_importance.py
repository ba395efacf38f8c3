"""Importance matrices: what llama.cpp multiplies each column with, as torch sees it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from export_models import write_model
from tiny import chat_rows, write_jsonl

from tunesmith.cli.demo import ready_weights
from tunesmith.errors import ConfigError, DataError, ModelError
from tunesmith.export import converter
from tunesmith.export.asking import measure_importance, quantize
from tunesmith.export.calibration import MAX_TOKENS, calibration_rows
from tunesmith.export.exporting import Wanted, export
from tunesmith.export.trained import trained_elsewhere

ROWS = [list(range(10, 90)), list(range(200, 340))]
MODULES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


@pytest.fixture
def smollm(user_cache, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(user_cache))
    monkeypatch.setattr("tunesmith.export.reference.MAX_NEW_TOKENS", 8)
    return ready_weights(lambda event: None)


def converted(architecture, smollm, tmp_path):
    model = write_model(architecture, smollm, tmp_path / "model")
    converter.convert(model, tmp_path / "F16.gguf", "F16", name="m")
    measure_importance(tmp_path / "F16.gguf", ROWS, tmp_path / "imatrix.npz", threads=1)
    with np.load(tmp_path / "imatrix.npz") as stored:
        return model, {name: stored[name] for name in stored.files}


def inputs_of(model, names):
    """What each named module is given for ROWS: (tokens, columns), and what the router `gate` gives."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    seen = {name: [] for name in names}
    hooks = [
        loaded.get_submodule(name).register_forward_hook(
            lambda _, given, made, name=name: seen[name].append((given[0], made))
        )
        for name in names
    ]
    with torch.inference_mode():
        for ids in ROWS:
            loaded(input_ids=torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.slow
def test_columns_matter_as_much_as_the_squares_that_they_are_multiplied_with(smollm, tmp_path):
    model, found = converted("llama", smollm, tmp_path)
    names = {
        f"blk.{i}.{ours}.weight": f"model.layers.{i}.{theirs}"
        for i in (0, 1)
        for ours, theirs in MODULES.items()
    }
    assert found.keys() == names.keys()
    seen = inputs_of(model, names.values())
    for ours, theirs in names.items():
        rows = np.concatenate([given.reshape(-1, given.shape[-1]).numpy() for given, _ in seen[theirs]])
        expected = np.square(rows, dtype=np.float64).mean(0)
        assert np.abs(found[ours] - expected).max() < 0.02 * expected.max(), ours


@pytest.mark.slow
def test_each_expert_counts_the_tokens_that_came_to_it(smollm, tmp_path):
    model, found = converted("qwen3_moe", smollm, tmp_path)
    router = "model.layers.0.mlp.gate"
    seen = inputs_of(model, [router])[router]
    rows = np.concatenate([given.reshape(-1, given.shape[-1]).numpy() for given, _ in seen])
    logits = np.concatenate([(made[0] if isinstance(made, tuple) else made).numpy() for _, made in seen])
    chosen = np.argsort(-logits, axis=-1)[:, :2]
    expected = np.stack(
        [np.square(rows[(chosen == expert).any(1)], dtype=np.float64).mean(0) for expert in range(4)]
    )
    ours = found["blk.0.ffn_gate_exps.weight"].reshape(4, -1)
    # Where two experts are as likely, 16 bit may choose the other one.
    assert np.abs(ours - expected).mean() < 0.05 * expected.mean()


@pytest.mark.slow
def test_what_was_weighed_is_verified_to_the_byte_and_what_needs_it_can_be_had(smollm, tmp_path):
    model = write_model("llama", smollm, tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text("\n".join(message["content"] for row in chat_rows(80) for message in row["messages"]))
    said: list[str] = []
    wanted = Wanted(("gguf",), ("Q4_K_M", "IQ2_XS"), imatrix=str(text))
    files = export(trained_elsewhere(str(model), None), wanted, tmp_path / "out", said.append)
    assert [each.checks["tensors_that_differ"] for each in files] == [0, 0]
    assert [each.imatrix for each in files] == [str(text)] * 2
    assert any(f"tokens of {text} for the importance matrix" in each for each in said)
    converter.convert(model, tmp_path / "F16.gguf", "F16", name="m")
    quantize(tmp_path / "F16.gguf", tmp_path / "plain.gguf", "Q4_K_M", threads=1)
    assert (tmp_path / "plain.gguf").read_bytes() != files[0].path.read_bytes()
    with pytest.raises(ModelError, match="can't be quantised to IQ2_XS") as refused:
        quantize(tmp_path / "F16.gguf", tmp_path / "no.gguf", "IQ2_XS", threads=1)
    assert "it may need --imatrix DATA" in refused.value.fix


def test_texts_are_read_from_a_dataset_or_a_file_up_to_a_limit(tiny_model, tmp_path):
    trained = trained_elsewhere(str(tiny_model), None)
    data = write_jsonl(tmp_path / "chats.jsonl", chat_rows(60))
    rows = calibration_rows(trained, str(data))
    assert sum(map(len, rows)) >= 256
    assert "<|im_start|>" in trained.tokenizer.decode(rows[0]) or trained.tokenizer.chat_template is None
    (tmp_path / "long.txt").write_text("Zwei Boote lagen im Hafen. " * 20_000)
    kept = calibration_rows(trained, str(tmp_path / "long.txt"))
    assert MAX_TOKENS <= sum(map(len, kept)) < MAX_TOKENS + 512
    assert math.isclose(len(kept[0]), 512)


def test_data_that_tell_nothing_are_refused_before_anything_is_written(tiny_model, tmp_path):
    trained = trained_elsewhere(str(tiny_model), None)
    short = tmp_path / "short.txt"
    short.write_text("too little")
    with pytest.raises(DataError, match="too few to tell which weights matter"):
        export(trained, Wanted(("merged",), imatrix=str(short)), tmp_path / "out", print)
    assert not (tmp_path / "out").exists()
    for name in ("nowhere.txt", "nowhere.jsonl"):
        with pytest.raises((DataError, ConfigError)) as missing:
            calibration_rows(trained, str(tmp_path / name))
        assert "nowhere" in missing.value.message
