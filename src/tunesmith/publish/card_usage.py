"""How a published model is run, as lines that can be copied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tunesmith.publish.card_facts import Facts
from tunesmith.publish.markdown import code, fenced, one_line, plain

_CHAT = (
    'messages = [{"role": "user", "content": "Your request"}]',
    "inputs = tokenizer.apply_chat_template(",
    '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
    ").to(model.device)",
)
_TEXT = ('inputs = tokenizer("The beginning of a text", return_tensors="pt").to(model.device)',)
_ANSWER = (
    "output = model.generate(**inputs, max_new_tokens=256)",
    'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
)
_SCORE = (
    'messages = [{"role": "user", "content": "A question"}, {"role": "assistant", "content": "An answer"}]',
    'inputs = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")',
    "inputs = inputs.to(model.device)",
    "print(model(**inputs).logits[0, 0].item())  # the higher, the better",
)


def how_to_run(facts: Facts) -> str:
    """The section: with transformers, and where there are files for it llama.cpp, Ollama and vLLM."""
    return "\n\n".join(["## How to run it", *_blocks(facts)])


def needs_own_base(facts: Facts) -> bool:
    """Whether it is an adapter for a base that nobody can fetch by a name in the card."""
    return facts.has_adapter and (facts.base is None or not facts.base.hub_id or bool(facts.base.run))


def runnable_ggufs(facts: Facts) -> list[dict[str, Any]]:
    """The GGUF files that were exported and not found wrong, the smallest first."""
    good = [
        each
        for each in facts.exported
        if each.get("format") == "gguf" and each.get("quantization") and each.get("verified") is not False
    ]
    return sorted(good, key=lambda each: each.get("size_bytes") or 0)


def _blocks(facts: Facts) -> Iterator[str]:
    if ggufs := runnable_ggufs(facts):
        yield "With llama.cpp or Ollama (of a private repository after a login):"
        tagged = f"{facts.repo_id}:{one_line(ggufs[0]['quantization'])}"
        yield fenced("sh", [f"llama-cli -hf {tagged}", f"ollama run hf.co/{tagged}"])
    if needs_own_base(facts):
        yield _about_base(facts)
    yield "With transformers and peft:" if facts.has_adapter else "With transformers:"
    yield fenced("python", _python(facts))
    if facts.is_reward_model:
        return
    if not facts.has_adapter:
        yield "With vLLM:"
        yield fenced("sh", [f"vllm serve {facts.repo_id}"])
    elif any(each.get("format") == "merged" and each.get("verified") is not False for each in facts.exported):
        name = facts.repo_id.rpartition("/")[2]
        yield "The folder `merged` is the whole model, for vLLM:"
        fetch = f'hf download {facts.repo_id} --include "merged/*" --local-dir {name}'
        yield fenced("sh", [fetch, f"vllm serve {name}/merged"])


def _about_base(facts: Facts) -> str:
    """Why there is no name to fetch the base by."""
    base = facts.base
    if base is None:
        return "The adapter's base model isn't named in the record of the run: `BASE` stands for it."
    if base.run:
        return (
            f"The adapter belongs to the model of an earlier run, {code(base.run)}, which began from "
            f"{code(base.name)}. That model isn't published here, and on {code(base.name)} itself the "
            "adapter answers wrongly. `BASE` stands for the earlier run's model, whole."
        )
    return (
        f"The adapter belongs to {plain(base.name)}, which was a folder on the machine that trained it and "
        "no model of the Hub. `BASE` stands for your own copy."
    )


def _python(facts: Facts) -> list[str]:
    task = "SequenceClassification" if facts.is_reward_model else "CausalLM"
    options = ["num_labels=1"] if facts.is_reward_model else []
    options += ['dtype="auto"', 'device_map="auto"']
    options += ["trust_remote_code=True"] if facts.config.get("trust_remote_code") else []
    told = ", ".join(options)
    repo = f'"{facts.repo_id}"'
    if not facts.has_adapter:
        loading = [
            f"from transformers import AutoModelFor{task}, AutoTokenizer",
            "",
            f"model = AutoModelFor{task}.from_pretrained({repo}, {told})",
        ]
    elif needs_own_base(facts):
        loading = [
            "from peft import PeftModel",
            f"from transformers import AutoModelFor{task}, AutoTokenizer",
            "",
            f"base = AutoModelFor{task}.from_pretrained(BASE, {told})",
            f"model = PeftModel.from_pretrained(base, {repo})",
        ]
    else:
        loading = [
            f"from peft import AutoPeftModelFor{task}",
            "from transformers import AutoTokenizer",
            "",
            f"model = AutoPeftModelFor{task}.from_pretrained({repo}, {told})",
        ]
    asking = _SCORE if facts.is_reward_model else (*(_CHAT if facts.has_chat_template else _TEXT), *_ANSWER)
    packages = "torch transformers accelerate" + (" peft" if facts.has_adapter else "")
    return [
        f"# pip install {packages}",
        *loading,
        f"tokenizer = AutoTokenizer.from_pretrained({repo})",
        "",
        *asking,
    ]
