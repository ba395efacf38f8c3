"""F27, F28: GGUF files of many architectures, read by the real llama.cpp, and faults planted at each stage.

The converter, llama.cpp's library and SmolLM2's tokenizer come from the package registries, once.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from export_models import BPE_ARCHITECTURES, write_adapter, write_model, write_sentencepiece

from tunesmith.data.gguf_support import SUPPORT_PATH
from tunesmith.errors import ModelError
from tunesmith.export import converter
from tunesmith.export.asking import quantize
from tunesmith.export.exporting import Wanted, export
from tunesmith.export.reference import reference_of
from tunesmith.export.samples import samples_of
from tunesmith.export.trained import trained_elsewhere
from tunesmith.export.verify import verify_gguf, verify_gguf_lora

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module", autouse=True)
def real_cache(user_cache):
    """Tools and weights of the user's cache: they are large, and the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(user_cache))
        patch.setattr("tunesmith.export.reference.MAX_NEW_TOKENS", 8)
        yield


@pytest.fixture(scope="module")
def smollm(real_cache):
    """The folder of SmolLM2-135M-Instruct, whose tokenizer llama.cpp knows."""
    from tunesmith.cli.demo import ready_weights

    return ready_weights(lambda event: None)


@pytest.mark.parametrize("architecture", BPE_ARCHITECTURES)
def test_f28_an_architecture_goes_to_f16_with_tensors_ids_template_and_predictions(
    architecture, smollm, tmp_path
):
    base = write_model(architecture, smollm, tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter")
    trained = trained_elsewhere(str(base), str(adapter))
    (file,) = export(trained, Wanted(("gguf",), ("F16",)), tmp_path / "out", print)
    assert file.failures == ()
    assert file.verified
    assert file.checks["tensors_that_differ"] == 0
    assert file.checks["texts_tokenised_alike"] == "33/33"
    assert file.checks["chat_template_equal"]
    assert file.checks["chats_rendered_alike"] == "3/3"
    assert file.checks["mean_divergence"] < 1e-3


def test_f28_an_adapter_as_gguf_says_on_its_base_what_was_trained(smollm, tmp_path):
    base = write_model("llama", smollm, tmp_path / "base")
    trained = trained_elsewhere(str(base), str(write_adapter(base, tmp_path / "adapter")))
    copy, lora = export(trained, Wanted(("gguf-lora", "adapter")), tmp_path / "out", print)
    assert (copy.format, lora.format) == ("adapter", "gguf-lora")
    for each in (copy, lora):
        assert each.failures == ()
        assert each.verified
    assert lora.checks["mean_divergence"] < 1e-3
    assert {each.name for each in (tmp_path / "out").iterdir()} == {"adapter", "adapter-lora-F16.gguf"}
    # On another base it is no longer what was trained.
    converter.convert(base, tmp_path / "base.gguf", "F16", name="base")
    reference = reference_of(trained, samples_of(trained), tmp_path / "reference.npy")
    other = write_model("llama", smollm, tmp_path / "other", seed=9)
    converter.convert(other, tmp_path / "other.gguf", "F16", name="other")
    found = {
        name: verify_gguf_lora(lora.path, tmp_path / f"{name}.gguf", reference, trained.tokenizer, threads=1)
        for name in ("base", "other")
    }
    assert found["base"].passed
    assert "adapter to GGUF: next tokens diverge" in found["other"].failures[0]


def test_f28_gemma_with_sentencepiece_goes_the_same_way(tmp_path):
    tokenizer = write_sentencepiece(tmp_path / "tokenizer")
    base = write_model("gemma", tokenizer, tmp_path / "base")
    (file,) = export(trained_elsewhere(str(base), None), Wanted(("gguf",), ("F16",)), tmp_path / "out", print)
    assert file.failures == ()
    assert file.verified


def test_f40_an_architecture_or_a_tokenizer_that_is_not_known_is_told_before_anything_is_made(
    smollm, tiny_model, tmp_path
):
    with pytest.raises(ModelError, match="its pre-tokenizer"):
        export(trained_elsewhere(str(tiny_model), None), Wanted(("gguf",)), tmp_path / "out", print)
    shutil.copytree(tiny_model, tmp_path / "odd")
    config = json.loads((tmp_path / "odd" / "config.json").read_text())
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config | {"architectures": ["OddForCausalLM"]}))
    with pytest.raises(ModelError, match="doesn't know the architecture OddForCausalLM"):
        export(trained_elsewhere(str(tmp_path / "odd"), None), Wanted(("gguf",)), tmp_path / "out", print)
    assert not (tmp_path / "out").exists()


def test_f40_what_is_told_before_training_is_what_the_converter_knows():
    assert json.loads(SUPPORT_PATH.read_text("utf-8")) == converter.support()


