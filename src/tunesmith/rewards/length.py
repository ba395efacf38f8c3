"""The completion is as long as it should be."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from tunesmith.errors import ConfigError
from tunesmith.rewards.completions import Reward


def length(
    *,
    target: Annotated[int, Field(ge=1)] | None = None,
    max_tokens: Annotated[int, Field(ge=1)] | None = None,
    free_tokens: Annotated[int, Field(ge=0)] = 0,
) -> Reward:
    """A reward from 0 to 1 that falls in a straight line with the tokens of a completion.

    With `target`, 1 at that many tokens, and 0 at none and at twice as many. With `max_tokens`, 1 up to
    `free_tokens` and 0 from `max_tokens` on. Tokens are those of `completion_ids`.

    Raises:
        ConfigError: neither or both are given, or `free_tokens` leaves nothing.
    """
    if (target is None) == (max_tokens is None):
        said = "takes target or max_tokens, not both" if target else "needs target or max_tokens"
        raise ConfigError(f"length {said}", where="reward length", fix="write args: {max_tokens: 512}")
    if max_tokens is None and free_tokens:
        raise ConfigError(
            "free_tokens has no meaning without max_tokens",
            where="reward length",
            fix="leave free_tokens out",
        )
    if max_tokens is not None and free_tokens >= max_tokens:
        raise ConfigError(
            f"free_tokens {free_tokens} should be below max_tokens {max_tokens}",
            where="reward length",
            fix="lower free_tokens",
        )

    def score(num_tokens: int) -> float:
        if target is not None:
            return max(0.0, 1 - abs(num_tokens - target) / target)
        assert max_tokens is not None
        return min(1.0, max(0.0, (max_tokens - num_tokens) / (max_tokens - free_tokens)))

    def reward(completions: list[Any], completion_ids: list[Any], **kwargs: Any) -> list[float | None]:
        return [score(len(ids)) for ids in completion_ids]

    return reward
