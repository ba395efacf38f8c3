"""The answer is the reference, letter by letter, but for what the options let pass."""

from __future__ import annotations

import unicodedata
from typing import Any

from tunesmith.rewards.completions import Reward, answers_of, column_of, marked_answer, text_of

# Marks that end or quote a sentence. No others: "-5", "50%", "C#" and ".5" lose their meaning without.
_TRAILING = ".,;:!?…。，；：！？、"
_QUOTES = "\"'`“”‘’«»„‚"


def exact_answer(
    *,
    column: str | None = None,
    strip: bool = True,
    casefold: bool = True,
    trim_punctuation: bool = True,
    marked: bool = False,
) -> Reward:
    """A reward: 1 when the completion's last message equals the reference, else 0.

    `strip` lets white space at the ends pass and counts any run of it as one space, `casefold` lets case
    pass, `trim_punctuation` marks at the end of a sentence and quotes around it. `marked` compares only what
    stands in \\boxed{}, after #### or in <answer> tags. A list of references accepts each of them. None
    without a reference.
    """

    def plain(text: str) -> str:
        text = unicodedata.normalize("NFC", text)
        text = " ".join(text.split()) if strip else text
        if trim_punctuation:
            # A text of nothing but marks stays: it would equal an empty completion.
            text = text.strip().strip(_QUOTES).rstrip(_TRAILING).strip(_QUOTES).strip() or text
        return unicodedata.normalize("NFC", text.casefold()) if casefold else text

    def reward(completions: list[Any], **kwargs: Any) -> list[float | None]:
        rewards: list[float | None] = []
        references = column_of(kwargs, column, "exact_answer")
        for completion, value in zip(completions, references, strict=True):
            accepted = {plain(answer) for answer in answers_of(value)}
            text = text_of(completion)
            said = marked_answer(text) or "" if marked else text
            rewards.append(float(plain(said) in accepted) if accepted else None)
        return rewards

    return reward
