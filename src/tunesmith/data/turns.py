"""Where the assistant's turns lie in a rendered conversation, found by rendering its beginnings."""

from __future__ import annotations

from typing import Any, NamedTuple

from tunesmith.data.template_trial import render_chat


class Span(NamedTuple):
    """Characters [start, end) to learn; `words_end` is where the answer's own words end, if that is known."""

    start: int
    end: int
    words_end: int | None


class TurnFinder:
    """Renders a conversation and finds its assistant turns.

    The template is a program that knows only whole conversations. What it renders before a turn, with the
    generation prompt, must be the beginning of what it renders with it: so a turn starts where both part.
    """

    def __init__(self, tokenizer: Any, messages: list[dict[str, Any]], tools: list[Any] | None) -> None:
        self._tokenizer = tokenizer
        self._messages = messages
        self._tools = tools
        self.whole = self._apply(messages)

    def spans(self, first_learned: int = 0) -> tuple[Span, ...]:
        """The assistant's turns, from message `first_learned` on.

        Raises:
            ValueError: the template renders a turn differently once others follow it.
        """
        return tuple(
            self._span(index)
            for index, message in enumerate(self._messages)
            # OpenAI's `weight: 0` keeps a turn in the conversation and out of the loss.
            if message["role"] == "assistant" and index >= first_learned and message.get("weight") != 0
        )

    def _span(self, index: int) -> Span:
        words = self._words(index)
        start = self._start(index, words)
        if index == len(self._messages) - 1:
            return Span(start, len(self.whole), self._words_end(words, start, len(self.whole)))
        through = self._apply(self._messages[: index + 1])
        end = _num_agreeing(through, self.whole)
        words_end = self._words_end(words, start, end)
        # Some templates close a whole conversation in another way (Phi-3 adds the end-of-text token): that is
        # no rewriting as long as the answer itself is the same.
        if end < len(through) and words_end is None:
            raise _rewritten(index)
        return Span(start, end, words_end)

    def _start(self, index: int, words: str) -> int:
        if index == 0:  # nothing stands before it, and templates refuse an empty conversation
            start = self.whole.find(words)
            if not words or start == -1:
                raise ValueError("the conversation begins with an assistant turn that it renders differently")
            return start
        before = self._apply(self._messages[:index], add_generation_prompt=True)
        agreed = _num_agreeing(before, self.whole)
        if agreed == len(before):
            return agreed
        # Some generation prompts say more than the turn does (DeepSeek-R1's opens a <think>).
        given = _num_agreeing(self._apply(self._messages[:index]), before)
        if agreed < given:
            raise _rewritten(index - 1)
        # What it says may begin like the answer by chance: step back to where the answer begins.
        found = self.whole.rfind(words, given, agreed + len(words)) if words else -1
        return agreed if found == -1 else found

    def _words(self, index: int) -> str:
        message = self._messages[index]
        # The words of a turn that also calls tools don't end it.
        return "" if message.get("tool_calls") else (message["content"] or "").strip()

    def _words_end(self, words: str, start: int, end: int) -> int | None:
        if not words:
            return None
        text = self.whole[start:end]
        leading = len(text) - len(text.lstrip())
        at = leading if text.startswith(words, leading) else text.rfind(words)
        return None if at == -1 else start + at + len(words)

    def _apply(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool = False) -> str:
        return render_chat(
            self._tokenizer, messages, self._tools, add_generation_prompt=add_generation_prompt
        )


def _num_agreeing(left: str, right: str) -> int:
    if right.startswith(left):
        return len(left)
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(left), len(right)))


def _rewritten(index: int) -> ValueError:
    return ValueError(
        f"its rendering of turn {index} changes with the turns after it, so the tokens to learn can't be told"
    )