# --- planted faults -------------------------------------------------------------------------------------


class Bench:
    """A model, its reference, and its F16 and Q8_0 files; `check` says what is wrong with a file."""

    def __init__(self, folder: Path, smollm: Path) -> None:
        self.model = write_model("llama", smollm, folder / "model")
        self.trained = trained_elsewhere(str(self.model), None)
        self.tokenizer = self.trained.tokenizer
        samples = samples_of(self.trained)
        self.reference = reference_of(self.trained, samples, folder / "reference.npy")
        self.f16, self.q8 = folder / "F16.gguf", folder / "Q8_0.gguf"
        converter.convert(self.model, self.f16, "F16", name="bench")
        quantize(self.f16, self.q8, "Q8_0", threads=1)

    def check(self, path: Path, kind: str, made_from: Path) -> list[str]:
        stage = "merged to GGUF" if kind == "F16" else "F16 to Q8_0"
        return verify_gguf(
            path, kind, self.reference, self.tokenizer, made_from=made_from, stage=stage, threads=1
        ).failures


@pytest.fixture(scope="module")
def bench(smollm, tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("bench"), smollm)


def converted(bench: Bench, tmp_path: Path, change) -> list[str]:
    """What is found of a file that was made from a model that `change` altered."""
    altered = shutil.copytree(bench.model, tmp_path / "altered")
    change(altered)
    converter.convert(altered, tmp_path / "F16.gguf", "F16", name="bench")
    return bench.check(tmp_path / "F16.gguf", "F16", bench.model)


def test_f28_a_file_without_a_fault_has_none(bench):
    assert bench.check(bench.f16, "F16", bench.model) == []


def test_f28_noise_on_one_tensor_of_the_converted_file_is_caught(bench, tmp_path):
    def noise(folder: Path) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        name = "model.layers.1.mlp.down_proj.weight"
        tensors[name] *= 1 + 0.05 * torch.randn_like(tensors[name])
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    failures = converted(bench, tmp_path, noise)
    assert failures[0] == "merged to GGUF: 1 tensors hold other numbers, blk.1.ffn_down.weight"


def test_f28_another_chat_template_is_caught(bench, tmp_path):
    def other(folder: Path) -> None:
        path = folder / "chat_template.jinja"
        path.write_text(path.read_text().replace("<|im_end|>", "</s>"))

    failures = converted(bench, tmp_path, other)
    assert "merged to GGUF: the file's chat template isn't the tokenizer's" in failures
    assert any("renders" in each for each in failures)


def test_f28_a_special_token_that_was_shifted_is_caught(bench, tmp_path):
    def shifted(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"eos_token": "<|im_start|>"}))
        for name in ("config.json", "generation_config.json"):
            stated = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(stated | {"eos_token_id": 1}))

    failures = converted(bench, tmp_path, shifted)
    assert any("eos is token 1, and was 2" in each for each in failures)


def test_f28_the_wrong_model_is_caught(bench, tmp_path):
    def other(folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            model.model.layers[0].self_attn.q_proj.weight += 0.1
        model.save_pretrained(folder)

    failures = converted(bench, tmp_path, other)
    assert any("next tokens diverge" in each for each in failures)


@pytest.mark.parametrize("share", [0.3, 0.999])
def test_f28_a_file_that_was_cut_short_is_caught(bench, tmp_path, share):
    content = bench.f16.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(len(content) * share)])
    failures = bench.check(tmp_path / "cut.gguf", "F16", bench.model)
    assert len(failures) == 1
    assert "llama.cpp can't load cut.gguf" in failures[0]


def test_f28_noise_on_one_tensor_of_the_quantised_file_is_caught(bench, tmp_path):
    from gguf import GGUFReader

    path = shutil.copy(bench.q8, tmp_path / "noisy.gguf")
    reader = GGUFReader(path, "r+")
    tensor = next(each for each in reader.tensors if each.name == "blk.0.ffn_up.weight")
    values = np.asarray(tensor.data).view(np.int8)
    values[0, 2:34] = np.clip(values[0, 2:34] * 1.05 + 1, -127, 127)
    reader.data.flush()
    failures = bench.check(path, "Q8_0", bench.f16)
    assert "F16 to Q8_0: 1 tensors hold other numbers, blk.0.ffn_up.weight" in failures
    clean = bench.check(bench.q8, "Q8_0", bench.f16)
    assert not any("hold other numbers" in each for each in clean)


def test_f57_a_file_that_ends_llama_cpp_is_a_sentence(bench, tmp_path):
    (tmp_path / "no.gguf").write_bytes(b"GGUF" + b"\xff" * 60)
    (failure,) = bench.check(tmp_path / "no.gguf", "F16", bench.model)
    assert failure.startswith("merged to GGUF: llama.cpp")
