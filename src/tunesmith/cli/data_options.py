"""What `validate` and `preview` are told alike: the data, the method, the model, the columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.errors import ConfigError, TunesmithError

if TYPE_CHECKING:
    from tunesmith.config.run_config import DatasetSource, RunConfig
    from tunesmith.data.report import ModelFit

Method = Annotated[
    str, typer.Option("--method", metavar="METHOD", help="sft, dpo, reward, kto, grpo, rloo, orpo, cpo ...")
]
Model = Annotated[
    str | None, typer.Option("--model", help="Hub id or folder: its chat template and tokenizer are used.")
]
MaxLength = Annotated[int, typer.Option("--max-length", min=8, help="Tokens a row is cut to.")]
ChatTemplate = Annotated[
    str | None,
    typer.Option("--chat-template", help="chatml, zephyr or a .jinja file instead of the model's."),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map", metavar="SLOT=COLUMN", help="Which column plays a part: prompt=question. Repeat it."
    ),
]
Split = Annotated[str, typer.Option("--split", help="Split, or a slice of it such as train[:1000].")]
EvalDataset = Annotated[str | None, typer.Option(help="Evaluation data: its rows should not be in DATA.")]
EvalSplit = Annotated[str | None, typer.Option(help="Split of DATA that is evaluated on.")]
Reward = Annotated[
    list[str] | None,
    typer.Option(
        "--reward",
        metavar="NAME",
        help="Reward to call on rows: a name of the library (numeric_answer) or FILE.py:FUNCTION. Repeat it.",
    ),
]
Fix = Annotated[
    Path | None, typer.Option("--fix", metavar="OUT.jsonl", help="Write a clean copy; DATA stays as it is.")
]
Findings = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write every finding to it, as JSON lines.")
]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as one page to look at.")]
Allow = Annotated[
    list[str] | None, typer.Option(metavar="CODE", help="An error to accept knowingly. Repeat it.")
]
Duplicates = Annotated[
    bool, typer.Option("--duplicates/--no-duplicates", help="Look for duplicates and contradictions.")
]
TokenRows = Annotated[
    int, typer.Option(min=0, help="With --model: tokenise a seeded sample of so many rows; 0: all.")
]
Shard = Annotated[
    str | None, typer.Option(metavar="I/N", help="Check part I (from 0) of N, and keep it for --merge.")
]
Merge = Annotated[bool, typer.Option("--merge", help="DATA are the files of all shards: conclude from them.")]


def known_method(method: str) -> None:
    """Make sure that the method exists.

    Raises:
        ConfigError: it doesn't.
    """
    from tunesmith.config.methods import METHODS, which_method

    if method not in METHODS:
        raise ConfigError(f"there is no method {method!r}", where="--method", fix=which_method(method))


def source_of(data: str, split: str) -> DatasetSource:
    """The data set that the command line names."""
    from pydantic import ValidationError

    from tunesmith.config.run_config import DatasetSource

    try:
        return DatasetSource(path=data, split=split)
    except ValidationError as error:
        raise ConfigError(f"DATA: {error.errors()[0]['msg']}", where="command line") from None


def model_fit(model: str | None, chat_template: str | None, phase: Callable[[str], None]) -> ModelFit | None:
    """The tokenizer of `model` with its chat template, and the size of its vocabulary; None without one.

    Raises:
        ConfigError: a template was given without a model.
        ModelError, DownloadError, DataError: the tokenizer or template can't be loaded.
    """
    if model is None:
        if chat_template:
            raise ConfigError(
                "--chat-template needs --model",
                where="--chat-template",
                fix="add --model: its tokenizer is used",
            )
        return None
    from tunesmith.data.chat_templates import put_in_chat_template
    from tunesmith.data.report import ModelFit
    from tunesmith.data.tokenizer import load_tokenizer, vocabulary_size

    phase("loading the tokenizer")
    config = _config(model)
    tokenizer = load_tokenizer(config)
    put_in_chat_template(tokenizer, chat_template)
    return ModelFit(model, tokenizer, vocabulary_size(config))


def _config(model: str) -> RunConfig:
    from tunesmith.config.loading import load_config

    try:
        return load_config(flags={"method": "sft", "model": model, "dataset": "-"}, environ={}).config
    except TunesmithError as error:
        raise ConfigError(error.message, where="--model", fix=error.fix) from None
