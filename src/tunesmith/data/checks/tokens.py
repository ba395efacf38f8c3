"""What a model's chat template and tokenizer make of rows: length, loss, ends, what max_length costs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tunesmith.data.batches import Batch
from tunesmith.data.checks.rows import BadRow, Row
from tunesmith.data.convert import convert
from tunesmith.data.findings import Finding
from tunesmith.data.layout import Layout
from tunesmith.data.statistics import Lengths, ranks
from tunesmith.data.tokens import IGNORED_LABEL, Encoded, Encoder, Rendered, last_learned
from tunesmith.errors import ModelError

# FAULTS.md, F10: beyond this share of rows the loss of answers stops a run that doesn't allow it.
LOST_SHARE = 0.01
# Rows that are rendered while the slice before is tokenised.
SLICE_ROWS = 1000


@dataclass
class TokenCounts:
    """Counts over the texts that were tokenised (a pair has two); they add up over parts of the data."""

    max_length: int
    lengths: Lengths = field(default_factory=Lengths)
    # Of each text the percentage of its tokens that carry loss.
    shares: Lengths = field(default_factory=Lengths)
    num_rows: int = 0
    num_learned: int = 0
    num_cut: int = 0
    num_lost_answers: int = 0
    num_dropped: int = 0
    num_answer_tokens_lost: int = 0
    num_ended: int = 0
    largest_id: int = -1
    sampled: bool = False

    def merge(self, other: TokenCounts) -> None:
        """Add another part's counts."""
        self.lengths.merge(other.lengths)
        self.shares.merge(other.shares)
        self.largest_id = max(self.largest_id, other.largest_id)
        self.sampled |= other.sampled
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_meta(self) -> dict[str, Any]:
        """All but the lengths and shares, for a shard's file."""
        return {name: value for name, value in asdict(self).items() if name not in ("lengths", "shares")}

    @classmethod
    def from_meta(cls, meta: dict[str, Any], lengths: Lengths, shares: Lengths) -> TokenCounts:
        """The counts that a shard's file keeps."""
        return cls(**meta, lengths=lengths, shares=shares)

    def as_dict(self, model: str) -> dict[str, Any]:
        """The `tokens` part of the report."""
        total = self.lengths.total
        keep = {str(each): self.lengths.percentile(each) for each in (95, 99, 100)}
        return {
            "model": model, "num_rows_read": self.num_rows, "sampled": self.sampled, "total": total,
            **self.lengths.as_dict(), "num_loss_tokens": self.num_learned,
            "loss_share": round(self.num_learned / total, 4) if total else 0.0,
            "loss_share_of_rows": {f"p{each}": self.shares.percentile(each) / 100 for each in (5, 50, 95)},
            "max_length": self.max_length,
            "num_cut": self.num_cut, "num_dropped": self.num_dropped,
            "num_answer_tokens_lost": self.num_answer_tokens_lost, "max_length_to_keep": keep,
        }  # fmt: skip


_SUMS = (
    "num_rows", "num_learned", "num_cut", "num_lost_answers", "num_dropped", "num_answer_tokens_lost",
    "num_ended",
)  # fmt: skip


class _Text(NamedTuple):
    """A text of a row (of a pair with its side): rendered, or the reason why not."""

    number: int
    side: str | None
    rendered: Rendered | None
    fault: Finding | None


