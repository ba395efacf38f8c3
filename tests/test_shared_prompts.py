"""Reading a prompt once for all its answers: TRL's numbers, and TRL's way where it can't be."""

from __future__ import annotations

from pathlib import Path

import pytest
from fused import batch, results

from tunesmith.train.shared_prompts import lay_out, repeats, share_prefill, share_prompts

LONG = list(range(20, 50))
GROUPS = {
    "pairs": [(LONG, [5, 6, 7]), (LONG[:20], [9, 8]), (LONG, [7, 7]), (LONG[:20], [5, 6, 7, 8, 9])],
    "groups": [(LONG, [5, 6])] * 4 + [(LONG[3:], [8, 9, 10, 11]), (LONG[3:], [8]), (LONG[3:], [12, 13])],
    "an empty answer": [(LONG, [5, 6]), (LONG, [7]), (LONG, [])],
}


@pytest.fixture
def model(tiny_model: Path):
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    made = AutoModelForCausalLM.from_pretrained(tiny_model)
    add_fused_lm_head(made, outputs=("log_probs", "entropy", "is_top1"))
    return made


@pytest.mark.parametrize("left", [False, True], ids=["padded right", "padded left"])
@pytest.mark.parametrize("name", GROUPS)
def test_log_probabilities_entropies_and_gradients_are_those_of_one_row_an_answer(model, name, left):
    import torch

    given = batch(GROUPS[name], left=left)
    assert lay_out(*given) is not None
    expected = results(model, *given)
    said: list[str] = []
    share_prompts(model, said.append)
    sizes: list[int] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    found = results(model, *given)
    assert not said
    assert sizes[-1] < 0.9 * given[0].numel()
    for one, other in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    # Where no label is, neither way says anything of use.
    answered = given[2][:, 1:] != -100
    assert torch.equal(found[2] & answered, expected[2] & answered)
    for weight, gradient in expected[3].items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[3][weight], gradient, rtol=1e-4, atol=1e-5 * scale, msg=weight)


def test_an_answer_does_not_see_another(model):
    import torch

    share_prompts(model, print)
    rows = [(LONG, [5, 6, 7]), (LONG, [9, 8, 7])]
    other = [rows[0], (LONG, [30, 31, 32])]
    first, second = (results(model, *batch(each))[0] for each in (rows, other))
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=1e-6)
    assert not torch.allclose(first[1], second[1])


def test_rows_that_share_nothing_are_left_as_they_are():
    assert lay_out(*batch([(LONG, [5, 6]), (list(reversed(LONG)), [7, 8])])) is None


def test_a_model_that_looks_past_the_mask_is_found_out_and_trained_as_trl_does(model):
    import torch

    given = batch(GROUPS["pairs"])
    attention = model.model.layers[0].self_attn
    inner = attention.forward

    def blurred(hidden_states, **kwargs):
        return inner(hidden_states=hidden_states + hidden_states.mean(dim=1, keepdim=True), **kwargs)

    attention.forward = blurred
    expected = results(model, *given)[0]
    said: list[str] = []
    share_prompts(model, said.append)
    for _ in range(2):
        assert torch.equal(results(model, *given)[0], expected)
    assert len(said) == 1
    assert "can't share" in said[0]


def test_generated_answers_are_the_same_when_the_prompt_is_read_once(tiny_model: Path):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    ids, mask, _ = batch([(LONG, [])] * 3 + [(LONG[8:], [])] * 3, left=True)
    options = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 8, "pad_token_id": 0}
    greedy = model.generate(**options, do_sample=False)
    torch.manual_seed(4)
    sampled = model.generate(**options, do_sample=True)
    sizes: list[tuple[int, ...]] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    said: list[str] = []
    share_prefill(model, said.append)
    assert torch.equal(model.generate(**options, do_sample=False), greedy)
    assert sizes[:2] == [(2, 29), (6, 1)], "two prompts are read, and then a token of six answers at a time"
    torch.manual_seed(4)
    assert torch.equal(model.generate(**options, do_sample=True), sampled)
    assert not said


def test_groups_of_one_size_are_told_from_other_batches():
    import torch

    rows = torch.tensor([[1, 2], [3, 4], [5, 6]])
    assert repeats(rows.repeat_interleave(4, dim=0)) == 4
    assert repeats(rows) == 1
    assert repeats(rows[[0, 0, 1]]) == 1
    assert repeats(rows[[0, 0, 1, 2]]) == 1
