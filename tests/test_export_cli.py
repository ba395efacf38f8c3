"""`tunesmith export` as a person uses it, as far as neither llama.cpp nor its converter is needed."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from running import record_of, tunesmith
from tiny import chat_rows, write_jsonl

from tunesmith.data.gguf_support import why_no_gguf
from tunesmith.errors import DownloadError, MissingPackageError
from tunesmith.export import binaries
from tunesmith.export.exporting import GGUF, ExportedFile
from tunesmith.export.record import how_to_run
from tunesmith.export.thresholds import limit_of
from tunesmith.runs.folder import RunFolder

RUN = Path("runs/one")


def train(model: Path, *more: str, run: Path = RUN) -> Path:
    ran = tunesmith(
        "train", "sft", "--model", model, "--dataset", "chats.jsonl", "--max-steps", "3", "--test-size", "4",
        "--learning-rate", "0.05", "--precision", "fp32", "--set", "trl.report_to=none", "--run-dir", run,
        *more,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    return run


@pytest.fixture(scope="module")
def runs(tiny_model, tmp_path_factory):
    """A folder with a run that trained an adapter, on a base of its own, and one that trained all weights."""
    import os
    import shutil

    folder = tmp_path_factory.mktemp("export")
    before = Path.cwd()
    os.chdir(folder)
    try:
        write_jsonl(folder / "chats.jsonl", chat_rows(24))
        shutil.copytree(tiny_model, folder / "base")
        train(Path("base"))
        train(Path("base"), "--tuning", "full", run=Path("runs/full"))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def place(runs, monkeypatch):
    monkeypatch.chdir(runs)
    return runs


def test_f27_an_adapter_is_merged_compared_and_recorded(place):
    ran = tunesmith("export", RUN, "--format", "merged,adapter", "--json")
    assert ran.code == 0, ran.err
    merged = next(each for each in ran.document["files"] if each["format"] == "merged")
    assert ran.document["status"] == "done"
    assert (merged["verified"], merged["quantization"], merged["failures"]) == (True, "float32", [])
    assert merged["checks"]["mean_divergence"] < 1e-6
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {
        each.name for each in Path(merged["path"]).iterdir()
    }
    assert (RUN / "export" / "adapter" / "adapter_model.safetensors").is_file()
    kept = json.loads((RUN / "export" / "export.json").read_text())
    assert [each["format"] for each in kept["files"]] == ["adapter", "merged"]
    assert str(place) not in (RUN / "export" / "export.json").read_text()
    assert record_of(RUN)["export"]["files"][1]["verified"] is True
    assert not [each for each in (RUN / "export").iterdir() if each.name.startswith(".")]
    assert "4 rows that the run held out" in ran.err


def test_a_second_export_adds_to_the_record_and_a_file_that_was_altered_leaves_it(place):
    def kept() -> list[str]:
        return sorted(each["name"] for each in record_of(RUN)["export"]["files"])

    assert tunesmith("export", RUN, "--format", "merged").code == 0
    assert tunesmith("export", RUN, "--format", "adapter").code == 0
    assert kept() == ["adapter", "merged"]
    assert record_of(RUN)["export"]["files"][1]["verified"] is True
    weights = RUN / "export" / "merged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    assert tunesmith("export", RUN, "--format", "adapter").code == 0
    assert kept() == ["adapter"]


def test_what_was_exported_stays_where_an_export_fails(place, monkeypatch):
    assert tunesmith("export", RUN, "--format", "merged").code == 0
    before = (RUN / "export" / "merged" / "model.safetensors").read_bytes()

    def breaks(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tunesmith.export.merge.keep_generation_config", breaks)
    assert tunesmith("export", RUN, "--format", "merged").code != 0
    assert (RUN / "export" / "merged" / "model.safetensors").read_bytes() == before


def test_a_run_whose_data_are_gone_is_compared_on_other_texts(place):
    data = Path("chats.jsonl")
    data.rename("elsewhere.jsonl")
    try:
        ran = tunesmith("export", RUN, "--format", "merged", "--json")
    finally:
        Path("elsewhere.jsonl").rename(data)
    assert ran.code == 0, ran.err
    assert ran.document["verified"] is True
    assert "texts that Tunesmith brings (the run's data can't be read: " in ran.err


def test_figures_that_are_no_numbers_are_null_in_json():
    broken = ExportedFile(Path("x.gguf"), GGUF, "Q8_0", 5, None, False, {"mean_divergence": float("inf")})
    assert broken.as_dict()["checks"] == {"mean_divergence": None}


def test_without_verification_nothing_is_said_to_be_verified(place):
    ran = tunesmith("export", RUN, "--format", "merged", "--no-verify", "--json")
    assert ran.code == 0, ran.err
    assert ran.document["verified"] is False
    assert ran.document["files"][0]["verified"] is None


def test_f27_a_base_that_has_other_weights_by_now_is_refused(place):
    weights = Path("base/model.safetensors")
    before = weights.read_bytes()
    weights.write_bytes(before[:-4] + bytes(4))
    try:
        ran = tunesmith("export", RUN, "--format", "merged")
    finally:
        weights.write_bytes(before)
    assert ran.code == 2
    assert "isn't the base that runs/one was trained on any more" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((RUN, "--format", "ggml"), "there is no format 'ggml'"),
        ((RUN, "--format", ""), "no format is named"),
        ((RUN, "--quantize", "Q4_K_XL"), "there is no quantization Q4_K_XL"),
        ((RUN, "--quantize", ","), "no quantization is named"),
        ((RUN, "--quantize", "F16", "--imatrix", "chats.jsonl"), "of use to quantised GGUF files only"),
        ((RUN, "--format", "merged", "--imatrix", "chats.jsonl"), "of use to quantised GGUF files only"),
        (("runs/full", "--format", "adapter"), "full has no adapter: every weight was trained"),
        (("nowhere/at/all",), "there is no run, folder or Hub model nowhere/at/all"),
        (("base", "--adapter", "nothing/here/it"), "there is no run, folder or Hub model nothing/here/it"),
    ],
)
def test_wrong_input_is_a_sentence(place, arguments, said):
    ran = tunesmith("export", *arguments)
    assert ran.code == 2
    assert said in ran.err
    assert "next: " in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(("more", "word"), [((), "compared in fp32"), (("--no-verify",), "merged")])
def test_a_model_that_has_no_room_in_memory_is_refused_before_it_is_loaded(place, monkeypatch, more, word):
    monkeypatch.setattr("tunesmith.export.exporting.available_bytes", lambda: 1000)
    ran = tunesmith("export", RUN, "--format", "merged", "--out", "no-room", *more)
    assert ran.code == 2
    assert f"GiB of memory to be {word}, and 0.0 GiB are free" in ran.err
    assert not Path("no-room").exists()


def test_only_a_run_that_is_done_is_exported(place):
    stopped = RunFolder.create(Path("runs/stopped"), {"config": {}})
    stopped.update(status="stopped")
    ran = tunesmith("export", "runs/stopped")
    assert ran.code == 2
    assert "next: tunesmith resume runs/stopped" in ran.err


def test_f40_without_a_network_the_converter_is_named_with_what_can_be_done(place, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    ran = tunesmith("export", RUN, "--format", "gguf-lora", "--no-verify")
    assert ran.code == 2
    assert "llama.cpp's converter can't be fetched" in ran.err
    assert not list((RUN / "export").glob("*.gguf"))


def test_f40_what_can_not_become_gguf_is_told_before_training_and_by_the_plan(place):
    """The tiny model's tokenizer splits text in a way that llama.cpp doesn't know."""
    said = "no GGUF file can be made of what is trained (other formats can): llama.cpp doesn't know how"
    assert any(each.startswith(said) for each in record_of(RUN)["notes"])
    planned = tunesmith("plan", "--model", "base", "--dataset", "chats.jsonl", "--json")
    assert planned.code == 0, planned.err
    assert [each.startswith(said) for each in planned.document["notes"]] == [True]
    exported = tunesmith("export", RUN)
    assert exported.code == 2
    assert "one can't be written as GGUF: llama.cpp doesn't know how" in exported.err
    assert "next: take --format merged" in exported.err


def test_f40_an_architecture_that_llama_cpp_does_not_know_is_named_without_a_tokenizer():
    assert why_no_gguf(["LlamaForCausalLM"]) is None
    assert (
        why_no_gguf(["OddForCausalLM"])
        == "llama.cpp's converter doesn't know the architecture OddForCausalLM"
    )


def test_f40_a_library_that_is_not_the_pinned_one_is_not_used(tmp_path, monkeypatch):
    class Registry(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"something else")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/")
    with pytest.raises(DownloadError, match="isn't what was pinned"):
        binaries.library_folder()
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match=r"llama.cpp can't be fetched"):
        binaries.library_folder()
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_a_build_is_told_what_it_can_have(monkeypatch):
    monkeypatch.setattr("sys.platform", "sunos")
    with pytest.raises(MissingPackageError) as missing:
        binaries.library_folder()
    assert "--quantize F16 --no-verify" in missing.value.fix


def test_the_script_is_a_door_to_the_command(place, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "scripts"))
    import convert_to_gguf

    assert convert_to_gguf.main([]) == 2
    assert "ADAPTER_MODEL" in capsys.readouterr().err
    assert convert_to_gguf.main([str(RUN), "--format", "merged", "--no-verify"]) == 0
    monkeypatch.setenv("ADAPTER_MODEL", "runs/one/model")
    monkeypatch.setenv("BASE_MODEL", "base")
    assert convert_to_gguf.main(["--format", "merged", "--out", "elsewhere"]) == 0
    assert (Path("elsewhere") / "merged" / "model.safetensors").is_file()


def test_limits_grow_as_files_shrink():
    kinds = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
    limits = [limit_of(kind) for kind in kinds]
    assert [each.divergence for each in limits] == sorted({each.divergence for each in limits})
    assert [each.agreement for each in limits] == sorted((each.agreement for each in limits), reverse=True)


def test_no_line_tells_how_to_run_a_file_that_was_found_wrong():
    wrong = ExportedFile(Path("export/x-Q4_K_M.gguf"), GGUF, "Q4_K_M", 5, None, False, {}, ("it babbles",))
    right = ExportedFile(Path("export/x-Q8_0.gguf"), GGUF, "Q8_0", 9, None, True, {})
    assert how_to_run(Path("export"), [wrong]) == []
    assert all(
        "x-Q8_0.gguf" in line or "Modelfile" in line for line in how_to_run(Path("export"), [wrong, right])
    )
