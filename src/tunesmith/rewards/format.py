"""The completion thinks and answers in tags."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field

from tunesmith.rewards.completions import Reward, text_of

_Tag = Annotated[str, Field(pattern=r"^[A-Za-z][\w-]*$")]


def format_(
    *, tags: Annotated[tuple[_Tag, ...], Field(min_length=1)] = ("think", "answer"), opened: bool = False
) -> Reward:
    """A reward: 1 when the completion is `<think>...</think><answer>...</answer>` and nothing else, else 0.

    Each tag once, in this order, white space between them; the last one holds more than white space. `opened`
    is for a chat template that writes the first tag itself, so that completions begin behind it.
    """
    parts = [rf"\s*<{tag}>(?P<part{number}>.*?)</{tag}>\s*" for number, tag in enumerate(tags)]
    whole = re.compile("".join(parts), re.DOTALL)
    last = f"part{len(tags) - 1}"

    def good(text: str) -> bool:
        text = f"<{tags[0]}>{text}" if opened else text
        if any(text.count(f"<{tag}>") != 1 or text.count(f"</{tag}>") != 1 for tag in tags):
            return False
        found = whole.fullmatch(text)
        return found is not None and bool(found[last].strip())

    def reward(completions: list[Any], **kwargs: Any) -> list[float | None]:
        return [float(good(text_of(completion))) for completion in completions]

    return reward
