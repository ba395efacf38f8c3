"""Small random models that llama.cpp's converter knows, with a real tokenizer, and adapters for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

SIZES = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
# Those that a byte-level BPE serves; gemma comes with SentencePiece.
BPE_ARCHITECTURES = ("llama", "mistral", "qwen3", "olmo2", "granite", "starcoder2")


def write_model(
    architecture: str, tokenizer_from: Path, folder: Path, *, dtype: str = "float32", seed: int = 7
) -> Path:
    """A random model of an architecture by its transformers name, with the tokenizer of a folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    more = {"head_dim": 64} if architecture in ("qwen3", "qwen3_moe", "gemma") else {}
    if architecture == "qwen3_moe":
        more |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
    config = AutoConfig.for_model(
        architecture, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.15, tie_word_embeddings=architecture == "gemma", **SIZES, **more,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            if weight.dim() == 1:  # biases are zero and norms one, which hides a mistake
                weight.data += 0.1 * torch.randn_like(weight)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.model"):
        if (tokenizer_from / name).is_file():
            shutil.copy(tokenizer_from / name, folder)
    return folder


def write_adapter(base: Path, folder: Path, **settings: object) -> Path:
    """A LoRA adapter of random weights, strong enough to change what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        **{"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
    )
    wrapped = get_peft_model(model, config)
    with torch.random.fork_rng():
        torch.manual_seed(8)
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.data.normal_(std=0.05)
    wrapped.save_pretrained(folder)
    return folder


def write_sentencepiece(folder: Path) -> Path:
    """A SentencePiece tokenizer like Gemma's, trained here, with a chat template that begins with BOS."""
    import sentencepiece
    from tiny import chat_rows
    from transformers import GemmaTokenizer

    folder.mkdir(parents=True)
    texts = [message["content"] for row in chat_rows(300) for message in row["messages"]]
    (folder / "corpus.txt").write_text("\n".join(texts))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=700,
        byte_fallback=True, model_type="bpe", pad_id=0, eos_id=1, bos_id=2, unk_id=3,
        pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>",
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>"], add_dummy_prefix=False,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    tokenizer = GemmaTokenizer.from_pretrained(folder, vocab_file=str(folder / "tokenizer.model"))
    # As Gemma's own: only then do llama.cpp and transformers read them as one token each.
    turns = ["<start_of_turn>", "<end_of_turn>"]
    tokenizer.add_special_tokens({"extra_special_tokens": turns})
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
        "{{ message['content'] }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    stated = json.loads((folder / "tokenizer_config.json").read_text())
    stated.pop("vocab_file", None)  # a path of this machine
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    return folder
