"""Rows without padding: the same losses and gradients, and no document sees another."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from fused import batch, results
from method_data import options_for, write_method_data
from running import rows_of, tunesmith

from tunesmith.train import documents
from tunesmith.train.documents import best_fit, documents_of, read_documents, read_scored_documents, round_up
from tunesmith.train.shared_prompts import share_prompts

WORDS = list(range(20, 60))
ROWS = [(WORDS[:4], [5, 6, 7]), (WORDS, [9, 8]), (WORDS[:9], [7, 7, 30, 31, 12]), ([], [15, 16, 17, 18])]


@pytest.fixture(params=["blocks", "varlen"])
def attention(request: pytest.FixtureRequest) -> str:
    from tunesmith.train.attention import has_varlen

    if request.param == "varlen" and not has_varlen():
        pytest.skip("varlen attention needs a CUDA device from Ampere on")
    return str(request.param)


@pytest.fixture
def model(tiny_model: Path, attention: str):
    """The tiny model with TRL's fused head; in bf16 on the GPU where the attention needs that."""
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    on_gpu = attention == "varlen"
    made = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16 if on_gpu else torch.float32)
    made = made.to("cuda" if on_gpu else "cpu")
    add_fused_lm_head(made, outputs=("log_probs", "entropy", "is_top1"))
    return made


def on(model: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(each.to(model.device) for each in given)


def row_of(mask: Any, attention: str) -> int:
    """Tokens of the row: on a GPU one of few lengths."""
    return round_up(int(mask.sum())) if attention == "varlen" else int(mask.sum())


def tolerance(model: Any) -> float:
    import torch

    return 1e-5 if model.dtype == torch.float32 else 1e-2


def assert_near(found: Any, expected: Any, relative: float, what: str = "") -> None:
    off, size = (found - expected).float().norm().item(), expected.float().norm().item()
    assert off <= relative * max(size, 1e-3), f"{what}: {off:.3g} of {size:.3g}"


@pytest.mark.parametrize("left", [False, True], ids=["padded right", "padded left"])
def test_numbers_and_gradients_are_those_of_the_padded_batch(model, attention, left: bool):
    import torch

    # What stands first is predicted by nothing; padded on the left TRL predicts it from padding.
    given = on(model, batch(ROWS[:3] if left else ROWS, left=left))
    expected = results(model, *given)
    said: list[str] = []
    read_documents(model, attention, said.append)
    seen: list[Any] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("input_ids")), with_kwargs=True
    )
    found = results(model, *given)
    assert not said
    assert seen[-1].shape == (1, row_of(given[1], attention)), "a token of padding reaches the model"
    for one, other in zip(found[:2], expected[:2], strict=True):
        assert one.shape == other.shape
        assert_near(one, other, tolerance(model))
    answered = given[2][:, 1:] != -100
    if model.dtype == torch.float32:
        assert torch.equal(found[2] & answered, expected[2] & answered)
    for name, gradient in expected[3].items():
        assert_near(found[3][name], gradient, tolerance(model), name)


def test_a_document_sees_no_other_to_the_last_bit(model, attention):
    import torch

    read_documents(model, attention, print)
    changed = [(WORDS[5:9], [40, 41, 42]), *ROWS[1:]]
    first, second = (results(model, *on(model, batch(rows)))[0] for rows in (ROWS, changed))
    assert torch.equal(first[1:], second[1:])
    assert not torch.equal(first[0], second[0])


def test_a_document_is_read_as_it_is_alone(model, attention):
    read_documents(model, attention, print)
    together = results(model, *on(model, batch(ROWS)))[0]
    for index, row in enumerate(ROWS):
        alone = results(model, *on(model, batch([row, ([3], [4])])))[0][0]
        size = len(row[0]) + len(row[1]) - 1
        assert_near(together[index, :size], alone[:size], tolerance(model) / 10)