class TokenChecker:
    """Renders and tokenises rows, those of a seeded sample when `share` is below 1."""

    def __init__(
        self, encoder: Encoder, layout: Layout, max_length: int, *, share: float = 1.0, seed: int = 42
    ) -> None:
        self.max_length = max_length
        self._encoder = encoder
        self._layout = layout
        self._share = share
        self._seed = seed
        self._last_cut = self._last_lost = -1
        self._chosen: list[int] = []
        self._tried = False

    def check(self, batch: Batch, bad: AbstractSet[int], counts: TokenCounts) -> Iterator[Finding]:
        """Findings of a batch; rows in `bad` have faults that explain whatever would be said here."""
        chosen = [index for index in self._sample(batch) if index not in bad]
        counts.sampled |= self._share < 1
        canonical = [
            (batch.first_row + index, convert(row, self._layout))
            for index, row in zip(chosen, batch.rows(chosen), strict=True)
            if not isinstance(row, BadRow)
        ]
        yield from (finding for _, found, _ in self.encode(canonical, counts) for finding in found)

    def encode(
        self, rows: Sequence[tuple[int, Row]], counts: TokenCounts
    ) -> Iterator[tuple[int, list[Finding], Encoded | None]]:
        """Number, findings and ids with labels of every text, in order; None where it can't be rendered."""
        if not self._tried and rows:
            self._encoder.try_on([row for _, row in rows])
            self._tried = True
        with ThreadPoolExecutor(1) as pool:
            waiting: tuple[list[_Text], Future[list[Encoded]]] | None = None
            for start in range(0, len(rows), SLICE_ROWS):
                texts = [
                    text for row in rows[start : start + SLICE_ROWS] for text in self._render(*row, counts)
                ]
                # The tokenizer works on one slice, outside Python's lock, while the next is rendered.
                coming = pool.submit(self._encoder.encode, [each.rendered for each in texts if each.rendered])
                if waiting:
                    yield from self._judged(*waiting, counts)
                waiting = texts, coming
            if waiting:
                yield from self._judged(*waiting, counts)

    def _render(self, number: int, row: Row, counts: TokenCounts) -> list[_Text]:
        try:
            texts = self._encoder.render(row)
        except ModelError:  # it is refused, for this row and all that would come
            raise
        except Exception as error:  # a chat template is a program and may raise anything (test_tokens.py)
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            message = f"can't be rendered by the chat template: {said[:200]}"
            return [_Text(number, None, None, Finding("D201", number, None, message))]
        counts.num_rows += 1
        sides = ("chosen", "rejected") if len(texts) == 2 else (None,)
        return [_Text(number, side, each, None) for side, each in zip(sides, texts, strict=True)]

    def _judged(
        self, texts: list[_Text], coming: Future[list[Encoded]], counts: TokenCounts
    ) -> Iterator[tuple[int, list[Finding], Encoded | None]]:
        encoded_texts = coming.result()
        counts.lengths.add(np.array([len(each.ids) for each in encoded_texts], dtype=np.int64))
        shares = [100 * each.num_learned // max(1, len(each.ids)) for each in encoded_texts]
        counts.shares.add(np.array(shares, dtype=np.int64))
        made = iter(encoded_texts)
        for number, side, rendered, fault in texts:
            if rendered is None:
                yield number, [fault] if fault else [], None
                continue
            encoded = next(made)
            found = list(self._judge(number, side, encoded, counts))
            if side == "chosen":
                self._chosen = encoded.ids
            elif side == "rejected" and self._same_once_cut(encoded.ids):
                said = f"chosen and rejected differ only after the {self.max_length:,} tokens that are kept"
                found.append(Finding("D211", number, None, said))
            yield number, found, encoded

    def _same_once_cut(self, rejected: list[int]) -> bool:
        limit = self.max_length
        return self._chosen[:limit] == rejected[:limit] and self._chosen != rejected

    def _judge(
        self, number: int, side: str | None, encoded: Encoded, counts: TokenCounts
    ) -> Iterator[Finding]:
        ids, labels = encoded
        limit, learned = self.max_length, encoded.num_learned
        counts.num_learned += learned
        if ids:
            counts.largest_id = max(counts.largest_id, max(ids))
        bos = self._encoder.tokenizer.bos_token_id
        if bos is not None and len(ids) > 1 and ids[0] == ids[1] == bos:
            yield Finding("D202", number, None, f"begins with {self._encoder.tokenizer.bos_token} twice")
        if not learned and self._layout.kind != "prompts":
            yield Finding("D204", number, None, "has no token to learn: nothing of its answers is rendered")
        counts.num_ended += self._ends(labels)
        if len(ids) <= limit:
            return
        lost = sum(label != IGNORED_LABEL for label in labels[limit:])
        counts.num_answer_tokens_lost += lost
        again = number == self._last_cut  # the other answer of a pair
        self._last_cut = number
        counts.num_cut += not again
        is_answer = lost > 0 and "text" not in self._layout.columns
        counts.num_lost_answers += is_answer and number != self._last_lost
        self._last_lost = number if is_answer else self._last_lost
        if learned and lost == learned:
            counts.num_dropped += 1
            yield Finding(
                "D206", number, side, f"has {len(ids):,} tokens, and all {lost:,} to learn are cut away"
            )
        else:
            of_it = f", {lost:,} of them to learn" if lost else ""
            yield Finding(
                "D205", number, side, f"has {len(ids):,} tokens: {len(ids) - limit:,} are cut{of_it}"
            )

    def _ends(self, labels: Sequence[int]) -> bool:
        marks = self._encoder.marks
        if IGNORED_LABEL not in labels:  # every token is learned: templates write a newline after the end
            return any(label in marks for label in labels[-3:])
        return last_learned(labels) in marks

    def _sample(self, batch: Batch) -> list[int]:
        if self._share >= 1:
            return list(range(batch.num_rows))
        rows = np.arange(batch.first_row, batch.first_row + batch.num_rows, dtype=np.uint64)
        limit = np.uint64(int(self._share * (2**64 - 1)))
        found: list[int] = np.flatnonzero(ranks(rows + np.uint64(self._seed)) <= limit).tolist()
        return found


def set_findings(
    counts: TokenCounts, layout: Layout, tokenizer: Any, vocab_size: int | None
) -> Iterator[Finding]:
    """What the counts say of the whole set and of how model and tokenizer fit it."""
    learns = layout.kind != "prompts" and counts.num_rows > 0
    if learns and not counts.num_ended and counts.num_learned:
        yield Finding("D203", None, None, f"0 of {counts.num_rows:,} rows train a token that ends the answer")
    share = counts.num_lost_answers / max(1, counts.num_rows)
    if share > LOST_SHARE:
        yield Finding(
            "D207",
            None,
            None,
            f"max_length {counts.max_length:,} cuts the answers of {counts.num_lost_answers:,} of "
            f"{counts.num_rows:,} rows ({share:.1%})"
            + (f", {counts.num_dropped:,} of them whole" if counts.num_dropped else "")
            + f"; {counts.lengths.percentile(99):,} would keep 99 % of the rows whole",
        )
    plain = layout.kind == "conversation" and not is_chat(layout)
    marked = re.search(r"\{%-?\s*generation\b", str(tokenizer.chat_template))
    if layout.kind == "conversation" and not plain and not marked:
        yield Finding("D208", None, None, "the chat template marks no answers: they are found by rendering")
    if plain and tokenizer.chat_template and "text" not in layout.columns:
        yield Finding("D210", None, None, "rows are plain text: the model's chat template is not trained")
    if vocab_size is not None and counts.largest_id >= vocab_size:
        yield Finding(
            "D209",
            None,
            None,
            f"the tokenizer makes the id {counts.largest_id:,}, and the model knows {vocab_size:,} tokens",
        )


def is_chat(layout: Layout) -> bool:
    """True where rows become conversations, so that the chat template renders them."""
    return any(slot in layout.columns for slot in ("messages", "user"))
