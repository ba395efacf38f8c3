"""Which models can be written as GGUF: what llama.cpp's converter knows, read before anything is trained.

`gguf_support.json` is taken from the pinned converter by `python -m tunesmith.export.converter`, and a test
holds the two together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

SUPPORT_PATH = Path(__file__).with_suffix(".json")
# Their merges, or their lack of any, don't depend on how text is split before.
_SPLIT_AS_THEY_ARE = ("Unigram", "WordPiece", "WordLevel")


class Support(NamedTuple):
    """Architectures by their transformers names; a text, and the digests of its ids that are known."""

    architectures: frozenset[str]
    text: str
    digests: frozenset[str]


@cache
def supported() -> Support:
    """What the pinned converter knows."""
    stated = json.loads(SUPPORT_PATH.read_text("utf-8"))
    return Support(frozenset(stated["architectures"]), stated["text"], frozenset(stated["digests"]))


def why_no_gguf(architectures: Sequence[str] | None, tokenizer: Any = None) -> str | None:
    """Why a model can't be written as GGUF, from the architectures that its configuration names and from its
    tokenizer, where one is at hand; None when nothing stands in the way."""
    known = supported()
    if architectures and architectures[0] not in known.architectures:
        return f"llama.cpp's converter doesn't know the architecture {architectures[0]}"
    if tokenizer is None:
        return None
    kind = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if kind.get("byte_fallback") or kind.get("type") in _SPLIT_AS_THEY_ARE:
        return None
    found = hashlib.sha256(str(tokenizer.encode(known.text)).encode()).hexdigest()
    if found not in known.digests:
        return "llama.cpp doesn't know how its tokenizer splits text before it merges (its pre-tokenizer)"
    return None


def gguf_note(architectures: Sequence[str] | None, tokenizer: Any = None) -> str | None:
    """The same for a person who is about to train the model."""
    reason = why_no_gguf(architectures, tokenizer)
    return reason and f"no GGUF file can be made of what is trained (other formats can): {reason}"
