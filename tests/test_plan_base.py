"""What the plan knows of the base model: from a folder, a config.json, or the Hub; without a weight."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from architectures import PUBLISHED, on_meta, small

from tunesmith.errors import DownloadError, ModelError
from tunesmith.plan import base
from tunesmith.plan.architecture import read_architecture
from tunesmith.plan.base import AS_LLAMA, BUILT, WITH_HEADERS, base_of, read_base
from tunesmith.plan.families import FAMILIES
from tunesmith.plan.parameters import count_parameters, stored_tensors

ONE_SHARD = "model-00001-of-00002.safetensors"
# Families of transformers that the tables lack: ALiBi and names of its own; experts in layers; a plain one.
BLOOM = {"model_type": "bloom", "hidden_size": 64, "n_layer": 3, "n_head": 4, "vocab_size": 130}
HELIUM = small("llama") | {"model_type": "helium", "head_dim": 16}
GRANITE = small("mixtral") | {"model_type": "granitemoe"}


def folder_with(path: Path, config: dict) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


def save_weights(path: Path, tensors: dict, name: str = "model.safetensors") -> Path:
    from safetensors.torch import save_file

    save_file(tensors, path / name)
    return path


def model_weights(values: dict) -> dict:
    """Every tensor that transformers saves of a model of these values, tied ones once; empty."""
    import torch

    return {name: torch.zeros(each.shape) for name, each in on_meta(values).named_parameters()}


# A folder.


def test_a_folder_with_a_config_alone_is_enough(tmp_path):
    values, total = PUBLISHED["Qwen2.5-7B"]
    found = read_base(str(folder_with(tmp_path, values)))
    assert (found.parameters.total, found.stored_bytes, found.source) == (total, None, "config.json")
    assert (found.name, found.architecture.model_type) == (str(tmp_path), "qwen2")
    assert read_base(str(tmp_path / "config.json")).architecture == found.architecture


def test_a_config_under_another_name_is_read_without_the_weights_beside_it(tmp_path, tiny_model):
    values, total = PUBLISHED["SmolLM2-135M"]
    save_weights(tmp_path, model_weights(small("llama")))
    (tmp_path / "planned.json").write_text(json.dumps(values))
    found = read_base(str(tmp_path / "planned.json"))
    assert (found.parameters.total, found.stored_bytes) == (total, None)


def test_a_saved_model_is_held_against_its_headers(tiny_model):
    found = read_base(str(tiny_model))
    assert found.source == WITH_HEADERS
    assert found.stored_bytes == (tiny_model / "model.safetensors").stat().st_size
    stored = sum(each["shape"][0] * (each["shape"] + [1])[1] for each in stored_tensors(tiny_model).values())
    assert found.parameters.total == stored


def test_of_a_model_in_several_files_all_that_the_index_names_count(tmp_path):
    values = small("qwen3")
    weights = model_weights(values)
    names = sorted(weights)
    shards = {ONE_SHARD: names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_weights(tmp_path, {name: weights[name] for name in held}, shard)
    folder_with(tmp_path, values)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_weights(tmp_path, {"stray": next(iter(weights.values()))}, "stray.safetensors")
    found = read_base(str(tmp_path))
    assert found.source == WITH_HEADERS
    assert found.stored_bytes == sum((tmp_path / shard).stat().st_size for shard in shards)
    (tmp_path / ONE_SHARD).unlink()
    with pytest.raises(ModelError, match=f"{ONE_SHARD} can't be read"):
        read_base(str(tmp_path))


def test_pytorchs_own_files_tell_their_bytes(tmp_path):
    folder_with(tmp_path, small("llama"))
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(b"0" * 70)
    (tmp_path / "pytorch_model-00002-of-00002.bin").write_bytes(b"0" * 7)
    found = read_base(str(tmp_path))
    assert (found.stored_bytes, found.source) == (77, "config.json")


# Headers that say something else than the family's closed form.


def test_numbers_that_the_family_does_not_have_count_as_linear_and_are_said(tmp_path):
    import torch

    values = small("llama")
    own = {f"model.layers.{layer}.mlp.extra.weight": torch.zeros(5, 7) for layer in range(3)}
    save_weights(folder_with(tmp_path, values), model_weights(values) | own)
    plain = read_base(str(folder_with(tmp_path / "plain", values))).parameters
    found = read_base(str(tmp_path))
    assert found.parameters == dataclasses.replace(plain, mlp=plain.mlp + 105, linear=plain.linear + 105)
    assert "105 numbers more" in found.source


def test_what_transformers_leaves_in_the_file_does_not_count(tmp_path):
    import torch

    values = small("deepseek_v3", tie_word_embeddings=True)
    left = {"lm_head.weight": torch.zeros(130, 64), "model.layers.3.enorm.weight": torch.zeros(64)}
    left |= {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}
    save_weights(folder_with(tmp_path, values), model_weights(values) | left)
    assert read_base(str(tmp_path)).source == WITH_HEADERS
    gpt2 = small("gpt2")
    weights = {name.removeprefix("transformer."): each for name, each in model_weights(gpt2).items()}
    mask = {"h.0.attn.bias": torch.zeros(1, 1, 32, 32), "h.0.attn.masked_bias": torch.zeros(1)}
    save_weights(folder_with(tmp_path / "gpt2", gpt2), weights | mask)
    assert read_base(str(tmp_path / "gpt2")).source == WITH_HEADERS


def test_a_head_that_no_file_holds_is_made_anew_and_counts(tmp_path):
    values = small("llama", tie_word_embeddings=False)
    weights = model_weights(values)
    del weights["lm_head.weight"]
    save_weights(folder_with(tmp_path, values), weights)
    found = read_base(str(tmp_path))
    assert found.parameters.head == 130 * 64
    assert "lack 8,320 of these numbers" in found.source


@pytest.mark.parametrize("said", [True, False])
def test_packed_weights_are_counted_unpacked(tmp_path, said):
    import torch

    packed = {"quantization_config": {"quant_method": "gptq", "bits": 4}} if said else {}
    values = small("llama")
    # Words of 32 bits give packing away; halves don't, and the file has to say so.
    kind = torch.float16 if said else torch.int32
    words = {
        f"{name.removesuffix('.weight')}.qweight": torch.zeros(40_000 // 8, dtype=kind)
        for name in model_weights(values)
    }
    save_weights(folder_with(tmp_path, values | packed), words)
    found = read_base(str(tmp_path))
    assert found.parameters.total == on_meta(values).num_parameters()
    assert found.source == "config.json"
    assert found.stored_bytes == (tmp_path / "model.safetensors").stat().st_size


def test_a_damaged_file_is_named(tmp_path):
    # A git clone without LFS holds such a pointer.
    folder_with(tmp_path, small("llama"))
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ModelError, match="no header of safetensors"):
        read_base(str(tmp_path))


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "model_type"])
def test_a_missing_size_is_an_error_that_names_it(tmp_path, key):
    values = small("llama")
    del values[key]
    with pytest.raises(ModelError, match=f"{key} of config.json is missing") as caught:
        read_base(str(folder_with(tmp_path, values)))
    assert (caught.value.where, bool(caught.value.fix)) == (key, True)


def test_what_is_no_model_is_a_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is no JSON"):
        read_base(str(tmp_path))
    with pytest.raises(ModelError, match=r"there is no folder \./nowhere") as caught:
        read_base("./nowhere")
    assert caught.value.fix
    hollow = tmp_path / "hollow"
    hollow.mkdir()
    with pytest.raises(ModelError, match=r"no readable configuration at .*hollow"):
        read_base(str(hollow))
    with pytest.raises(ModelError, match="x" * 300):
        read_base("x" * 300)


# A model that was built and counted.


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_configuration_that_transformers_fills_in_tells_the_same(tmp_path, model_type):
    from transformers import AutoConfig

    values = small(model_type)
    read = read_base(str(folder_with(tmp_path, values)))
    filled = AutoConfig.for_model(**values).to_dict()
    found = base_of("m", filled, read.parameters.total, read.parameters.linear)
    assert (found.architecture, found.parameters) == (read.architecture, read.parameters)
    assert (found.name, found.source, found.stored_bytes) == ("m", BUILT, None)


@pytest.mark.parametrize("tied", [True, False])
def test_a_reward_models_head_stands_in_the_vocabularys_place(tied):
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from tunesmith.train.count_parameters import count_parameters_of

    config = AutoConfig.for_model(**small("llama", tie_word_embeddings=tied), num_labels=1)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    num_params, num_linear = count_parameters_of(model)
    found = base_of("m", config.to_dict(), num_params, num_linear)
    assert (found.parameters.total, found.parameters.head) == (model.num_parameters(), 64)
    assert found.parameters.linear == num_linear


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "phi3", "qwen2_moe", "deepseek_v3", "gpt_neox"])
def test_linear_modules_counted_at_the_model_are_those_of_the_closed_form(model_type):
    from tunesmith.train.count_parameters import count_parameters_of

    counted = count_parameters(read_architecture(small(model_type)))
    assert count_parameters_of(on_meta(small(model_type))) == (counted.total, counted.linear)


def test_neither_experts_nor_what_lies_outside_of_layers_is_linear():
    from torch import nn

    from tunesmith.train.count_parameters import count_parameters_of

    experts = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    layer = nn.ModuleDict({"proj": nn.Linear(4, 5), "experts": experts, "norm": nn.LayerNorm(4)})
    model = nn.ModuleDict({"layers": nn.ModuleList([layer, layer]), "head": nn.Linear(4, 7)})
    assert count_parameters_of(model) == (25 + 40 + 8 + 35, 25)


def test_a_family_outside_the_tables_keeps_its_own_numbers_whoever_it_is_planned_as():
    from tunesmith.train.count_parameters import count_parameters_of

    model = on_meta(HELIUM)
    num_params, num_linear = count_parameters_of(model)
    found = base_of("m", HELIUM, num_params, num_linear)
    shape, numbers = found.architecture, found.parameters
    assert (numbers.total, numbers.linear) == (model.num_parameters(), num_linear)
    # Its layers are Llama's, so the closed form has to say the same of it.
    assert numbers == count_parameters(shape)
    assert (shape.model_type, shape.num_layers, shape.num_key_value_heads) == ("llama", 3, 2)
    assert (shape.intermediate_size, shape.vocab_size, shape.max_positions) == (96, 130, 0)
    assert AS_LLAMA in found.source


def test_experts_of_a_family_outside_the_tables_are_told_from_what_is_linear():
    from tunesmith.train.count_parameters import count_parameters_of

    model = on_meta(GRANITE)
    experts = sum(each.numel() for name, each in model.named_parameters() if "moe.experts" in name)
    found = base_of("m", GRANITE, *count_parameters_of(model))
    assert found.parameters.total == model.num_parameters()
    assert found.parameters.experts == pytest.approx(experts, rel=0.02)
    assert found.parameters.active_experts == found.parameters.experts * 2 // 4
    assert (found.architecture.num_experts, found.architecture.expert_layers) == (4, (0, 1, 2))


def test_of_a_family_outside_the_tables_what_is_missing_is_named():
    for key in ("hidden_size", "num_attention_heads", "vocab_size", "num_hidden_layers"):
        values = {name: value for name, value in HELIUM.items() if name != key}
        with pytest.raises(ModelError, match=f"{key} of config.json is missing"):
            base_of("m", values, 100_000, 50_000)
    values = {name: value for name, value in HELIUM.items() if name != "intermediate_size"}
    with pytest.raises(ModelError, match=r"intermediate_size of config\.json is missing"):
        base_of("m", values, 100_000, 30_000)


@pytest.mark.parametrize(
    "odd",
    [
        {"quantization_config": {"quant_method": "torchao"}},
        {"sliding_window": -1, "model_type": "mistral"},
        {"tie_word_embeddings": "yes", "quantization_config": []},
        {"max_position_embeddings": "many"},
    ],
)
def test_a_known_family_with_odd_values_is_planned_as_llama_with_its_own_sizes(odd):
    numbers = count_parameters(read_architecture(small("llama")))
    found = base_of("m", small("llama") | odd, numbers.total, numbers.linear)
    assert found.parameters == numbers
    assert (found.architecture.hidden_size, found.architecture.sliding_window) == (64, None)
    assert (found.architecture.quantization, AS_LLAMA in found.source) == (None, True)


def test_a_model_much_smaller_than_its_family_has_no_negative_numbers():
    # What calls itself a llama and brings code of its own may be anything.
    for num_params, num_linear in ((60_000, 40_000), (1000, 900)):
        found = base_of("m", small("llama"), num_params, num_linear)
        assert found.parameters.total == num_params
        assert min(dataclasses.asdict(found.parameters).values()) >= 0


# A family that has to be built, in a process of its own.


def test_a_family_outside_the_tables_is_built_without_weights_elsewhere(tmp_path):
    values = BLOOM
    save_weights(folder_with(tmp_path, values), model_weights(values))
    (tmp_path / "torch.py").write_text("raise SystemExit('not the package')")
    code = "import sys, json\nfrom tunesmith.plan.base import read_base\nfound = read_base('.')\n"
    code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    code += "print(json.dumps([found.parameters.total, found.parameters.linear, found.stored_bytes, "
    code += "found.architecture.intermediate_size, found.source]))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    total, linear, stored, wide, source = json.loads(done.stdout or done.stderr)
    model = on_meta(values)
    assert total == model.num_parameters()
    assert stored == (tmp_path / "model.safetensors").stat().st_size
    assert source == f"{BUILT}, {AS_LLAMA}"
    # 4 projections of 64 x 64, 2 of 64 x 256, with biases; and the gated width of as many numbers.
    assert linear == 3 * (4 * 64 * 65 + 256 * 65 + 64 * 257)
    assert abs(3 * 64 * wide + 4 * 64 * 64 - linear / 3) < 3 * 64


def test_a_kind_of_model_that_no_causal_one_is_says_so(tmp_path):
    folder_with(tmp_path, {"model_type": "vit", "hidden_size": 64})
    with pytest.raises(ModelError, match="holds no causal language model") as caught:
        read_base(str(tmp_path / "config.json"))
    assert caught.value.where == str(tmp_path)


def test_a_model_with_its_own_code_is_not_run_unasked(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    code = "from transformers import HeliumConfig, HeliumForCausalLM\nopen({mark!r}, 'w').close()\n"
    code += "class OwnConfig(HeliumConfig):\n    model_type = 'own'\n"
    code += "class OwnForCausalLM(HeliumForCausalLM):\n    config_class = OwnConfig\n"
    mark = tmp_path / "was-run"
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    folder = folder_with(tmp_path / "own", HELIUM | {"model_type": "own", "auto_map": own})
    (folder / "own.py").write_text(code.format(mark=str(mark)))
    with pytest.raises(ModelError, match="wants to run its own code"):
        read_base(str(folder))
    assert not mark.exists()
    found = read_base(str(folder), trust_remote_code=True)
    assert mark.exists()
    assert found.parameters.total == on_meta(HELIUM).num_parameters()


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_without_the_packages_to_build_it_the_error_says_what_to_install(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match="'bloom' can't be told") as caught:
        read_base(str(folder_with(tmp_path, BLOOM)))
    assert "tunesmith[train]" in caught.value.fix


def test_a_known_family_with_an_odd_value_is_built_and_without_torch_the_value_is_named(
    tmp_path, monkeypatch
):
    values = small("llama", quantization_config={"quant_method": "torchao"})
    folder = str(folder_with(tmp_path, values))
    found = read_base(folder)
    assert found.parameters.total == on_meta(small("llama")).num_parameters()
    assert AS_LLAMA in found.source
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match=r"quantization_config\.bits .* is missing") as caught:
        read_base(folder)
    assert "tunesmith[train]" in caught.value.fix


def test_a_child_that_takes_too_long_or_dies_is_a_sentence(tmp_path, monkeypatch):
    folder = str(folder_with(tmp_path, BLOOM))
    monkeypatch.setattr(base, "_CHILD_LIMIT_S", 0.05)
    with pytest.raises(ModelError, match=r"not be built without weights within 0\.05 s"):
        read_base(folder)
    monkeypatch.setattr(base, "_CHILD_LIMIT_S", 60)
    monkeypatch.setenv("PYTHONHOME", str(tmp_path / "none"))
    with pytest.raises(ModelError, match="without weights ended with 1"):
        read_base(folder)


# The Hub: the real client, offline and against a FAKE Hub, a local server that speaks its protocol.


def test_a_model_that_is_not_here_while_offline_is_a_sentence():
    with pytest.raises(DownloadError, match="not on this machine and the Hub can't be reached") as caught:
        read_base("someone/some-model")
    assert "HF_HUB_OFFLINE" in caught.value.fix


class FakeHub(BaseHTTPRequestHandler):
    """Files by name of one repository, `owner/model`; every other one doesn't exist."""

    files: dict[str, bytes]
    refused = ""
    asked: list[tuple[str, str, str | None]]

    def answer(self) -> None:
        name = self.path.removeprefix("/owner/model/resolve/").partition("/")[2]
        self.asked.append((self.command, name, self.headers.get("range")))
        trouble = self.refused
        if not trouble and not self.path.startswith("/owner/model/"):
            trouble = "RepoNotFound"
        if not trouble and "/resolve/main/" not in self.path:
            trouble = "RevisionNotFound"
        if not trouble and name not in self.files:
            trouble = "EntryNotFound"
        body, status = self.files.get(name, b""), 200
        if trouble:
            body, status = b"", {"GatedRepo": 403}.get(trouble, 404)
        asked = self.headers.get("range")
        size = len(body)
        if asked and not trouble:
            first, last = asked.removeprefix("bytes=").split("-")
            body, status = body[int(first) : int(last) + 1], 206
        self.send_response(status)
        if trouble:
            self.send_header("x-error-code", trouble)
        if status == 206:
            self.send_header("content-range", f"bytes {first}-{last}/{size}")
        self.send_header("etag", f'"{name}"')
        self.send_header("x-repo-commit", "0123456789abcdef0123456789abcdef01234567")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_GET = do_HEAD = answer

    def log_message(self, *args):
        pass


