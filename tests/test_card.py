"""The model card and its picture: true, whole, and with nothing of this machine in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from finished_runs import DATA, HUB, PLAN, ROWS, finished_run
from hub_server import taken_for_the_hub
from huggingface_hub import ModelCard, metadata_load
from markdown_it import MarkdownIt

from tunesmith.data.checks.secrets import find_keys
from tunesmith.errors import SecretError
from tunesmith.publish.card import card, is_ours
from tunesmith.publish.curve import curve_of
from tunesmith.publish.licence import Licence, licence_of
from tunesmith.publish.markdown import code, one_line, plain, table
from tunesmith.publish.outbound import refuse_secrets
from tunesmith.runs.folder import RunFolder

REPO = "ada/chatty"
TOKEN = "hf" + "_" + "NoSecretAtAllOnlyALongRowOfLetters"
GGUF = {"format": "gguf", "trained_perplexity": 5.12, "num_answers": 8}
EXPORT = {
    "path": "/srv/somewhere/export",
    "verified": False,
    "files": [
        {**GGUF, "name": "m-F16.gguf", "quantization": "F16", "size_bytes": 990_000_000, "verified": True,
         "mean_divergence": 0.00012, "top1_agreement": 0.998, "perplexity": 5.121, "same_answers": 8},
        {**GGUF, "name": "m-Q4_K_M.gguf", "quantization": "Q4_K_M", "size_bytes": 398_000_000,
         "verified": True, "mean_divergence": 0.031, "top1_agreement": 0.921, "perplexity": 5.34,
         "same_answers": 5},
        {**GGUF, "name": "m-Q2_K.gguf", "quantization": "Q2_K", "size_bytes": 298_000_000,
         "verified": False, "mean_divergence": 0.9, "top1_agreement": 0.4, "perplexity": 25.0,
         "same_answers": 0},
        {"name": "adapter", "format": "adapter", "quantization": None, "size_bytes": 35_000_000,
         "verified": None},
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def card_of(run: RunFolder, *, has_picture: bool = True) -> str:
    stated = run.record.get("export")
    files = stated.get("files") if isinstance(stated, dict) else []
    exported = [each for each in files or [] if isinstance(each, dict)]
    return card(run, REPO, has_picture=has_picture, exported=exported)


def section(text: str, name: str) -> str:
    """What stands under a heading."""
    return re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", text, re.MULTILINE)


def cells(text: str) -> dict[str, list[str]]:
    """The rows of a section's tables by their first cell, without marks."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip(" `*") for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def rendered(text: str) -> str:
    """The HTML that a reader gets of it."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


# --- front matter


def test_the_front_matter_is_read_back_by_huggingface_hub(place):
    text = card_of(finished_run(Path("runs/one"), HUB, export=EXPORT))
    Path("README.md").write_text(text)
    read = ModelCard(text).data
    assert read.to_dict() == ModelCard.load("README.md").data.to_dict()
    told = metadata_load("README.md")
    assert told["library_name"] == "peft"
    assert told["base_model"] == "Qwen/Qwen2.5-0.5B-Instruct"
    assert told["base_model_relation"] == "adapter"
    assert told["datasets"] == ["trl-lib/Capybara"]
    assert told["pipeline_tag"] == "text-generation"
    assert told["tags"] == ["tunesmith", "trl", "sft", "lora", "gguf"]
    assert "license" not in told
    assert "None" not in text


def test_a_model_of_which_every_weight_was_trained_is_a_finetune():
    run = finished_run(Path("runs/one"), {**HUB, "tuning": "full"}, adapter=False)
    told = ModelCard(card_of(run)).data
    assert (told.library_name, told.base_model_relation) == ("transformers", "finetune")
    assert told.tags == ["tunesmith", "trl", "sft"]


def test_a_reward_model_is_not_announced_as_one_that_writes():
    settings = {"method": "reward", "model": HUB["model"], "dataset": "pairs.jsonl"}
    text = card_of(finished_run(Path("runs/one"), settings))
    assert ModelCard(text).data.pipeline_tag is None
    assert "AutoPeftModelForSequenceClassification" in section(text, "How to run it")


def test_an_evaluation_on_a_data_set_of_the_hub_stands_in_the_model_index():
    (found,) = ModelCard(card_of(finished_run(Path("runs/one"), HUB))).data.eval_results
    assert (found.dataset_type, found.dataset_split) == ("trl-lib/Capybara", "train")
    assert (found.metric_type, found.metric_value) == ("loss", 1.25)
    assert "held out" in found.metric_name


@pytest.mark.parametrize(
    "settings", [{"dataset": "chats.jsonl"}, {"eval_dataset": "other.jsonl", "test_size": None}]
)
def test_what_was_evaluated_on_files_has_no_model_index(settings):
    assert ModelCard(card_of(finished_run(Path("runs/one"), HUB | settings))).data.eval_results is None


def test_of_a_base_and_data_in_folders_no_hub_ids_are_claimed(place):
    for name in ("models/base", "data/chats"):
        Path(name).mkdir(parents=True)
    run = finished_run(
        Path("runs/one"), {"model": "models/base", "dataset": "data/chats"},
        base={"model": "models/base", "fingerprint": "sha256:" + "5" * 64},
    )  # fmt: skip
    os.chdir("/")  # published from somewhere else
    text = card_of(RunFolder.open(place / "runs/one"))
    told = ModelCard(text).data.to_dict()
    assert not {"base_model", "base_model_relation", "datasets"} & told.keys()
    assert "models/base" not in text
    assert "data/chats" not in text
    assert "`chats`" in section(text, "Data")
    assert "from_pretrained(BASE" in section(text, "How to run it")
    assert run.record["base"]["fingerprint"] in section(text, "Training")


def test_an_adapter_on_an_earlier_runs_model_is_not_announced_as_one_of_that_runs_base():
    run = finished_run(
        Path("runs/two"), {"method": "dpo", "init_from": "runs/one", "dataset": "pairs.jsonl"},
        base={"model": "Qwen/Qwen2.5-0.5B", "fingerprint": f"commit:{'7' * 40} + sha256:{'5' * 64}"},
    )  # fmt: skip
    text = card_of(run)
    assert "base_model" not in ModelCard(text).data.to_dict()
    assert "the adapter answers wrongly" in section(text, "How to run it")
    assert "which began from [Qwen/Qwen2.5-0.5B]" in text


# --- licences


CARDS = {
    "/api/models/Qwen/Qwen2.5-0.5B-Instruct": {"license": "apache-2.0"},
    "/api/models/own/terms": {
        "license": "other", "license_name": "own-terms", "license_link": "https://own.example/terms",
    },
    "/api/datasets/trl-lib/Capybara": {"license": ["cc-by-4.0"]},
    "/api/models/odd/odd": {"license": "<script>"},
}  # fmt: skip


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        found = CARDS.get(path)
        content = json.dumps({"id": path, "cardData": found} if found else {"error": "no"}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def answering_hub(monkeypatch):
    """A Hub that knows the licences of a few repositories."""
    from huggingface_hub.utils import close_session

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    taken_for_the_hub(f"http://127.0.0.1:{server.server_address[1]}", monkeypatch.setattr, monkeypatch.setenv)
    close_session()
    yield server
    server.shutdown()
    server.server_close()
    close_session()


def test_licences_are_those_that_the_hubs_cards_state(answering_hub):
    text = card_of(finished_run(Path("runs/one"), HUB))
    assert ModelCard(text).data.license == "apache-2.0"
    assert "licence apache-2.0" in cells(section(text, "Training"))["base model"][0]
    assert "cc-by-4.0" in section(text, "Data")
    assert "icence" not in section(text, "Limits")
    other = finished_run(Path("runs/two"), HUB | {"model": "own/terms", "dataset": "chats.jsonl"})
    told = ModelCard(card_of(other)).data.to_dict()
    assert told["license"] == "other"
    assert (told["license_name"], told["license_link"]) == ("own-terms", "https://own.example/terms")
    assert "Whether the data allow the same wasn't found out." in card_of(other)


def test_a_licence_that_is_none_or_cannot_be_asked_for_is_left_out(answering_hub):
    assert licence_of("odd/odd", is_of_hub=True) is None
    assert licence_of("nobody/nothing", is_of_hub=True) is None
    answering_hub.shutdown()
    answering_hub.server_close()
    assert licence_of("Qwen/Qwen2.5-0.5B-Instruct", is_of_hub=True) is None


@pytest.mark.parametrize(
    ("head", "found"),
    [
        ("license: mit", Licence("mit")),
        ("license: {a: b}", None),
        ("license: [mit, apache-2.0]", None),
        ("license: ': : {'\n\tx", None),
        ("tags: [a]", None),
    ],
)
def test_a_base_in_a_folder_has_the_licence_that_its_card_states(place, head, found):
    Path("base").mkdir()
    Path("base/README.md").write_text(f"---\n{head}\n---\n# Base\n")
    assert licence_of("base", is_of_hub=False) == found
    assert licence_of("nowhere", is_of_hub=False) is None


def test_without_a_network_the_card_is_written_all_the_same():
    # The tests are offline by HF_HUB_OFFLINE.
    text = card_of(finished_run(Path("runs/one"), HUB))
    assert "No licence is stated here" in section(text, "Limits")
    assert "licence" not in cells(section(text, "Data"))["data set"]


# --- sections


def test_every_section_tells_its_facts():
    run = finished_run(
        Path("runs/one"),
        {
            **HUB, "tuning": "qlora", "use_dora": True, "max_length": 2048, "allow": ["D303"],
            "dataset": [
                {"path": "trl-lib/Capybara", "weight": 0.7}, {"path": "/srv/chats.jsonl", "weight": 0.3},
            ],
            "trl": {"neftune_noise_alpha": 5}, "load_best_model_at_end": True,
        },
        data=DATA | {"mixture": {"trl-lib/Capybara#0": 7000, "/srv/chats.jsonl#1": 2500}},
        notes=["D303 evaluation row: row 3 Ada's own words (allowed)", "D401 API key or token: row 5"],
        results={
            "before": {"exact_match": 0.0}, "after": {"exact_match": 65 / 72}, "num_rows": 72,
            "baselines": {"always the first": 0.125}, "judged_by": "right is what equals the reference",
        },
        export=EXPORT,
    )  # fmt: skip
    text = card_of(run)
    assert headings(text) == [
        "How to run it", "Data", "Before and after", "Training", "Loss curve", "Predicted and actual",
        "Exported files", "Limits", "Made with",
    ]  # fmt: skip
    assert "**exact match 0.0 % before, 90.3 % after**, on 72 held-out rows." in text
    data = section(text, "Data")
    assert "| train | 7,000 | 0.7 |" in data
    assert "| `chats.jsonl` |  | 2,500 | 0.3 |" in data
    assert "9,500 rows with 4,100,000 tokens in all, 2,900,000 of them carry loss" in data
    assert "500 rows, drawn at random" in data
    assert "ab" * 32 in data
    scores = section(text, "Before and after")
    assert cells(scores)["exact match"] == ["0.0 % (0 of 72)", "90.3 % (65 of 72)", "81 to 95 %"]
    assert cells(scores)["loss"] == ["1.375 (step 100)", "1.25 (step 200)", "1.25 (step 200)"]
    assert "right is what equals the reference" in scores
    assert "always the first 12.5 %" in scores
    assert "the checkpoint of the lowest evaluation loss" in scores
    training = cells(section(text, "Training"))
    assert training["trained"] == [
        "LoRA adapter, its base in 4 bit (QLoRA) with DoRA: 8.8M of 494M parameters (1.8 %)"
    ]
    assert training["LoRA"] == ["rank 16, alpha 32, dropout 0"]
    assert training["steps"] == ["200 (1 epoch)"]
    assert training["learning rate"] == ["0.0002, cosine, warm-up 3 % of the steps"]
    assert training["batch"] == ["16 rows a step, 8 at a time"]
    assert (training["max_length"], training["seed"], training["precision"]) == (
        ["2,048 tokens"], ["42"], ["bf16"],
    )  # fmt: skip
    assert training["trl.neftune_noise_alpha"] == ["5"]
    assert "![loss](loss.png)" in section(text, "Loss curve")
    assert "2 at step 10, 1.12 at step 200" in section(text, "Loss curve")
    limits = section(text, "Limits")
    assert "72 rows and 500 rows that it wasn't trained on" in limits
    assert "12 rows longer than `max_length` of 2,048 tokens were cut" in limits
    assert "(`D303`)" in limits
    assert "D401" not in limits  # it wasn't in the way, and nobody had to allow it
    assert "Nothing here tests its safety" in limits
    assert "Ada's own words" not in text
    assert "Tunesmith" in section(text, "Made with")
    assert run.record["id"] in section(text, "Made with")


def test_what_it_took_stands_beside_what_was_predicted():
    rows = cells(section(card_of(finished_run(Path("runs/one"), HUB)), "Predicted and actual"))
    assert rows["time"] == ["60 min (50 min to 75 min)", "55 min"]
    assert rows["a step"] == ["1 s (0.8 s to 1.2 s)", "0.9 s"]
    assert rows["memory"] == ["9.0 GiB", "8.8 GiB"]  # what torch counts: the context isn't in it
    assert rows["cost"] == ["$2.50 ($2.08 to $3.13)", "$2.29, at $2.50 an hour"]


def test_a_run_whose_machine_has_no_price_has_no_known_cost():
    plan = PLAN | {"cost_usd": None, "price_usd_per_hour": None}
    rows = cells(section(card_of(finished_run(Path("runs/one"), HUB, plan=plan)), "Predicted and actual"))
    assert rows["cost"] == ["not known", "not known (the machine's price isn't)"]


def test_a_run_that_was_interrupted_claims_no_time():
    run = finished_run(
        Path("runs/one"), HUB, actual=None, resumed_from=100,
        drift=[{"step": 100, "key": "eval_steps", "before": 10, "now": 20}],
    )  # fmt: skip
    text = card_of(run)
    assert "went on from step 100" in section(text, "Predicted and actual")
    assert cells(section(text, "Predicted and actual"))["time"][1] == "not measured"
    assert "`eval_steps` from step 100 on" in section(text, "Training")


def test_a_model_of_which_nothing_was_measured_says_so():
    run = finished_run(
        Path("runs/one"), HUB | {"test_size": None}, rows=ROWS[:2], data=DATA | {"num_eval_rows": 0}
    )
    text = card_of(run)
    assert "**Nothing was measured of its answers.**" in section(text, "Before and after")
    assert "It was not evaluated on anything that it wasn't trained on." in section(text, "Limits")


def test_what_is_not_recorded_is_left_out():
    run = RunFolder.create(Path("runs/one"), {"config": {"method": "sft", "model": "me/base"}})
    run.model_path.mkdir()
    text = card_of(run, has_picture=False)
    assert headings(text) == ["How to run it", "Data", "Before and after", "Training", "Limits", "Made with"]
    assert not re.search(r"\bNone\b|\bnan\b|null|\{\}|\[\]|\(\)|: \.|, ,|  +\w", section(text, "Training"))
    assert "None" not in text
    assert "loss.png" not in text


def test_a_record_of_odd_shapes_still_gives_a_card():
    odd = {
        "config": {"method": "sft", "model": 7, "dataset": [None, {"path": 3}], "trl": None, "rewards": [1]},
        "data": None, "model": [], "machine": None, "results": {"before": 1, "after": {"a": "b"}},
        "export": {"files": ["x", {"name": "y"}]}, "drift": [1], "provenance": None, "notes": [3],
    }  # fmt: skip
    run = RunFolder.create(Path("runs/one"), odd)
    run.append_metrics({"step": 1, "loss": "nan"})
    run.model_path.mkdir()
    assert "None" not in card_of(run)


def test_exported_files_stand_in_a_table_and_a_wrong_one_is_marked():
    text = card_of(finished_run(Path("runs/one"), HUB, export=EXPORT))
    rows = cells(section(text, "Exported files"))
    assert rows["m-F16.gguf"] == ["gguf F16", "990", "yes", "0.00012", "99.8%", "5.121", "8 of 8"]
    assert rows["m-Q4_K_M.gguf"][2] == "yes"
    assert rows["m-Q2_K.gguf"][2] == "NOT VERIFIED"
    assert rows["adapter"][2] == "not compared"
    assert "don't use it" in section(text, "Exported files")
    run_it = section(text, "How to run it")
    # The smallest that answers as it was trained, not the smallest.
    assert f"llama-cli -hf {REPO}:Q4_K_M\n" in run_it
    assert f"ollama run hf.co/{REPO}:Q4_K_M\n" in run_it


def test_a_whole_model_is_served_by_its_name_and_a_merged_folder_from_that():
    full = finished_run(Path("runs/one"), {**HUB, "tuning": "full"}, adapter=False)
    assert f"vllm serve {REPO}\n" in card_of(full)
    files = [{"name": "merged", "format": "merged", "quantization": None, "verified": True}]
    text = card_of(finished_run(Path("runs/two"), HUB, export={"files": files}))
    assert "vllm serve chatty/merged" in text
    files[0]["verified"] = False
    assert "vllm" not in card_of(finished_run(Path("runs/three"), HUB, export={"files": files}))


def save_adapter(base: Path, target: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    ).save_pretrained(target)
    AutoTokenizer.from_pretrained(base).save_pretrained(target)


@pytest.mark.parametrize("kind", ["whole", "adapter of the Hub", "adapter of a folder"])
def test_the_python_lines_of_a_card_run(tiny_model, kind, capsys):
    fingerprint = f"commit:{'7' * 40}" if kind == "adapter of the Hub" else f"sha256:{'7' * 64}"
    settings = HUB if kind == "adapter of the Hub" else HUB | {"model": str(tiny_model)}
    run = finished_run(
        Path("runs/one"), settings, base={"model": settings["model"], "fingerprint": fingerprint}
    )
    shutil.rmtree(run.model_path)
    if kind == "whole":
        shutil.copytree(tiny_model, run.model_path)
    else:
        save_adapter(tiny_model, run.model_path)
    lines = re.search(r"```python\n(.*?)```", card_of(run), re.DOTALL)[1]
    assert ("BASE" in lines) == (kind == "adapter of a folder")
    here = lines.replace(f'"{REPO}"', repr(str(run.model_path))).replace("(BASE", f"({str(tiny_model)!r}")
    exec(here.replace("max_new_tokens=256", "max_new_tokens=4, min_new_tokens=4, do_sample=False"), {})
    assert capsys.readouterr().out


def test_where_answers_are_rewarded_the_reward_is_drawn_not_the_loss():
    rows = [{"step": n, "loss": 0.0, "reward": n / 10} for n in range(1, 11)]
    settings = HUB | {"method": "grpo", "rewards": ["length"], "test_size": None}
    run = finished_run(Path("runs/one"), settings, rows=rows, data=DATA | {"num_eval_rows": 0})
    assert curve_of(run).name == "reward"
    text = card_of(run)
    assert "0.1 at step 1, 1 at step 10" in section(text, "Reward curve")
    assert "reward of answers to the prompts that it was trained on" in section(text, "Before and after")


# --- whose card it is


def test_a_card_is_known_as_ours_until_somebody_changes_it():
    run = finished_run(Path("runs/one"), HUB)
    text = card_of(run)
    assert card_of(RunFolder.open(run.path)) == text
    assert is_ours(text)
    changed = [text.replace("# chatty", "# Chatty"), text + "More.\n", text.replace("peft", "pefts", 1)]
    lines = text.splitlines()
    for other in (*changed, "", "# Mine\n", f"{lines[-1]}\n", text.replace(lines[-1] + "\n", "")):
        assert not is_ours(other)


# --- nothing of this machine, nothing that breaks the page


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with telling names, whose user has a token."""
    home = tmp_path / "home" / "aliceliddell"
    home.mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(socket, "gethostname", lambda: "wonderbox.example.org")
    for name, value in {
        "HOME": str(home), "USER": "aliceliddell", "LOGNAME": "aliceliddell", "HF_TOKEN": TOKEN,
        "SHOP_PASSWORD": "Wq7vR_zu4kLm-eat-me",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return home


NASTY = "<script>alert(1)</script> | cell\n# heading ](javascript:x) `code` \u202e \x1b[31m"


def hostile_run(home: Path) -> RunFolder:
    settings = {
        "model": str(home / "models" / "base"),
        "dataset": [
            {"path": f"{home}/data/chats | <img src=x>.jsonl"},
            {"path": "aliceliddell-private/rabbit hole/tea`party.jsonl"},
            {"path": f"C:\\Users\\aliceliddell\\{TOKEN}.jsonl"},
        ],
        "chat_template": str(home / "templates" / "own.jinja"),
        "lora_target_modules": r".*\.layers\.[12]\d\..*_proj",
        "trl": {
            "run_name": "aliceliddell on wonderbox", "logging_dir": f"{home}/logs", "optim_args": NASTY,
            "hub_token": TOKEN, "note": "Wq7vR_zu4kLm-eat-me",
        },
    }  # fmt: skip
    run = finished_run(
        Path("runs/one"), settings,
        base={"model": settings["model"], "fingerprint": "sha256:" + "5" * 64},
        machine={"device_name": f"Box {NASTY} of aliceliddell", "num_devices": 2},
        versions={"torch": "2.13", NASTY: NASTY},
        results={
            "before": {NASTY: 0.5}, "after": {NASTY: 0.75}, "num_rows": 4, "judged_by": NASTY,
            "dataset": f"{home}/held.jsonl", "baselines": {NASTY: 0.5},
        },
        export={"path": str(home), "files": [{"name": NASTY, "format": NASTY, "verified": "odd"}]},
        notes=[f"D303 {NASTY}"], drift=[{"step": 3, "key": NASTY}], tunesmith=NASTY, error=str(home),
    )  # fmt: skip
    run.update(name=f"aliceliddell {NASTY}", created_at=NASTY)
    return run


def test_nothing_of_the_machine_or_its_user_stands_in_the_card(machine):
    text = card_of(hostile_run(machine))
    for private in ("aliceliddell", "wonderbox", str(machine), "/home", "rabbit hole", TOKEN, "eat-me", "C:"):
        assert private not in text, private
    assert find_keys(text) == []
    assert "(left out" in text
    assert "own.jinja" in text
    assert r"`.*\.layers\.[12]\d\..*_proj`" in text  # its backslashes are no folders
    Path("stage").mkdir()
    Path("stage/README.md").write_text(text)
    assert refuse_secrets(Path("stage")).files == [Path("stage/README.md")]


def test_no_value_breaks_a_table_or_puts_html_into_the_page(machine):
    text = card_of(hostile_run(machine))
    shown = rendered(text.partition("---\n\n")[2])
    assert "<script" not in shown
    assert "<img" not in shown.replace('<img src="loss.png"', "")
    assert 'href="javascript' not in shown
    assert set(re.findall(r"<h1>(.*?)</h1>", shown)) == {"chatty"}
    for found in re.findall(r"<table>.*?</table>", shown, re.DOTALL):
        widths = {row.count("<t") for row in re.findall(r"<tr>(.*?)</tr>", found, re.DOTALL)}
        assert len(widths) == 1, found
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e]", text)
    assert ModelCard(text).data.library_name == "peft"
    # As many tables as in a card of ordinary values.
    assert shown.count("<table>") == 7


def test_a_record_that_cannot_be_cleaned_gives_no_card(monkeypatch):
    monkeypatch.setenv("HOME", "/srv/user")  # a name that says nothing, so that it isn't taken out
    run = finished_run(Path("runs/one"), HUB, versions={"torch": "2.13 of/srv/user"})
    with pytest.raises(SecretError):
        card_of(run)


@pytest.mark.parametrize(
    "text",
    ["a|b", "`", "``x`", "a\\", "*a* _b_ [c](d) ~~e~~", "<b>", "&lt;", "http://x.y www.x.y", "\\|", ""],
)
def test_any_text_is_read_in_a_cell_as_it_is(text):
    shown = rendered(table(["one", "two"], [[plain(text) or "-", code(text) or "-"]]))
    found = [
        re.sub(r"</?code>|\u200b|&#8203;", "", cell)
        for cell in re.findall(r"<td>(.*?)</td>", shown, re.DOTALL)
    ]
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") or "-"
    assert found == [escaped, escaped]


def test_long_and_unseen_characters_are_cut():
    assert one_line(" a\n\tb\u202ec\x00d ") == "a b c d"
    assert one_line("x" * 1000) == "x" * 297 + "..."
