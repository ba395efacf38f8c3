"""What a trained model and its exports are compared on: rows that the run held out, or texts kept here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.data.prepare import prepare_data
from tunesmith.data.tokens import IGNORED_LABEL
from tunesmith.errors import DataError, DownloadError
from tunesmith.export.trained import Trained
from tunesmith.runs.folder import RunFolder

MAX_ROWS, MAX_LENGTH, MAX_PROMPTS = 48, 512, 16
# The reference keeps a number for each position and token: half a gigabyte at most.
_MAX_REFERENCE_BYTES, _MAX_POSITIONS = 512 << 20, 2000

_TEXTS = (
    "The harbour was quiet before sunrise. Two fishermen untied their boat, checked the weather once more, "
    "and decided that the wind would hold until noon.",
    "def mean(values: list[float]) -> float:\n    if not values:\n        raise ValueError('no values')\n"
    "    return sum(values) / len(values)\n",
    "Water boils at a lower temperature on a mountain, because the pressure of the air is lower there.",
    "Am Abend gingen wir am Fluss entlang, und niemand sprach ein Wort.",
    "In 1969 two people walked on the Moon; about 650 million watched them on television.",
)
_QUESTIONS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "How many days are in a week?",
    "Name three colours.",
    "What do bees make?",
    "Say good morning in Spanish.",
    "What is 2 + 2?",
    "Which planet is closest to the sun?",
)


@dataclass(frozen=True)
class Row:
    """Token ids, and the position of the first whose successor is compared."""

    ids: list[int]
    first: int

    @property
    def num_positions(self) -> int:
        """How many next-token distributions are compared."""
        return len(self.ids) - 1 - self.first

    def as_dict(self) -> dict[str, Any]:
        """For the way between processes."""
        return {"ids": self.ids, "first": self.first}


@dataclass(frozen=True)
class Samples:
    """Rows to compare distributions on, prompts (as ids) to answer, and a sentence on where both are from."""

    rows: list[Row]
    prompts: list[list[int]]
    source: str
    texts: list[str] = field(default_factory=list)


def samples_of(trained: Trained) -> Samples:
    """Rows that the run held out, else some that it was trained on, else texts that are kept here."""
    found, source, tokenizer = None, "texts that Tunesmith brings", trained.tokenizer
    try:
        found = None if trained.run is None else _of_run(trained.run, tokenizer)
    except (DataError, DownloadError) as error:  # the model is whole without them
        source += f" (the run's data can't be read: {error.message})"
    rows, source = found or (_texts_kept_here(tokenizer), source)
    rows = _within(rows, _MAX_REFERENCE_BYTES // (4 * trained.vocab_size))
    prompts = [row.ids[: row.first + 1] for row in rows if row.first > 0][:MAX_PROMPTS]
    if not prompts:
        prompts = [row.ids[: max(1, len(row.ids) // 2)] for row in rows[:MAX_PROMPTS]]
    return Samples(rows, prompts, source, [tokenizer.decode(row.ids) for row in rows])


def _of_run(run: RunFolder, tokenizer: Any) -> tuple[list[Row], str] | None:
    config = run.config()
    if config.kind == "prompts":
        return None
    # What was allowed when the model was trained is allowed now.
    data = prepare_data(config, tokenizer)
    is_held_out = data.eval is not None
    dataset = data.eval if data.eval is not None else data.train
    count = min(MAX_ROWS, len(dataset))
    chosen = [dataset[place * len(dataset) // count] for place in range(count)]
    rows = [row for each in chosen if (row := row_of(each)).num_positions > 0]
    kind = "rows that the run held out" if is_held_out else "rows that it was trained on (none were held out)"
    return (rows, f"{len(rows)} {kind}") if rows else None


def row_of(row: dict[str, Any]) -> Row:
    """A row as the data stage made it; of pairs the chosen answer."""
    if "input_ids" in row:
        ids = list(row["input_ids"])
        learned = [place for place, label in enumerate(row["labels"]) if label != IGNORED_LABEL]
        first = max(0, learned[0] - 1) if learned else 0
        # What stands behind the answer's end was never learned: its loss says nothing.
        ids = ids[: learned[-1] + 1] if learned else ids
    else:
        answer = row["chosen_ids"] if "chosen_ids" in row else row["completion_ids"]
        ids, first = [*row["prompt_ids"], *answer], max(0, len(row["prompt_ids"]) - 1)
    # The end of the prompt is what an answer begins after: a long one loses its beginning.
    skipped = max(0, min(first, len(ids) - MAX_LENGTH))
    return Row(ids[skipped : skipped + MAX_LENGTH], first - skipped)


def _texts_kept_here(tokenizer: Any) -> list[Row]:
    rows = [Row(tokenizer(text)["input_ids"], 0) for text in _TEXTS]
    if tokenizer.chat_template:
        for question in _QUESTIONS:
            message = [{"role": "user", "content": question}]
            ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
            rows.append(Row(list(ids), 0))
    return [row for row in rows if row.num_positions > 0]


def _within(rows: Sequence[Row], most: int) -> list[Row]:
    """As many rows as have room; at least one position."""
    left, kept = min(_MAX_POSITIONS, max(1, most)), []
    for row in rows:
        if left <= 0:
            break
        length = min(len(row.ids), row.first + 1 + left)
        kept.append(Row(row.ids[:length], row.first))
        left -= kept[-1].num_positions
    return kept