@contextmanager
def fake_hub(files: dict[str, bytes], refused: str = ""):
    handler = type("Handler", (FakeHub,), {"files": files, "refused": refused, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
    finally:
        server.shutdown()
        server.server_close()


READ = """
import json, sys
from tunesmith.errors import TunesmithError
from tunesmith.plan.base import read_base
try:
    found = read_base(*sys.argv[1:])
    print(json.dumps([found.parameters.total, found.stored_bytes, found.source]))
except TunesmithError as error:
    print(json.dumps(error.as_dict()))
"""


def read_from(endpoint: str, home: Path, *arguments: str):
    """What read_base gives in a process that knows this Hub."""
    known = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0" if endpoint else "1"}
    command = [sys.executable, "-c", READ, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **known})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, bytes]:
    """The files of a small model in one file."""
    folder = tmp_path_factory.mktemp("published")
    save_weights(folder_with(folder, small("qwen2")), model_weights(small("qwen2")))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_of_a_model_on_the_hub_config_and_headers_are_fetched_and_no_weight(tmp_path, published):
    total = on_meta(small("qwen2")).num_parameters()
    with fake_hub(published) as (endpoint, asked):
        assert read_from(endpoint, tmp_path, "owner/model") == [total, 4 * total, WITH_HEADERS]
    ranges = [span for _, name, span in asked if name == "model.safetensors"]
    assert ranges == ["bytes=0-100000"]
    # From the cache: there is no server any more.
    assert read_from("", tmp_path, "owner/model") == [total, None, "config.json"]


