"""The chat template inside a GGUF file, rendered by llama.cpp's own engine and compared with the tokenizer's.

That engine isn't behind llama.cpp's C interface: PyPI's xllamacpp (MIT) brings llama.cpp's server, which runs
in a process of its own for as long as it is asked.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.export.verify import Verified

_CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "Two plus two?"}],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello! How can I help?"},
        {"role": "user", "content": 'Name a colour.\nOnly one <b>&</b> "bright".'},
    ],
)


def check_template(verified: Verified, path: Path, reply: dict[str, Any], tokenizer: Any, stage: str) -> None:
    """Compare the template that the file holds, its rendering, and the ids that come of it."""
    own = tokenizer.chat_template
    stored = reply["chat_template"]
    if own is None:
        verified.expect(not stored, f"{stage}: the file has a chat template, and the model has none")
        return
    verified.checks["chat_template_equal"] = stored == own
    verified.expect(stored == own, f"{stage}: the file's chat template isn't the tokenizer's")
    if importlib.util.find_spec("xllamacpp") is None:
        verified.checks["chats_rendered_alike"] = "not tried: pip install 'tunesmith[gguf]'"
        return
    chats = [each for each in _CHATS if _rendered(tokenizer, each) is not None]
    found = _ask_server(path, chats)
    if isinstance(found, str):
        verified.expect(False, f"{stage}: llama.cpp's server can't render the chat template: {found}")
        return
    expected = [_rendered(tokenizer, each) for each in chats]
    alike = sum(
        _bare(text, tokenizer) == _bare(own_text, tokenizer)
        for text, own_text in zip(found["texts"], expected, strict=True)
    )
    verified.checks["chats_rendered_alike"] = f"{alike}/{len(chats)}"
    verified.expect(
        alike == len(chats),
        f"{stage}: llama.cpp renders {len(chats) - alike} of {len(chats)} chats otherwise than the tokenizer",
    )
    own_ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in expected]
    same = sum(ids == own for ids, own in zip(found["ids"], own_ids, strict=True))
    verified.expect(
        same == len(chats),
        f"{stage}: {len(chats) - same} of {len(chats)} chats get other ids (a second BOS token?)",
    )


def _rendered(tokenizer: Any, chat: list[dict[str, str]]) -> str | None:
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    except Exception:  # templates refuse roles each in its own way (test_export_gguf.py)
        return None


def _bare(text: str, tokenizer: Any) -> str:
    """llama.cpp leaves the BOS token to its tokeniser."""
    return text.removeprefix(tokenizer.bos_token or "")


def _ask_server(path: Path, chats: list[list[dict[str, str]]]) -> dict[str, Any] | str:
    """Texts and ids of chats as llama.cpp's server makes them; a sentence where it doesn't."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tunesmith.export.server_child"],
        input=json.dumps({"model": str(path), "chats": chats}),
        capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"answer"')]
    if done.returncode or not lines:
        return (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:200]
    return dict(json.loads(lines[-1])["answer"])
