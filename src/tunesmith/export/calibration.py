"""The texts that show which columns of a weight matter: a dataset as the run would read it, or plain text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.config.run_config import RunConfig
from tunesmith.data.prepare import prepare_data
from tunesmith.errors import DataError
from tunesmith.export.samples import MAX_LENGTH, row_of
from tunesmith.export.trained import Trained

# llama.cpp's own tool reads chunks of 512 tokens; beyond some tens of thousands of them little changes.
MAX_TOKENS = 32_768
# Means of fewer tokens say more of the text than of the model.
MIN_TOKENS = 256


def calibration_rows(trained: Trained, data: str) -> list[list[int]]:
    """Token ids of `data`: a dataset (a file, folder or Hub id), or the text of a .txt file.

    Raises:
        DataError: it can't be read, or holds too little text.
        DownloadError: it lies on the Hub, and can't be fetched.
    """
    rows = _of_text(data, trained.tokenizer) if data.endswith(".txt") else _of_dataset(trained, data)
    kept, total = [], 0
    for ids in rows:
        if total >= MAX_TOKENS:
            break
        kept.append(ids)
        total += len(ids)
    if total < MIN_TOKENS:
        raise DataError(
            f"{data} holds {total} tokens, too few to tell which weights matter",
            where="--imatrix",
            fix=f"name data of {MIN_TOKENS} tokens or more, such as the run's training data",
        )
    return kept


def _of_text(path: str, tokenizer: Any) -> list[list[int]]:
    try:
        text = Path(path).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} can't be read: {error}", where="--imatrix", fix="name a text file in UTF-8"
        ) from None
    ids = tokenizer(text[: MAX_TOKENS * 16], add_special_tokens=False)["input_ids"]
    return [ids[at : at + MAX_LENGTH] for at in range(0, len(ids), MAX_LENGTH)]


def _of_dataset(trained: Trained, data: str) -> list[list[int]]:
    config = RunConfig(model=trained.tokenizer_source, dataset=data, max_length=MAX_LENGTH)
    if trained.run is not None and (own := trained.run.config()).kind != "prompts":
        kept = {"dataset": data, "eval_dataset": None, "test_size": None, "dataset_config": None}
        config = own.model_copy(update=kept | {"dataset_test_split": None, "max_rows": None})
    dataset = prepare_data(config, trained.tokenizer).train
    # Evenly from all of it: sorted data say one thing at their beginning.
    count = min(len(dataset), 4096)
    return [row_of(dataset[place * len(dataset) // count]).ids for place in range(count)]