def test_of_a_model_in_several_files_on_the_hub_each_header_is_read(tmp_path, published):
    from safetensors.torch import load, save

    weights = load(published["model.safetensors"])
    shards = {f"model-{part}.safetensors": sorted(weights)[part::3] for part in range(3)}
    index = {"metadata": {"total_size": 7}}
    index["weight_map"] = {name: shard for shard, held in shards.items() for name in held}
    files = {name: save({each: weights[each] for each in held}) for name, held in shards.items()}
    files |= {"config.json": published["config.json"]}
    files |= {"model.safetensors.index.json": json.dumps(index).encode()}
    total = on_meta(small("qwen2")).num_parameters()
    with fake_hub(files) as (endpoint, _):
        assert read_from(endpoint, tmp_path / "few", "owner/model") == [total, 4 * total, WITH_HEADERS]
    # Too many to ask for each: the index says their bytes.
    index["weight_map"] = {str(number): f"model-{number}.safetensors" for number in range(33)}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    with fake_hub(files) as (endpoint, asked):
        assert read_from(endpoint, tmp_path / "many", "owner/model") == [total, 7, "config.json"]
    assert not [name for _, name, span in asked if span and name != "model.safetensors"]


@pytest.mark.parametrize(
    "change", [{"model.safetensors": None}, {"model.safetensors": b"\xff" * 64}, {"model.safetensors": b""}]
)
def test_headers_that_can_not_be_had_cost_no_more_than_the_check(tmp_path, published, change):
    files = {name: data for name, data in {**published, **change}.items() if data is not None}
    with fake_hub(files) as (endpoint, _):
        total, stored, source = read_from(endpoint, tmp_path, "owner/model")
    assert (total, stored, source) == (on_meta(small("qwen2")).num_parameters(), None, "config.json")


