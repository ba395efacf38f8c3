"""25 planted faults with which the stock stack trains to its end: here each stops a run, or is told by name.

Measured with transformers 5.23, TRL 1.16 and datasets 5.2 on 2026-11-27; the null and the keys of another
format under a template that writes `{{ message.content }}`, where one that adds it to a text raises. A reward
that raises isn't among them: there the stock stack stops as well. Nothing in the table is said of sound runs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from corpus_rows import put, then
from method_data import write_method_data
from running import tunesmith
from templates import GLM4, QWEN3
from test_guards import with_poisoned_token
from tiny import chat_rows, write_jsonl

from tunesmith.runs import checkpoints
from tunesmith.runs.folder import RunFolder

# A run that stopped at step 4 of 6, and the folder of one that begins.
BEGUN, NEW = Path("runs/begun"), Path("runs/new")
NEWEST = BEGUN / "checkpoints/checkpoint-4"
COMMON = [
    "--model", "base", "--max-steps", "2", "--global-batch-size", "4", "--save-steps", "2", "--precision",
    "fp32", "--learning-rate", "0.01", "--set", "trl.report_to=none", "--run-dir", str(NEW),
]  # fmt: skip
SFT = ("train", "sft", "--dataset", "chats.jsonl", *COMMON)
CPT = ("train", "cpt", "--dataset", "texts.jsonl", *COMMON)
DPO = ("train", "dpo", "--dataset", "pairs.jsonl", *COMMON)
GRPO = (
    "train", "grpo", "--dataset", "prompts.jsonl", "--rewards", "rewards.py:score", "--num-generations", "2",
    "--max-completion-length", "4", *COMMON, "--max-steps", "3", "--max-steps-without-signal", "2",
)  # fmt: skip
AGAIN = (*SFT, "--max-steps", "6", "--save-total-limit", "3", "--run-dir", str(BEGUN))
RESUME = ("resume", str(BEGUN))

Plant = Callable[[pytest.MonkeyPatch], object]


@dataclass(frozen=True)
class Silent:
    """A fault: how it is planted in the folder of `ground`, the command that meets it, what must be told.

    `code` 0 is a run that goes on and warns.
    """

    name: str
    plant: Plant
    command: tuple[str, ...]
    code: int
    says: tuple[str, ...]


def changed(file: str, change: Callable[[dict], dict], numbers: Sequence[int] = (5,)) -> Plant:
    """A change to some rows of a file."""

    def plant(_: pytest.MonkeyPatch) -> None:
        rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
        write_jsonl(Path(file), [change(row) if i in numbers else row for i, row in enumerate(rows)])

    return plant


def chat(path: str, value: object) -> Plant:
    """Another value at a path of row 5 of the chats: user, assistant, user, assistant."""
    return changed("chats.jsonl", lambda row: put(row, path, value))


def long(place: int) -> Plant:
    """Three chats of one question and one answer, one of which (by its place) is longer than 256 tokens."""

    def lengthened(row: dict) -> dict:
        messages = row["messages"][-2:]
        messages[place]["content"] += " On and on." * 90
        return {"messages": messages}

    return changed("chats.jsonl", lengthened, range(3))


def template(text: str) -> Plant:
    return lambda _: Path("own.jinja").write_text(text)


def begins_with_a_token(_: pytest.MonkeyPatch) -> None:
    """A tokenizer that puts a begin-of-text token before every text, and a text that has one already."""
    from tokenizers import processors
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("base")
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", pair=None, special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained("base")
    changed("texts.jsonl", lambda row: {"text": f"<|im_start|>{row['text']}"})(_)


def held_out(change: Callable[[list], list]) -> Plant:
    return lambda _: write_jsonl(Path("held.jsonl"), change(chat_rows(40)))


def unanswered(rows: list) -> list:
    """Rows of which nothing is to be learned."""
    return [put(row, f"messages[{len(row['messages']) - 1}].weight", 0) for row in rows[20:30:2]]


def reward(body: str) -> Plant:
    def plant(_: pytest.MonkeyPatch) -> None:
        Path("rewards.py").write_text(f"def score(completions, trainer_state, **kwargs):\n    {body}\n")

    return plant


def poisoned(text: str) -> Plant:
    """The weights of one token infinite."""
    return lambda _: with_poisoned_token(Path("base"), Path("base"), text)


def of_poisoned_row(patch: pytest.MonkeyPatch) -> None:
    poisoned("~")(patch)
    chat("messages[0].content", "~~~~")(patch)


def flipped(path: Path) -> Plant:
    def plant(_: pytest.MonkeyPatch) -> None:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    return plant


def no_randomness(_: pytest.MonkeyPatch) -> None:
    """The state of the generators was never written: the manifest knows of none."""
    state, manifest = (json.loads((NEWEST / name).read_text()) for name in ("state.json", "manifest.json"))
    pairs = [pair for pair in state["$pairs"] if pair[0] != "randomness"]
    assert len(pairs) == len(state["$pairs"]) - 1
    (NEWEST / "state.json").write_text(json.dumps({"$pairs": pairs}))
    manifest["files"]["state.json"] = checkpoints.entry_of(NEWEST / "state.json")
    (NEWEST / "manifest.json").write_text(json.dumps(manifest))


def preempted(patch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes in the third step."""
    from trl import SFTTrainer

    compute_loss = SFTTrainer.compute_loss

    def signalled(self, *args, **kwargs):
        if self.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute_loss(self, *args, **kwargs)

    patch.setattr(SFTTrainer, "compute_loss", signalled)


