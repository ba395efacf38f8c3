"""The completion matches a pattern."""

from __future__ import annotations

import re
from typing import Any

from tunesmith.errors import ConfigError
from tunesmith.rewards.completions import Reward, text_of


def regex(*, pattern: str, full_match: bool = False) -> Reward:
    """A reward: 1 when `pattern` is found in the completion, or with `full_match` is the whole of it; else 0.

    Flags stand in the pattern, as Python's `re` reads them: `(?i)` for case, `(?s)` for a dot over lines.

    Raises:
        ConfigError: it is no pattern.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"{pattern!r} is no regular expression: {error}",
            where="reward regex, pattern",
            fix="in YAML, put the pattern in single quotes, where a backslash is a backslash",
        ) from None
    matches = compiled.fullmatch if full_match else compiled.search

    def reward(completions: list[Any], **kwargs: Any) -> list[float | None]:
        return [float(matches(text_of(completion)) is not None) for completion in completions]

    return reward
