"""The loss head that skips unlabelled positions: the same numbers as TRL's own, and no trace afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import chat_rows

from tunesmith.train.loss_head import labelled_positions_only


@pytest.fixture(scope="module")
def trainer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory):
    """A real SFTTrainer over token rows, most of whose labels are masked."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    texts = [row["messages"][-1]["content"] for row in chat_rows(6)]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    labels = [[-100] * (2 * len(row) // 3) + row[2 * len(row) // 3 :] for row in ids]
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        args=SFTConfig(
            output_dir=str(tmp_path_factory.mktemp("out")),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=6,
            report_to="none",
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_dict({"input_ids": ids, "labels": labels}),
        processing_class=tokenizer,
    )


def loss_and_gradients(trainer):
    trainer.model.zero_grad()
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.detach(), {name: w.grad.clone() for name, w in trainer.model.named_parameters()}


def num_scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of positions that reach the vocabulary projection, a number a call."""
    from trl.trainer import utils

    counts: list[int] = []
    real = utils._ChunkedLogProbFunction.apply

    class Counting:
        @staticmethod
        def apply(hidden, *rest):
            counts.append(hidden.shape[0])
            return real(hidden, *rest)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Counting)
    return counts


def test_loss_and_gradients_are_those_of_trl(trainer, monkeypatch):
    import torch

    counts = num_scored(monkeypatch)
    torch.manual_seed(1)
    loss, gradients = loss_and_gradients(trainer)
    torch.manual_seed(1)
    with labelled_positions_only("cpu"):
        lean_loss, lean_gradients = loss_and_gradients(trainer)
    assert counts[1] < counts[0] / 2, "the positions without a label should not be scored"
    torch.testing.assert_close(lean_loss, loss, rtol=1e-6, atol=0)
    for name, gradient in gradients.items():
        # Sums run in another order: equal to a few units in the last place of the largest entry.
        scale = gradient.abs().max().item()
        torch.testing.assert_close(lean_gradients[name], gradient, rtol=1e-5, atol=2e-6 * scale, msg=name)


def test_the_switch_is_put_back_also_after_an_exception():
    from trl.trainer import utils

    before = utils._use_triton
    with labelled_positions_only("cpu"):
        assert utils._use_triton is not before
    assert utils._use_triton is before
    with pytest.raises(ZeroDivisionError), labelled_positions_only("cpu"):
        raise ZeroDivisionError
    assert utils._use_triton is before


def test_other_devices_and_a_trl_without_the_switch_are_left_alone(monkeypatch):
    from trl.trainer import utils

    before = utils._use_triton
    with labelled_positions_only("cuda"):
        assert utils._use_triton is before
    monkeypatch.delattr(utils, "_use_triton")
    with labelled_positions_only("cpu"):
        assert not hasattr(utils, "_use_triton")
    assert not hasattr(utils, "_use_triton")
