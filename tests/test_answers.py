"""Answers in batches are the answers one by one."""

from pathlib import Path

import pytest
from tiny import chat_rows

from tunesmith.evaluate.answers import generate_answers

MAX_NEW_TOKENS = 12


@pytest.fixture(scope="module")
def speaker(tiny_model: Path):
    """The tiny model and its tokenizer; its weights are scaled up so that greedy choices are no near ties."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            if weight.dim() == 2:
                weight.mul_(10)
    return model, AutoTokenizer.from_pretrained(tiny_model)


def prompts() -> list[list[dict[str, str]]]:
    # Long and short ones mixed, so that sorting by length changes the order and padding is needed.
    rows = [row["messages"][:-1] for row in chat_rows(9)]
    return sorted(rows, key=lambda messages: hash_of(messages))


def hash_of(messages: list[dict[str, str]]) -> int:
    return sum(map(ord, messages[-1]["content"])) % 7


def one_by_one(model, tokenizer, prompt) -> str:
    """The same answer by hand: argmax after argmax, without padding, cache or generate."""
    import torch

    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    new: list[int] = []
    with torch.inference_mode():
        while len(new) < MAX_NEW_TOKENS:
            logits = model(input_ids=torch.tensor([ids + new]), use_cache=False).logits
            new.append(int(logits[0, -1].argmax()))
            if new[-1] == tokenizer.eos_token_id:
                break
    return tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_batched_answers_equal_one_by_one_answers_in_the_order_of_the_prompts(speaker, batch_size):
    model, tokenizer = speaker
    expected = [one_by_one(model, tokenizer, prompt) for prompt in prompts()]
    assert len(set(expected)) > 1, "the test needs prompts that are answered differently"
    answers = generate_answers(
        model, tokenizer, prompts(), max_new_tokens=MAX_NEW_TOKENS, batch_size=batch_size
    )
    assert answers == expected


def test_an_answer_ends_at_the_end_of_turn_token(speaker):
    import torch

    model, tokenizer = speaker
    head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[tokenizer.eos_token_id] = 1.0
    kept, model.lm_head = model.lm_head, head
    try:
        answers = generate_answers(model, tokenizer, prompts(), max_new_tokens=MAX_NEW_TOKENS)
    finally:
        model.lm_head = kept
    assert answers == [""] * len(prompts())


def test_progress_counts_the_prompts_and_the_training_mode_is_put_back(speaker):
    model, tokenizer = speaker
    heard: list[int] = []
    model.train()
    generate_answers(model, tokenizer, prompts(), max_new_tokens=2, batch_size=4, on_progress=heard.append)
    assert heard == [4, 8, 9]
    assert model.training
    model.eval()
    generate_answers(model, tokenizer, prompts()[:1], max_new_tokens=2)
    assert not model.training
