"""From canonical rows to `input_ids` and `labels`: the same whatever checks, shows or trains them.

Labels follow TRL: -100 where a token carries no loss. In `messages` the loss lies on what the template
renders for the assistant's turns, up to and including the end-of-turn token. The turns are found from the
template itself (see `turns`), so that templates without generation marks work too.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

from tunesmith.config.methods import Kind
from tunesmith.data.chat_templates import NAMED
from tunesmith.data.checks.rows import Row
from tunesmith.data.template_trial import render_chat, try_rows
from tunesmith.data.turns import Span, TurnFinder

IGNORED_LABEL = -100
_TRIED_ROWS = 8


@contextmanager
def all_cores() -> Iterator[None]:
    """Tokenise on all cores while inside; the variable is what the tokenizers library reads at every call."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        # Set, not removed: unset, the library warns about every process that is forked from now on.
        os.environ["TOKENIZERS_PARALLELISM"] = before or "false"


class Rendered(NamedTuple):
    """A row as text and the parts of it that carry loss; `spans` is None where every token does."""

    text: str
    spans: tuple[Span, ...] | None
    add_special_tokens: bool


class Encoded(NamedTuple):
    """Token ids and labels of equal length, not cut yet."""

    ids: list[int]
    labels: list[int]

    @property
    def num_learned(self) -> int:
        """How many tokens carry loss."""
        return len(self.labels) - self.labels.count(IGNORED_LABEL)


class Encoder:
    """Renders and encodes canonical rows (`convert`) of one kind."""

    def __init__(
        self,
        tokenizer: Any,
        kind: Kind,
        *,
        assistant_only_loss: bool = True,
        completion_only_loss: bool = True,
    ) -> None:
        self.tokenizer = tokenizer
        self._kind = kind
        self._assistant_only_loss = assistant_only_loss
        self._completion_only_loss = completion_only_loss
        # A tokenizer.json may carry the truncation and padding of whoever saved it.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()

    @cached_property
    def marks(self) -> frozenset[int]:
        """Ids of the tokens that may end a turn."""
        return marker_ids(self.tokenizer)

    def try_on(self, rows: Sequence[Row]) -> None:
        """Have a chat template that isn't ours rendered over the first of `rows` in a process of its own.

        Raises:
            ModelError: it is refused.
        """
        if self.tokenizer.chat_template in NAMED.values():
            return
        chats = [(_conversation(row), row.get("tools")) for row in rows[:_TRIED_ROWS]]
        try_rows(self.tokenizer, [(messages, tools) for messages, tools in chats if messages])

    def render(self, row: Row) -> list[Rendered]:
        """A row as the texts that are trained on: one, or chosen and rejected of a pair.

        Raises:
            ModelError: the chat template is refused: it takes too long, or too much memory.
            Exception: whatever else the chat template, a program, raises.
        """
        if self._kind == "preference":
            asked = {"prompt": row.get("prompt", "" if isinstance(row["chosen"], str) else [])}
            return [
                self._render_pair({**row, **asked, "completion": row[side]})
                for side in ("chosen", "rejected")
            ]
        if self._kind == "prompts":
            return [self._render_prompt(row)]
        if "text" in row:
            eos = self.tokenizer.eos_token
            return [Rendered(row["text"].removesuffix(eos) + eos, None, add_special_tokens=True)]
        if "messages" in row:
            return [self._render_turns(row["messages"], row, masked=self._assistant_only_loss)]
        return [self._render_pair(row)]

    def _render_pair(self, row: Row) -> Rendered:
        masked = self._completion_only_loss
        if isinstance(row["prompt"], list):
            messages, num_given = row["prompt"] + row["completion"], len(row["prompt"])
            return self._render_turns(messages, row, masked=masked, first_learned=num_given)
        eos = self.tokenizer.eos_token
        completion = row["completion"].removesuffix(eos) + eos
        text, start = row["prompt"] + completion, len(row["prompt"])
        spans = (Span(start, len(text), len(text) - len(eos)),) if masked else None
        return Rendered(text, spans, add_special_tokens=True)

    def _render_prompt(self, row: Row) -> Rendered:
        if isinstance(row["prompt"], str):
            return Rendered(row["prompt"], (), add_special_tokens=True)
        text = render_chat(self.tokenizer, row["prompt"], None, add_generation_prompt=True)
        return Rendered(text, (), add_special_tokens=False)

    def _render_turns(
        self, messages: list[Any], row: Row, *, masked: bool, first_learned: int = 0
    ) -> Rendered:
        finder = TurnFinder(self.tokenizer, messages, row.get("tools"))
        spans = finder.spans(first_learned) if masked else None
        return Rendered(finder.whole, spans, add_special_tokens=False)

    def encode(self, rendered: Sequence[Rendered]) -> list[Encoded]:
        """Ids and labels of rendered rows; a batch is tokenised on all cores."""
        encoded: list[Encoded | None] = [None] * len(rendered)
        for special in (False, True):
            places = [index for index, each in enumerate(rendered) if each.add_special_tokens is special]
            texts = [rendered[index].text for index in places]
            made = self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=special)
            for index, encoding in zip(places, made, strict=True):
                encoded[index] = self._labelled(rendered[index], encoding)
        return [each for each in encoded if each is not None]

    def offsets(self, rendered: Rendered) -> list[tuple[int, int]]:
        """For each token of a text the characters [start, end) that it stands for."""
        made = self.tokenizer.backend_tokenizer.encode(
            rendered.text, add_special_tokens=rendered.add_special_tokens
        )
        found: list[tuple[int, int]] = made.offsets
        return found

    def _labelled(self, rendered: Rendered, encoding: Any) -> Encoded:
        ids: list[int] = encoding.ids
        if rendered.spans is None:
            return Encoded(ids, list(ids))
        if not rendered.spans:
            return Encoded(ids, [IGNORED_LABEL] * len(ids))
        return Encoded(ids, label_spans(ids, encoding.offsets, rendered.spans, self.marks))


