"""F42, F44, F45, F54, F57: files of strangers hang nothing, crash nothing and run nothing."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import os
import pickle
import random
import shutil
import sys
import time
from pathlib import Path

import pytest
import templates
from running import tunesmith
from tiny import chat_rows, write_jsonl, write_tiny_model

from tunesmith.config.loading import load_config
from tunesmith.data import template_child, template_trial
from tunesmith.data.chat_templates import NAMED, put_in_chat_template
from tunesmith.data.gguf_header import check_gguf
from tunesmith.data.model_files import refuse_pickles
from tunesmith.data.tokenizer import load_tokenizer
from tunesmith.data.tokens import Encoder
from tunesmith.errors import ModelError

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("hostile", HERE / "hostile.py")
hostile = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hostile)

REAL = {
    name: value for name, value in vars(templates).items() if name.isupper() and isinstance(value, str)
} | NAMED
# gpt-oss writes the schemas of tools with a macro that calls itself, Llama 3.2 the date.
REAL["recursive macro"] = (
    "{%- macro kind(s) -%}{%- if s.type == 'object' -%}{ {%- for k, v in s.properties.items() -%}"
    "{{ k }}: {{ kind(v) }}, {%- endfor -%} }{%- else -%}{{ s.type }}{%- endif -%}{%- endmacro -%}"
    "{%- for t in tools or [] %}{{ kind(t.function.parameters) }}{% endfor -%}{{ strftime_now('%d %b %Y') }}"
    "{%- for m in messages %}{{ m.role }}: {{ m.content | tojson }}\n{% endfor %}"
)
REAL["strict"] = (
    "{% if messages[0].role != 'user' %}{{ raise_exception('begin with the user') }}{% endif %}"
    "{% for i in range(messages|length) %}{{ messages[i].content }}{{ '  ' * loop.index0 }}{% endfor %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("hostile") / "model")


def tokenizer_of(folder: Path):
    return load_tokenizer(load_config(flags={"model": str(folder), "dataset": "-"}, environ={}).config)


def with_template(template):
    tokenizer = copy.deepcopy(templates.tokenizer_with(templates.CHATML))  # that one is everybody's
    tokenizer.chat_template = template
    return tokenizer


def template_is_refused(template: str) -> bool:
    try:
        put_in_chat_template(with_template(template), None)
    except ModelError as error:
        return "is refused: " in error.message
    return False


# --- F54: chat templates -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", hostile.TEMPLATES)
def test_f54_hostile_template_is_refused_and_says_why(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    template, reason = hostile.TEMPLATES[name]
    with pytest.raises(ModelError, match="is refused: ") as raised:
        put_in_chat_template(with_template(template), None)
    assert reason in raised.value.message
    assert "--chat-template" in raised.value.fix
    assert list(tmp_path.iterdir()) == []


def test_f54_hostile_parts_of_real_templates_are_refused():
    made = hostile.hidden_templates(REAL, 120)
    assert len({text for _, text in made}) > 100
    for name, template in made:
        assert template_is_refused(template), name


@pytest.mark.parametrize("name", REAL)
def test_f54_real_template_passes_and_renders_in_the_trial_as_in_transformers(name):
    tokenizer = with_template(REAL[name])
    template_trial.try_templates(tokenizer, name)
    compiled = template_child._environment().from_string(REAL[name])
    compared = 0
    for each in template_trial._conversations(template_trial._PROBES):
        try:
            wanted = tokenizer.apply_chat_template(
                each["messages"], tools=each["tools"], tokenize=False,
                add_generation_prompt=each["add_generation_prompt"],
            )  # fmt: skip
        except Exception:
            continue
        assert compiled.render(**each, documents=None, **template_trial._variables(tokenizer)) == wanted
        compared += 1
    assert compared >= 4


def test_f54_template_that_only_loops_on_rows_of_the_data_is_refused_by_a_sample():
    trap = (
        "{% if 'rosebud' in messages[0].content %}" + hostile.TEMPLATES["a tree of macros"][0] + "{% endif %}"
    )
    tokenizer = with_template(trap + templates.CHATML)
    put_in_chat_template(tokenizer, None)
    rows = [{"messages": [{"role": "user", "content": "rosebud"}, {"role": "assistant", "content": "x"}]}]
    with pytest.raises(ModelError, match="longer than 2 s"):
        Encoder(tokenizer, "conversation").try_on(rows)


def test_f54_template_that_loops_on_a_row_that_no_one_tried_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(template_trial, "ROW_S", 0.2)
    trap = (
        "{% if 'rosebud' in messages[0].content %}" + hostile.TEMPLATES["a tree of macros"][0] + "{% endif %}"
    )
    folder = write_tiny_model(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(trap + templates.CHATML)
    rows = chat_rows(50)
    rows[40]["messages"][0]["content"] = rows[41]["messages"][0]["content"] = "rosebud"
    data = write_jsonl(tmp_path / "chats.jsonl", rows)
    ran = tunesmith("validate", data, "--method", "sft", "--model", folder)
    assert ran.code == 2
    assert "is refused: it takes longer than 0.2 s for a row" in ran.err
    assert "Traceback" not in ran.err
    # Its user can go on with another.
    assert (
        tunesmith("validate", data, "--method", "sft", "--model", folder, "--chat-template", "zephyr").code
        == 0
    )


def test_f54_verdict_is_kept_so_that_a_template_is_tried_once(monkeypatch):
    tokenizer = with_template(templates.LLAMA3 + "{# once #}")
    started = []
    run = template_trial.subprocess.run
    monkeypatch.setattr(template_trial.subprocess, "run", lambda *a, **k: started.append(1) or run(*a, **k))
    for _ in range(3):
        put_in_chat_template(tokenizer, None)
    assert started == [1]


# --- F44: paths in tokenizer files -------------------------------------------------------------------------

OUT = "../canary.txt"
CONFIGS = {
    "vocab_file": {"vocab_file": OUT},
    "merges_file": {"merges_file": OUT},
    "spm_file": {"spm_file": "a/../../canary.txt"},
    "windows path": {"vocab_file": "..\\canary.txt"},
    "whole path": {"vocab_file": "CANARY"},
    "home": {"merges_file": "~/../../etc/passwd"},
    "vocabulary": {"vocab": "CANARY", "tokenizer_class": "BertTokenizer"},
    "merges": {"merges": OUT, "tokenizer_class": "GPT2Tokenizer"},
    "tokenizer_file": {"tokenizer_file": OUT},
    "added_tokens_file": {"added_tokens_file": OUT},
    "fast tokenizer files": {"fast_tokenizer_files": ["../tokenizer.4.0.json"]},
    "a zero byte": {"vocab_file": "/tmp/\0x"},
    "GGUF": {"gguf_file": "hang.gguf"},
    "GGUF outside": {"gguf_file": "../hang.gguf"},
    "template name": {"chat_template": [{"name": "../../x", "template": "y"}]},
    "hidden template name": {"chat_template": [{"name": ".x", "template": "y"}]},
    "template name that is none": {"chat_template": [{"name": 7, "template": "y"}]},
}


@pytest.mark.parametrize("whole", [True, False], ids=["with tokenizer.json", "without"])
@pytest.mark.parametrize("name", CONFIGS)
def test_f44_tokenizer_config_that_leads_out_is_refused_before_it_is_read(name, whole, model, tmp_path):
    (tmp_path / "canary.txt").write_text("canary\nsecret\n")
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    canary = str(tmp_path / "canary.txt")
    stated = json.loads((folder / "tokenizer_config.json").read_text())
    stated |= {key: canary if value == "CANARY" else value for key, value in CONFIGS[name].items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    if not whole:
        (folder / "tokenizer.json").unlink()
    with opened_files() as opened, pytest.raises(ModelError, match="is refused: "):
        tokenizer_of(folder)
    assert not [path for path in opened if "canary" in path or "tokenizer.4.0" in path or "gguf" in path]


def test_f44_paths_that_an_author_left_behind_are_no_harm(model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    stated = json.loads((folder / "tokenizer_config.json").read_text())
    stated |= {
        "special_tokens_map_file": "/admin/home/someone/.cache/special_tokens_map.json",
        "name_or_path": "/data/model", "tokenizer_file": str(model / "tokenizer.json"), "vocab_file": None,
        "merges_file": "/data/old/merges.txt",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    assert len(tokenizer_of(folder)) == len(tokenizer_of(model))


def test_f44_kernels_that_a_config_has_fetched_are_refused(model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    stated = json.loads((folder / "config.json").read_text())
    for value in ("someone/kernels", {"": "someone/kernels:run"}):
        (folder / "config.json").write_text(json.dumps(stated | {"_attn_implementation": value}))
        with pytest.raises(ModelError, match="kernels"):
            tokenizer_of(folder)


def test_f44_damaged_tokenizer_files_end_in_a_sentence(model, tmp_path):
    draw = random.Random(hostile.SEED)
    names = ["tokenizer.json", "tokenizer_config.json", "config.json"]
    whole = {name: (model / name).read_bytes() for name in names}
    nested = b'{"a":' * 100_000
    spoilt = [(name, nested) for name in names] + [(name, b"[]") for name in names]
    spoilt += [(name, b'{"model": 7}') for name in names[:1]]
    for name in names * 14:
        data = bytearray(whole[name])
        for _ in range(draw.randrange(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        spoilt.append((name, bytes(data[: draw.randrange(1, len(data))] if draw.random() < 0.5 else data)))
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    refused = passed = 0
    for name, data in spoilt:
        (folder / name).write_bytes(data)
        try:
            put_in_chat_template(tokenizer_of(folder), None)
        except ModelError as error:
            refused += str(folder) in error.message
        else:
            passed += 1
        (folder / name).write_bytes(whole[name])
    assert refused > 20
    assert refused + passed == len(spoilt)


class opened_files:
    """The paths that Python opens within."""

    _watched: list[list[str]] = []  # noqa: RUF012
    _hooked = False

    def __enter__(self) -> list[str]:
        if not opened_files._hooked:
            sys.addaudithook(self._hear)
            opened_files._hooked = True
        self._watched.append([])
        return self._watched[-1]

    def __exit__(self, *_) -> None:
        self._watched.pop()

    @classmethod
    def _hear(cls, event, given) -> None:
        if event == "open" and cls._watched and isinstance(given[0], str):
            cls._watched[-1].append(given[0])


# --- F42: code, F45: pickles -------------------------------------------------------------------------------


def test_f42_code_is_refused_by_the_names_of_its_files_and_does_not_run(model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    canary = tmp_path / "canary"
    code = f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"
    (folder / "tokenization_own.py").write_text(code)
    (folder / "configuration_own.py").write_text(code)
    for name, mapped in (
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_own.Own", "tokenization_own.Own"]}),
        (
            "config.json",
            {"AutoConfig": "configuration_own.Own", "AutoModel": "someone/else--modeling_own.Own"},
        ),
    ):
        stated = json.loads((folder / name).read_text()) | {"auto_map": mapped, "model_type": "own"}
        stated["tokenizer_class"] = "OwnTokenizer"
        (folder / name).write_text(json.dumps(stated))
    with pytest.raises(ModelError, match="wants to run its own code") as raised:
        tokenizer_of(folder)
    said = raised.value
    assert "configuration_own.py" in said.message
    assert "tokenization_own.py" in said.message
    assert "modeling_own.py of someone/else" in said.message
    assert said.where == str(folder)
    assert "trust_remote_code: true" in said.fix
    assert not canary.exists()


def test_f42_revision_of_a_hub_model_is_named(monkeypatch, tmp_path):
    from tunesmith.data import model_files

    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"auto_map": {"AutoConfig": "own.Own"}}')
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda _, name, **__: str(snapshot / name))
    said = model_files.needs_code("someone/model")
    assert said.where == f"https://huggingface.co/someone/model/tree/{commit}"
    assert f"model_revision: {commit}" in said.fix
    assert "own.py" in said.message


class Bomb:
    """Makes the canary when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def make_pickled(folder: Path, canary: Path, case: str) -> None:
    kept = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    bomb = pickle.dumps(Bomb(canary))
    if case == "pytorch_model.bin":
        (folder / case).write_bytes(bomb)
    elif case == "pytorch shards":
        (folder / "pytorch_model-00001-of-00001.bin").write_bytes(bomb)
        (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "x.bin"}}')
    elif case == "adapter":
        (folder / "model.safetensors").write_bytes(kept)
        (folder / "adapter_model.bin").write_bytes(bomb)
    elif case == "transformers_weights":
        (folder / "model.safetensors").write_bytes(kept)
        stated = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps(stated | {"transformers_weights": "adapter_model.bin"})
        )
    else:  # an index of safetensors that names other files
        named = {"index of pickles": "weights.bin", "index leading out": "../x.safetensors", "index of 7": 7}[
            case
        ]
        (folder / "weights.bin").write_bytes(bomb)
        index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": named}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


