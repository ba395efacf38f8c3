"""Batches that come to a GPU beside its work."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tunesmith.train.batches import bring_aside, places_of


class Trainer:
    """As transformers' trainer asks for the batches of a step."""

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        return [batch for _ in range(num_batches) if (batch := next(epoch_iterator, None)) is not None], None


@pytest.fixture
def trainer() -> Trainer:
    if not torch.cuda.is_available():
        pytest.skip("a stream beside another needs a CUDA device")
    made = Trainer()
    bring_aside(made)
    return made


def batches(*masks: list[list[int]]) -> Any:
    for mask in masks:
        yield {"attention_mask": torch.tensor(mask).pin_memory().to("cuda"), "names": ["a", "b"]}


def test_places_are_those_that_a_mask_shows():
    assert places_of(torch.tensor([[1, 1, 0], [0, 1, 1]])).tolist() == [0, 1, 4, 5]


def test_every_batch_comes_in_its_turn_with_its_places(trainer):
    coming = batches([[1, 0]], [[1, 1]], [[0, 1]])
    first, _ = trainer.get_batch_samples(coming, 2, "cuda")
    rest, _ = trainer.get_batch_samples(coming, 2, "cuda")
    assert [each["attention_mask"].tolist() for each in (*first, *rest)] == [[[1, 0]], [[1, 1]], [[0, 1]]]
    assert [places_of(each["attention_mask"]).tolist() for each in (*first, *rest)] == [[0], [0, 1], [1]]
    assert first[0]["names"] == ["a", "b"]


def test_rows_that_are_no_tensors_come_as_they_are(trainer):
    rows = iter([[{"prompt": "a"}], SimpleNamespace(prompt="b")])
    found, _ = trainer.get_batch_samples(rows, 3, "cuda")
    assert found[0] == [{"prompt": "a"}]
    assert found[1].prompt == "b"


def test_a_busy_gpu_is_not_waited_for(trainer):
    trainer.get_batch_samples(batches([[1, 0]]), 1, "cuda")
    torch.cuda._sleep(2_000_000_000)
    done = torch.cuda.Event()
    done.record()
    found, _ = trainer.get_batch_samples(batches([[1, 1, 0]]), 1, "cuda")
    num_tokens = len(places_of(found[0]["attention_mask"]))
    assert not done.query()
    assert num_tokens == 2
