"""Small real parts for tests: a model of some thousand weights, chats to train it on, files of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SEED = 20261122
SPECIAL_TOKENS = ["<|pad|>", "<|im_start|>", "<|im_end|>"]

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_THINGS = ["river", "bridge", "clock", "garden", "engine", "letter", "window", "mountain", "piano", "harbour"]
_PLACES = ["Oslo", "Lima", "Kyoto", "Nairobi", "Quebec", "Bergen", "Porto"]
_TASKS = ["Describe the {thing} of {place}.", "Who built the {thing} in {place}?", "How old is the {thing}?"]
_ANSWERS = [
    "The {thing} of {place} is known for its {n} steps.",
    "In {place} nobody remembers; the {thing} was there {n} years ago.",
    "It is {n} years old, and {place} is proud of its {thing}.",
]


def write_tiny_model(folder: Path, *, chat_template: bool = True) -> Path:
    """Return `folder`, holding a two-layer Llama with seeded random weights and a BPE tokenizer that fits it.

    Both load offline through `AutoModelForCausalLM` and `AutoTokenizer`. The tokenizer speaks ChatML, ends a
    turn with `<|im_end|>` (its eos) and pads with `<|pad|>`; `chat_template=False` leaves the template out.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _train_tokenizer(chat_template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _train_tokenizer(chat_template: bool) -> PreTrainedTokenizerFast:
    # Byte-level BPE can encode any text, so a test may use words that the small corpus never saw. Were the
    # model a qwen2, AutoTokenizer would put a Qwen2Tokenizer in this one's place and encode nothing.
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((m["content"] for row in chat_rows(200) for m in row["messages"]), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML_TEMPLATE if chat_template else None,
        model_max_length=512,
    )


def chat_rows(n: int) -> list[dict]:
    """Return `n` conversations `{"messages": [...]}`: one or two turns, some after a system message."""
    rows = []
    for i in range(n):
        words = {"thing": _THINGS[i % len(_THINGS)], "place": _PLACES[i % len(_PLACES)], "n": 3 + 7 * i % 400}
        messages = [{"role": "system", "content": "You answer in one sentence."}] if i % 4 == 0 else []
        for turn in range(1 + i % 2):
            question, answer = _TASKS[(i + turn) % len(_TASKS)], _ANSWERS[(i + turn) % len(_ANSWERS)]
            messages.append({"role": "user", "content": question.format(**words)})
            spoken = " ".join([answer.format(**words)] * (1 + i % 3))
            messages.append({"role": "assistant", "content": spoken})
        rows.append({"messages": messages})
    return rows


def write_jsonl(path: Path, rows: Iterable[dict]) -> Path:
    """Return `path` after writing one JSON object a line to it."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
