"""Small data for every method, and what each method needs on the command line."""

from __future__ import annotations

from pathlib import Path

from tiny import chat_rows, write_jsonl

from tunesmith.config.methods import METHODS

REWARD_FILE = '''
def short(completions, **kwargs):
    """More for answers with fewer different letters: a number that differs from answer to answer."""
    texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
    return [-len(set(text)) / 10 for text in texts]
'''


def write_method_data(folder: Path, n: int = 24) -> None:
    """chats.jsonl, pairs.jsonl, labelled.jsonl, prompts.jsonl, texts.jsonl and rewards.py in `folder`."""
    chats = chat_rows(n)
    last = [row["messages"][-2:] for row in chats]
    others = [last[(i + 7) % n][1]["content"] + " And so on." for i in range(n)]
    write_jsonl(folder / "chats.jsonl", chats)
    write_jsonl(folder / "texts.jsonl", [{"text": answer["content"]} for _, answer in last])
    write_jsonl(
        folder / "pairs.jsonl",
        [
            {
                "prompt": [question],
                "chosen": [answer],
                "rejected": [{"role": "assistant", "content": other}],
            }
            for (question, answer), other in zip(last, others, strict=True)
        ],
    )
    write_jsonl(
        folder / "labelled.jsonl",
        [
            {"prompt": [question], "completion": [answer], "label": i % 2 == 0}
            for i, (question, answer) in enumerate(last)
        ],
    )
    write_jsonl(
        folder / "prompts.jsonl",
        [{"prompt": [question], "answer": answer["content"]} for question, answer in last],
    )
    (folder / "rewards.py").write_text(REWARD_FILE, encoding="utf-8")


def options_for(method: str, model: Path) -> list[str]:
    """The command line of a short run of `method` in the folder of `write_method_data`.

    In fp32, so that numbers are the same on CPUs with bf16 and without.
    """
    spec = METHODS[method]
    data = {
        "conversation": "texts.jsonl" if method == "cpt" else "chats.jsonl",
        "preference": "pairs.jsonl",
        "unpaired": "labelled.jsonl",
        "prompts": "prompts.jsonl",
    }[spec.kind]
    options = [
        method, "--model", str(model), "--dataset", data, "--global-batch-size", "4", "--logging-steps", "1",
        "--max-steps", "3", "--learning-rate", "0.01", "--set", "trl.report_to=none",
        "--precision", "fp32",
    ]  # fmt: skip
    if spec.trainer in ("grpo", "rloo"):
        options += ["--rewards", "rewards.py:short", "--num-generations", "2", "--max-completion-length", "6"]
    if spec.trainer == "distillation":
        options += ["--teacher-model", str(model), "--max-completion-length", "6"]
    return options
