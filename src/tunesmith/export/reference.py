"""What the trained model itself predicts and answers, in fp32 on the CPU: its exports are held against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.export.divergence import Compared, compared, log_probabilities
from tunesmith.export.merge import load_adapted, load_base
from tunesmith.export.samples import Samples
from tunesmith.export.trained import Trained

MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class Reference:
    """The trained model's log-probabilities (a .npy file: positions x vocabulary, fp32) and greedy answers.

    `end_tokens` are the ids at which it stops.
    """

    samples: Samples
    path: Path
    answers: list[list[int]]
    end_tokens: list[int]
    num_tokens: int


def reference_of(trained: Trained, samples: Samples, path: Path) -> Reference:
    """Run the trained model, its adapter unmerged, over the samples; distributions go to the file `path`."""
    model = load_base(trained.base_path, "float32", four_bit=trained.four_bit)
    if trained.adapter_path is not None:
        model = load_adapted(model, trained.base_path, trained.adapter_path)
    model.eval()
    num_tokens = int(model.get_output_embeddings().weight.shape[0])
    count = sum(row.num_positions for row in samples.rows)
    stored = np.lib.format.open_memmap(path, "w+", np.float32, (count, num_tokens))
    at = 0
    for logits in _logits(model, samples):
        stored[at : at + len(logits)] = log_probabilities(logits)
        at += len(logits)
    stored.flush()
    ends = end_tokens(model.generation_config.eos_token_id, trained.tokenizer)
    answers = [greedy(model, ids, ends) for ids in samples.prompts]
    return Reference(samples, path, answers, ends, num_tokens)


def compare_folder(folder: Path, reference: Reference) -> Compared:
    """How far a model folder, loaded in fp32, is from the reference."""
    model = load_base(folder, "float32").eval()
    known = np.load(reference.path, mmap_mode="r")
    total, at = Compared(), 0
    for row, logits in zip(reference.samples.rows, _logits(model, reference.samples), strict=True):
        total += compared(known[at : at + len(logits)], logits, np.array(row.ids[row.first + 1 :]))
        at += len(logits)
    return total


def end_tokens(stated: int | Sequence[int] | None, tokenizer: Any) -> list[int]:
    """The ids that end an answer: those of the generation configuration, and the tokenizer's."""
    found = [] if stated is None else [stated] if isinstance(stated, int) else list(stated)
    return sorted({*found, tokenizer.eos_token_id})


def _logits(model: Any, samples: Samples) -> Iterator[np.ndarray]:
    import torch

    for row in samples.rows:
        with torch.inference_mode():
            found = model(input_ids=torch.tensor([row.ids])).logits[0, row.first : -1]
        yield found.float().numpy()


def greedy(model: Any, ids: list[int], ends: list[int]) -> list[int]:
    """The likeliest tokens after `ids`, up to and with one of `ends`."""
    import torch

    with torch.inference_mode():
        found = model.generate(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=MAX_NEW_TOKENS, do_sample=False, eos_token_id=ends, pad_token_id=ends[0],
        )  # fmt: skip
    return [int(each) for each in found[0, len(ids) :]]
