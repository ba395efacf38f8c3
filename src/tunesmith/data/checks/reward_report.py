"""What a reward made of sample completions: the figures, and a line of them for a person."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# How the kinds of sample completions begin that say the right answer.
RIGHT = "the reference answer"


@dataclass(frozen=True)
class RewardReport:
    """What a reward gave to sample completions of real rows; `mean_by_completion` says it for each kind."""

    name: str
    num_rows: int
    num_completions: int
    mean: float | None
    minimum: float | None
    maximum: float | None
    num_none: int
    num_endless: int  # NaN and infinity; mean, minimum and maximum are of the others
    calls_per_s: float | None  # completions judged in a second; None where no batch of them was
    reference_column: str | None
    mean_by_completion: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The report as the `--json` document has it."""
        return asdict(self)

    def said(self) -> str:
        """The report in a line: mean and range, and what is odd about them."""
        if self.mean is None:
            return f"no number for any of {self.num_completions:,} sample answers"
        spread = f"{self.mean:.3g} on average, {self.minimum:.3g} to {self.maximum:.3g}"
        if self.minimum == self.maximum:
            spread = f"always {self.mean:.3g}"
        odd = f"; None for {self.num_none:,} of them" if self.num_none else ""
        odd += f"; no finite number for {self.num_endless:,} of them" if self.num_endless else ""
        return f"{spread}, over {self.num_completions:,} sample answers{odd}{self._surprise()}"

    def _surprise(self) -> str:
        """The wrong answer that is worth as much as the right one in its best form, where one is."""
        right = [mean for kind, mean in self.mean_by_completion.items() if kind.startswith(RIGHT)]
        wrong = {k: mean for k, mean in self.mean_by_completion.items() if not k.startswith(RIGHT)}
        if not right or not wrong or self.minimum == self.maximum:
            return ""
        kind = max(wrong, key=lambda each: wrong[each])
        if wrong[kind] < max(right):
            return ""
        return f"; {kind} gets {wrong[kind]:.3g}, {RIGHT} at best {max(right):.3g}"
