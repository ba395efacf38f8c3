"""Well-known chat templates, put in when a base model brings none or the user names one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.data.template_trial import try_templates
from tunesmith.errors import DataError

# ChatML as OpenAI published it and Qwen, SmolLM and many others use it.
CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{ message['content'] + '<|im_end|>' }}{% endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# Zephyr's template (HuggingFaceH4/zephyr-7b-beta): plain-text markers and the model's own end-of-text token,
# so it needs no new token and fits every tokenizer.
ZEPHYR = """\
{%- for message in messages %}
{{- '<|' + message['role'] + '|>\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{ message['content'] + eos_token }}{% endgeneration %}
{%- else %}{{ message['content'] + eos_token }}{% endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

NAMED = {"chatml": CHATML, "zephyr": ZEPHYR}
_CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")


def put_in_chat_template(tokenizer: Any, wanted: str | None) -> str | None:
    """Give `tokenizer` the template `wanted`, or a well-known one when it has none.

    Returns a sentence that says what was put in and why, or None when the tokenizer's own template stays.

    Raises:
        DataError: `wanted` is neither a known name nor a readable .jinja file, or needs missing tokens.
        ModelError: a template that isn't ours runs on, fills the memory, or reaches for what it may not have.
    """
    vocabulary = tokenizer.get_vocab()
    has_chatml = all(token in vocabulary for token in _CHATML_TOKENS)
    if wanted is None:
        if tokenizer.chat_template:
            try_templates(tokenizer, str(tokenizer.name_or_path or "the tokenizer"))
            return None
        name = "chatml" if has_chatml else "zephyr"
        reason = "the tokenizer has its tokens" if has_chatml else "it needs no new tokens"
        _use(tokenizer, name)
        return f"the model brings no chat template: put in {name} ({reason})"
    if wanted in NAMED:
        if wanted == "chatml" and not has_chatml:
            raise DataError(
                "chat_template chatml needs the tokens <|im_start|> and <|im_end|>, and this one lacks them",
                where="chat_template",
                fix="use --chat-template zephyr, which needs no new tokens",
            )
        _use(tokenizer, wanted)
        return f"chat template {wanted} put in, as asked"
    path = Path(wanted)
    try:
        tokenizer.chat_template = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, ValueError) as error:
        problem = "isn't UTF-8 text" if isinstance(error, UnicodeDecodeError) else "isn't a file either"
        raise DataError(
            f"chat_template {wanted!r} is neither {' nor '.join(NAMED)}, and {problem}",
            where="chat_template",
            fix=f"use {' or '.join(NAMED)}, or check the path to the .jinja file",
        ) from None
    except OSError as error:
        raise DataError(
            f"chat_template {wanted!r} can't be read: {error.strerror}", where="chat_template"
        ) from None
    try_templates(tokenizer, str(path))
    return f"chat template of {path} put in, as asked"


def _use(tokenizer: Any, name: str) -> None:
    tokenizer.chat_template = NAMED[name]
    if name == "chatml":
        # The turn's end must also be where generation stops.
        tokenizer.eos_token = "<|im_end|>"