@pytest.mark.parametrize(
    ("arguments", "refused", "code", "says", "fix"),
    [
        (["owner/other"], "", "model", "there is no model owner/other on the Hub", "check the name"),
        (["owner/model"], "GatedRepo", "download", "owner/model is gated", "accept its licence"),
        (["owner/model", "v9"], "", "model", "owner/model has no revision 'v9'", "a tag or a commit"),
        (["owner/model"], "EntryNotFound", "model", "owner/model has no config.json", "name one that has"),
    ],
)
def test_what_the_hub_refuses_is_a_sentence(tmp_path, published, arguments, refused, code, says, fix):
    with fake_hub(published, refused) as (endpoint, _):
        error = read_from(endpoint, tmp_path, *arguments)
    assert error["code"] == code
    assert says in error["message"]
    assert fix in error["fix"]
    assert arguments[0] in error["where"]


# Light enough for a plan in under a second.


def test_reading_a_local_model_imports_nothing_heavy(tiny_model):
    code = (
        "import sys\nfrom tunesmith.plan.base import read_base\nread_base(sys.argv[1])\nprint(*sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tiny_model)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "huggingface_hub", "pydantic", "numpy", "datasets", "polars"}
    assert not heavy & {name.split(".")[0] for name in done.stdout.split()}