def test_a_model_that_mixes_documents_is_found_out_and_read_padded(model, attention):
    import torch

    given = on(model, batch(ROWS))
    layer = model.model.layers[0].self_attn
    inner = layer.forward

    def mixing(hidden_states: Any, **kwargs: Any) -> Any:
        attended, *rest = inner(hidden_states=hidden_states, **kwargs)
        return attended + hidden_states.mean(dim=1, keepdim=True), *rest

    layer.forward = mixing
    expected = results(model, *given)[0]
    before = model.config._attn_implementation
    said: list[str] = []
    read_documents(model, attention, said.append)
    for _ in range(2):
        found = results(model, *given)[0]
        # A GPU may choose another kernel for the same numbers.
        assert torch.equal(found, expected) or attention == "varlen"
        assert_near(found, expected, tolerance(model))
    assert len(said) == 1
    assert "padded" in said[0]
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("how", ["documents", "shared prompts"])
def test_rows_longer_than_a_sliding_window_keep_the_mask_of_the_model(how: str):
    """A mask that is given shows no window: such rows would see too much, when the first batch was short."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    torch.manual_seed(3)
    config = MistralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8,
    )  # fmt: skip
    model = MistralForCausalLM(config)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    short = batch([([1, 2], [3]), ([1, 2], [3, 5, 6]), ([1, 2], [4])])
    long = batch([(WORDS[:30], [3]), (WORDS[:30], [3, 5, 6]), (WORDS[:5], [4])])
    expected = results(model, *long)[0]
    if how == "documents":
        read_documents(model, "blocks", print)
    else:
        share_prompts(model, print)
    results(model, *short)
    torch.testing.assert_close(results(model, *long)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("num_tokens", [1, 63, 64, 65, 1000, 6583, 8192, 100_000])
def test_rows_are_filled_up_to_few_lengths_that_are_near(num_tokens: int):
    filled = round_up(num_tokens)
    assert num_tokens <= filled < num_tokens + max(64, num_tokens / 8)
    assert round_up(filled) == filled
    octave = {round_up(each) for each in range(4096, 8192)}
    assert len(octave) <= 9


def test_what_fills_a_row_up_is_a_document_of_its_own_that_nothing_is_learned_from():
    given = batch(ROWS)
    made = documents_of(*given, attention="varlen")
    num_tokens = int(given[1].sum())
    starts = made.apart["cu_seq_lens_q"].tolist()
    assert starts == [0, 7, 49, 63, 67, 128]
    assert num_tokens == 67
    assert (made.shift_labels[0, 66:] == -100).all()
    assert made.ends.tolist() == [6, 48, 62, 66]
    assert made.apart["max_length_q"] == 64
    assert made.input_ids.shape == (1, 128)
    put = made.put_back(made.input_ids.float())
    assert (put[given[1][:, :-1] == 0] == 0).all()
    assert (put == given[0][:, :-1] * given[1][:, :-1]).all()


@pytest.mark.parametrize(
    ("sizes", "rows"),
    [([7, 42, 14, 4], 1), ([300, 500, 200, 12, 400, 100], 3), ([600, 10, 20], 2), ([512] * 3, 3), ([1], 1)],
)
def test_documents_are_put_where_they_fit_best(sizes: list[int], rows: int):
    import torch

    starts, (num_rows, width) = best_fit(torch.tensor(sizes))
    assert num_rows == rows
    assert width <= max(512, *sizes)
    taken = sorted((int(start), int(start) + size) for start, size in zip(starts, sizes, strict=True))
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(taken)), "they overlap"
    assert all(start // width == (end - 1) // width for start, end in taken), "one goes over two rows"


def test_under_a_mask_a_large_batch_becomes_rows_of_documents_with_the_same_numbers(tiny_model: Path):
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    rows = [(WORDS * times, [5 + times, 6]) for times in (1, 7, 2, 9, 1, 3, 1, 12, 4, 1)]
    given = batch(rows)
    expected = results(model, *given)
    read_documents(model, "blocks", pytest.fail)
    seen: list[Any] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    found = results(model, *given)
    assert seen[-1][0] > 1
    assert int(given[1].sum()) <= seen[-1].numel() < 0.6 * given[1].numel()
    for one, other in zip(found[:2], expected[:2], strict=True):
        assert_near(one, other, 1e-5)
    for name, gradient in expected[3].items():
        assert_near(found[3][name], gradient, 1e-5, name)


def test_rows_without_much_padding_stay_as_they_are_under_a_mask():
    rows = [(WORDS[:8], [1, 2]), (WORDS[4:12], [1, 2])]
    assert documents_of(*batch(rows), attention="blocks") is None


def test_a_reward_model_scores_documents_as_it_does_padded_rows(tiny_model: Path, attention):
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    on_gpu = attention == "varlen"
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_model, num_labels=1, dtype=torch.bfloat16 if on_gpu else torch.float32
    ).to("cuda" if on_gpu else "cpu")
    ids, mask, _ = on(model, batch(ROWS))
    expected = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    said: list[str] = []
    read_scored_documents(model, attention, said.append)
    seen: list[Any] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("input_ids")), with_kwargs=True
    )
    found = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    assert not said
    assert seen[-1].shape == (1, row_of(mask, attention))
    assert_near(found, expected, tolerance(model))


# --- whole trainings -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    write_method_data(folder, 24)
    return folder


@pytest.fixture
def laid_out(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of every batch that was read without padding."""
    tokens: list[int] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        found = documents_of(*args, **kwargs)
        tokens.extend([] if found is None else [found.input_ids.numel()])
        return found

    monkeypatch.setattr(documents, "documents_of", watched)
    return tokens


@pytest.mark.parametrize("method", ["sft", "kto", "reward"])
def test_a_training_without_padding_ends_where_the_padded_one_ends(
    place: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, laid_out: list[int], method: str
):
    monkeypatch.chdir(place)
    losses = []
    for name, extra in (
        ("documents", ()),
        ("padded", ("--set", "trl.model_init_kwargs={attn_implementation: sdpa}")),
    ):
        laid_out.clear()
        ran = tunesmith(
            "train", *options_for(method, tiny_model), "--run-dir", f"runs/{method}-{name}", *extra
        )
        assert ran.code == 0, ran.err
        assert bool(laid_out) == (name == "documents")
        losses.append(rows_of(Path(f"runs/{method}-{name}")))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_eight_rows_at_once_train_as_one_at_a_time(
    place: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, laid_out: list[int]
):
    monkeypatch.chdir(place)
    losses = []
    for size in (8, 1):
        ran = tunesmith(
            "train", *options_for("sft", tiny_model), "--global-batch-size", "8",
            "--run-dir", f"runs/of-{size}", "--set", f"trl.per_device_train_batch_size={size}",
        )  # fmt: skip
        assert ran.code == 0, ran.err
        losses.append(rows_of(Path(f"runs/of-{size}")))
    assert laid_out
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