PICKLED = ["pytorch_model.bin", "pytorch shards", "adapter", "transformers_weights", "index of pickles",
           "index leading out", "index of 7"]  # fmt: skip


@pytest.mark.parametrize("case", PICKLED)
def test_f45_pickles_are_refused_unopened(case, model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    refuse_pickles(str(folder))
    make_pickled(folder, tmp_path / "canary", case)
    with pytest.raises(ModelError, match="is refused: ") as raised:
        refuse_pickles(str(folder))
    assert "safetensors" in raised.value.fix
    assert not (tmp_path / "canary").exists()


def test_f45_a_pickle_beside_safetensors_is_left_alone(model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "canary")))
    refuse_pickles(str(folder))
    refuse_pickles("someone/not-on-this-machine")


# --- F57: GGUF ---------------------------------------------------------------------------------------------


def refused(path: Path, data: bytes) -> bool:
    path.write_bytes(data)
    try:
        check_gguf(path)
    except ModelError as error:
        return "is refused: " in error.message
    return False


def written_gguf(path: Path) -> Path:
    """A GGUF file as the library itself writes one."""
    gguf = pytest.importorskip("gguf")
    numpy = pytest.importorskip("numpy")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_token_list(["a", "b", "<end>"])
    writer.add_token_scores([0.0, 1.0, 2.0])
    writer.add_bool("llama.odd", True)
    writer.add_tensor("norm", numpy.ones(8, dtype=numpy.float32))
    writer.add_tensor("embed", numpy.ones((3, 8), dtype=numpy.float16))
    for write in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, write)()
    return path


