"""Rows encoded for a test: what carries loss in them, as text."""

import tempfile
from pathlib import Path

from tiny import _train_tokenizer, write_jsonl

from tunesmith.config.run_config import DatasetSource, RunConfig
from tunesmith.data.encoded_rows import encode_source
from tunesmith.data.prepare import prepare_data, verdict
from tunesmith.data.tokens import IGNORED_LABEL


def config_for(**settings) -> RunConfig:
    return RunConfig(model="m", dataset="rows", **settings)


def encode(tokenizer, rows, **settings) -> dict[str, list]:
    """The columns that rows become, or the refusal; answers without an end and cut ones are let through."""
    with tempfile.TemporaryDirectory() as folder:
        source = DatasetSource(path=str(write_jsonl(Path(folder) / "rows.jsonl", rows)))
        config = config_for(**{"allow": ("D203", "D207"), **settings})
        made = encode_source(source, config, tokenizer)
        verdict(source, made.checked, config, tokenizer)
        return made.dataset.to_dict()


def learned(tokenizer, row, **settings) -> list[str]:
    """The runs of tokens of `row` that carry loss, as text."""
    made = encode(tokenizer, [row], **settings)
    runs, previous = [], None
    for index, label in enumerate(made["labels"][0]):
        if label != IGNORED_LABEL:
            assert label == made["input_ids"][0][index]
            if previous != index - 1:
                runs.append([])
            runs[-1].append(label)
            previous = index
    return [tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs]


def chat(*turns: str) -> dict:
    """A conversation of user and assistant in turn; `system:` before the first makes it a system message."""
    messages = []
    for turn in turns:
        if turn.startswith("system:"):
            messages.append({"role": "system", "content": turn.removeprefix("system:")})
        else:
            asked = sum(message["role"] != "system" for message in messages) % 2 == 0
            messages.append({"role": "user" if asked else "assistant", "content": turn})
    return {"messages": messages}


def texts(n: int, word: str = "row") -> list[dict]:
    return [{"text": f"{word} {i}"} for i in range(n)]


def prepare(dataset, tokenizer=None, **settings):
    return prepare_data(
        RunConfig(model="m", dataset=dataset, **settings), tokenizer or _train_tokenizer(chat_template=True)
    )


def rows_of(dataset) -> list[str]:
    tokenizer = _train_tokenizer(chat_template=True)
    return [tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in dataset]