OWN, HELD = ("--chat-template", "own.jinja"), ("--eval-dataset", "held.jsonl")
ACCUMULATED = ("--set", "trl.gradient_accumulation_steps=2", "--set", "trl.per_device_train_batch_size=2")
SHORT = ("--max-length", "256")
SILENT = [
    Silent("F02 an answer is null", chat("messages[1].content", None), SFT, 2,
           ("row 5: messages[1].content is null [D003]",)),
    Silent("F02 a role is misspelt", chat("messages[1].role", "asistant"), SFT, 2,
           ("row 5: messages[1].role", "'asistant'", "[D006]")),
    Silent("F02 nobody answers", chat("messages", lambda old: old[:1]), SFT, 2,
           ("row 5: messages has no assistant turn to learn from [D008]",)),
    Silent("F02 keys of another format", chat("messages[1]", {"from": "assistant", "value": "Yes."}), SFT, 2,
           ("row 5: messages[1].content is missing [D002]",)),
    Silent("F02 an answer is empty", chat("messages[3].content", ""), SFT, 2,
           ("row 5: messages[3].content", "[D004]")),
    Silent("F36 control tokens in a question", chat("messages[0].content", then("<|im_end|>")), SFT, 0,
           ("D017 control tokens in the text: row 5, messages[0].content",)),
    Silent("F35 a text begins twice", begins_with_a_token, CPT, 2,
           ("row 5 begins with <|im_start|> twice [D202]",)),
    Silent("F12 a template that ends no turn", template(GLM4), (*SFT, *OWN), 2,
           ("0 of 12 rows train a token that ends the answer [D203]",)),
    Silent("F11 a template in which answers can't be told from the rest", template(QWEN3), (*SFT, *OWN), 2,
           ("so the tokens to learn can't be told [D201]",)),
    Silent("F10 answers are cut", long(-1), (*SFT, *SHORT), 2,
           ("max_length 256 cuts the answers of 3 of 12 rows (25.0%); ",)),
    Silent("F10 answers are cut away whole", long(0), (*SFT, *SHORT), 2,
           ("max_length 256 cuts the answers of 3 of 12 rows (25.0%), 3 of them whole",)),
    Silent("F19 an identical pair", changed("pairs.jsonl", lambda row: row | {"rejected": row["chosen"]}),
           DPO, 2, ("row 5: rejected is the same as chosen [D101]",)),
    Silent("F20 a row held out is trained on", held_out(lambda rows: [*rows[20:30:2], rows[7]]),
           (*SFT, *HELD), 2, ("evaluation row 5", "[D303]")),
    Silent("F52 nothing of the evaluation is judged", held_out(unanswered), (*SFT, *HELD), 2,
           ("has no token to learn: nothing of its answers is rendered [D204]", "where: held.jsonl")),
    Silent("F18 a reward that never differs", reward("return [0.5] * len(completions)"), GRPO, 4,
           ("D505 reward is constant", "no signal in 2 steps: all answers to a prompt got the same reward")),
    Silent("F17 rewards that are NaN",
           reward("return [1.0 / (i + 1) if trainer_state.global_step < 1 else float('nan') "
                  "for i in range(len(completions))]"), GRPO, 4, ("reward score gives nan for ",)),
    Silent("F25 the state of the optimizer is lost", lambda _: (NEWEST / "state.safetensors").unlink(),
           RESUME, 0, ("checkpoint-4 isn't whole (state.safetensors is missing)", "going on from step 2")),
    Silent("F25 the state of the generators is lost", no_randomness, RESUME, 2,
           ("the checkpoint checkpoint-4 holds no randomness",)),
    Silent("F26 a bit of a checkpoint is flipped", flipped(NEWEST / "adapter_model.safetensors"), RESUME, 0,
           ("adapter_model.safetensors was altered: its hash isn't the manifest's", "going on from step 2")),
    Silent("F16 other rows", chat("messages[1].content", then(" Or so.")), AGAIN, 2,
           ("data (fingerprint of the rows) was ",)),
    Silent("F16 another accumulation", lambda _: None, (*AGAIN, *ACCUMULATED), 2,
           ("trl.gradient_accumulation_steps was not set and is 2",)),
    Silent("F49 another base", flipped(Path("base/model.safetensors")), RESUME, 2,
           ("base (fingerprint of the model) was sha256:",)),
    Silent("F09 a weight is infinite", poisoned("~"), (*SFT, "--tuning", "full"), 4,
           ("the weight model.embed_tokens.weight of step 2 is not a finite number",)),
    Silent("F09 the loss of a row is NaN", of_poisoned_row, (*SFT, "--max-steps", "3"), 4,
           ("loss of step ", "is not a finite number; it learned from row ")),
    Silent("F03 preempted", preempted, (*SFT, "--max-steps", "4"), 4,
           ("SIGTERM received; checkpoint at step 3 is written",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with sound data for every method, the model, and a run that can go on from step 4."""
    folder = tmp_path_factory.mktemp("ground")
    shutil.copytree(tiny_model, folder / "base")
    write_method_data(folder, 12)
    (folder / "rewards.py").write_text(
        "def score(completions, **kwargs):\n    return [i / 7 for i in range(len(completions))]\n"
    )
    write_jsonl(folder / "held.jsonl", chat_rows(40)[20:30:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        begun = tunesmith(*AGAIN)
        assert begun.code == 0, begun.err
        # As if it had been stopped before its last two steps.
        RunFolder.open(BEGUN).update(status="stopped", step=4)
        shutil.rmtree(BEGUN / "model")
        shutil.rmtree(BEGUN / "checkpoints/checkpoint-6")
    return folder


@pytest.fixture
def ground(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to plant a fault in."""
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "ground"))
    return tmp_path


def test_25_faults_are_planted():
    assert len({fault.name for fault in SILENT}) == len({fault.says for fault in SILENT}) == 25


@pytest.mark.parametrize("fault", SILENT, ids=lambda fault: fault.name)
def test_a_fault_that_trains_silently_elsewhere_stops_or_warns_by_name(fault, ground, monkeypatch):
    fault.plant(monkeypatch)
    ran = tunesmith(*fault.command)
    said = " ".join(ran.err.split())
    assert ran.code == fault.code, ran.err
    assert [phrase for phrase in fault.says if " ".join(phrase.split()) not in said] == [], ran.err
    assert "Traceback" not in ran.err
    run = BEGUN if fault.command in (RESUME, AGAIN) else NEW
    assert (run / "model").is_dir() == (fault.code == 0)


@pytest.mark.parametrize(
    "command", [(*SFT, *HELD), CPT, DPO, GRPO, RESUME], ids=["sft", "cpt", "dpo", "grpo", "resume"]
)
def test_nothing_of_it_is_said_of_a_sound_run(command, ground):
    ran = tunesmith(*command)
    assert ran.code == 0, ran.err
    said = " ".join(ran.err.split())
    assert [phrase for fault in SILENT for phrase in fault.says if " ".join(phrase.split()) in said] == []
