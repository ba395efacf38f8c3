"""What only all rows show of a method's data: better answers of another length, labels out of balance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.data.checks.texts import RowTexts
from tunesmith.data.findings import Finding
from tunesmith.data.layout import Layout

# From so many rows on a share says something.
ENOUGH = 20
# Our judgement: longer answers are often the better ones, but where seven in ten are, or all are half as long
# again, "the longer one" alone ranks most pairs right, and a policy can win by that.
LONGER_SHARE, LONGER_RATIO = 0.7, 1.5
# In fewer pairs chance makes such shares: of 12 fair coins three in four show heads once in 14 times, all of
# 8 once in 256. So there nearly all have to agree; fewer than 8 say nothing.
FEW, FEW_SHARE = 8, 0.9
# Beyond a factor of two, in nearly all pairs, the two columns are more likely confused than biased.
SWAPPED_RATIO = 2.0
# TRL's KTO guide wants the weighted ratio of the labels between 1:1 and 4:3; a factor of two is beyond noise.
LABEL_RATIO = 2.0


@dataclass
class Balance:
    """Counts over pairs and labels; they add up over the parts of a data set."""

    num_pairs: int = 0
    num_longer: int = 0
    num_shorter: int = 0
    chosen_characters: int = 0
    rejected_characters: int = 0
    num_desirable: int = 0
    num_undesirable: int = 0

    def add(self, texts: RowTexts) -> None:
        """Count a batch."""
        if texts.chosen is not None and texts.rejected is not None:
            self.num_pairs += len(texts.chosen)
            self.num_longer += int((texts.chosen > texts.rejected).sum())
            self.num_shorter += int((texts.chosen < texts.rejected).sum())
            self.chosen_characters += int(texts.chosen.sum() or 0)
            self.rejected_characters += int(texts.rejected.sum() or 0)
        if texts.labels is not None:
            self.num_desirable += int(texts.labels.sum() or 0)
            self.num_undesirable += int((~texts.labels).sum() or 0)

    def merge(self, other: Balance) -> None:
        """Add another part's counts."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def findings(self, layout: Layout) -> Iterator[Finding]:
        """What the counts say of the whole set."""
        if layout.kind == "preference":
            yield from self._lengths()
        if layout.kind == "unpaired":
            yield from self._labels(layout.columns["label"])

    def _lengths(self) -> Iterator[Finding]:
        compared = self.num_longer + self.num_shorter
        if self.num_pairs < ENOUGH and compared < FEW:
            return
        longer = self.num_longer / max(1, compared)
        ratio = self.chosen_characters / max(1, self.rejected_characters)
        few = self.num_pairs < ENOUGH
        biased = longer >= FEW_SHARE if few else longer >= LONGER_SHARE or ratio >= LONGER_RATIO
        too_short = compared and 1 - longer >= FEW_SHARE and ratio <= 1 / SWAPPED_RATIO
        if biased or too_short:
            word, share = ("shorter", 1 - longer) if too_short else ("longer", longer)
            swapped = share >= FEW_SHARE and not 1 / SWAPPED_RATIO < ratio < SWAPPED_RATIO
            yield Finding(
                "D103",
                None,
                None,
                f"chosen is {word} than rejected in {share:.0%} of {self.num_pairs:,} pairs, "
                f"{ratio:.2f} times as long on average" + ("; are the columns swapped?" if swapped else ""),
            )

    def _labels(self, column: str) -> Iterator[Finding]:
        yes, no = self.num_desirable, self.num_undesirable
        if yes + no and not (yes and no):
            yield Finding("D105", None, column, f"is {'true' if yes else 'false'} in all {yes + no:,} rows")
        elif yes + no >= ENOUGH and not 1 / LABEL_RATIO <= yes / no <= LABEL_RATIO:
            weight = f"desirable_weight {no / yes:.2f}" if no > yes else f"undesirable_weight {yes / no:.2f}"
            yield Finding(
                "D104", None, column, f"is true in {yes:,} rows and false in {no:,}: {weight} evens it"
            )

    def as_dict(self) -> dict[str, Any]:
        """The counts that are there."""
        return {name: value for name, value in asdict(self).items() if value}