def _conversation(row: Row) -> list[Any] | None:
    """All messages of a canonical row; None where it is plain text."""
    if "messages" in row:
        messages: list[Any] = row["messages"]
        return messages
    parts = [row.get("prompt", []), row.get("completion", row.get("chosen", []))]
    return [*parts[0], *parts[1]] if all(isinstance(part, list) for part in parts) else None


def marker_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens beside the vocabulary, one of which may end a turn: `<|im_end|>`, `</s>`."""
    # `all_special_ids` alone lacks the end of turn of Llama 3 and Phi-3. Some tokenizers add runs of spaces.
    added = {index for token, index in tokenizer.get_added_vocab().items() if token.strip()}
    return frozenset(added | set(tokenizer.all_special_ids))


def last_learned(labels: Sequence[int]) -> int | None:
    """The last token that carries loss, or None."""
    return next((label for label in reversed(labels) if label != IGNORED_LABEL), None)


def label_spans(
    ids: list[int], offsets: list[tuple[int, int]], spans: tuple[Span, ...], marks: frozenset[int]
) -> list[int]:
    """`ids` where a token lies in a span, -100 elsewhere; a span ends with the token that ends its turn."""
    labels = [IGNORED_LABEL] * len(ids)
    num_tokens = len(ids)
    # Tokens that a post-processor adds at the end stand at (0, 0), out of order.
    while num_tokens > 1 and offsets[num_tokens - 1] == (0, 0):
        num_tokens -= 1
    for span in spans:
        first, end = _inside(offsets, span, num_tokens)
        # A mark that reaches beyond the span belongs to what follows.
        while end > first and offsets[end - 1][1] > span.end and ids[end - 1] in marks:
            end -= 1
        last = _turn_end(ids, offsets, span, (first, end), marks)
        # What is rendered after the end-of-turn token (a newline) is never generated: don't learn it.
        stop = end if last is None else last + 1
        labels[first:stop] = ids[first:stop]
    return labels


def _inside(offsets: list[tuple[int, int]], span: Span, num_tokens: int) -> tuple[int, int]:
    """The range of tokens that lie in a span, found by bisection: offsets are in order."""
    # A token that straddles the start holds the answer's first letters (TRL learns it too). Tokenizers that
    # trim offsets give a token of spaces no width; it stands where its last space ended.
    first = bisect_right(offsets, span.start, 0, num_tokens, key=lambda place: place[1])
    end = bisect_left(offsets, span.end, first, num_tokens, key=lambda place: place[0])
    while end < num_tokens and offsets[end] == (span.end, span.end):
        end += 1
    return first, end


def _turn_end(
    ids: list[int],
    offsets: list[tuple[int, int]],
    span: Span,
    inside: tuple[int, int],
    marks: frozenset[int],
) -> int | None:
    """The token that ends the turn: the first mark after its words, or the last where they aren't known."""
    first, end = inside
    if span.words_end is None:
        return next((i for i in range(end - 1, first - 1, -1) if ids[i] in marks), None)
    after = bisect_left(offsets, span.words_end, first, end, key=lambda place: place[0])
    return next((i for i in range(after, end) if ids[i] in marks), None)