@pytest.mark.parametrize("name", hostile.hostile_ggufs())
def test_f57_header_that_lies_is_refused(name, tmp_path):
    assert refused(tmp_path / "x.gguf", hostile.hostile_ggufs()[name])


def test_f57_true_file_passes_and_is_refused_when_cut_anywhere(tmp_path):
    whole = written_gguf(tmp_path / "true.gguf").read_bytes()
    check_gguf(tmp_path / "true.gguf")
    # The file ends with the padding of its last tensor.
    end = len(whole) - 48 % 32 - 1
    assert all(refused(tmp_path / "x.gguf", whole[:cut]) for cut in range(0, end - 32))


def test_f57_what_passes_is_read_by_the_library_within_its_bounds(tmp_path):
    """Headers with wrong bytes are refused, or hold so little that the library can be trusted with them."""
    gguf = pytest.importorskip("gguf")
    whole = written_gguf(tmp_path / "true.gguf").read_bytes()
    draw = random.Random(hostile.SEED)
    passed = 0
    for _ in range(150):
        data = bytearray(whole)
        data[draw.randrange(4, 250)] = draw.choice([0, 1, 9, 127, 255])
        if not refused(tmp_path / "x.gguf", bytes(data)):
            passed += 1
            began = time.thread_time()
            with contextlib.suppress(ValueError, KeyError):
                gguf.GGUFReader(tmp_path / "x.gguf")
            assert time.thread_time() - began < 2
    assert 10 < passed < 140


def test_f57_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ModelError, match="can't be read"):
        check_gguf(tmp_path / "none.gguf")
