"""The report of `tunesmith validate` as one HTML page that loads nothing and runs nothing."""

from __future__ import annotations

import math
import re
import shlex
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from tunesmith import __version__
from tunesmith.config.methods import METHODS
from tunesmith.data.findings import CODES, LEVELS
from tunesmith.data.fix import DROPPED, REPAIRED

SHOWN_PER_CODE = 100
# What keeps a full report below 300 KB, so that it opens on a phone and fits into an e-mail: bytes of all
# findings and of all examples, and characters of one message and of one example.
_ROOM_OF_FINDINGS = 180_000
_ROOM_OF_EXAMPLES = 60_000
_MESSAGE_CHARS = 400
_EXAMPLE_CHARS = 4_000
_MARKUP_BYTES = 130
# The chart's pixels from its top: where the highest bar ends, below a label of max_length or without one,
# and where all bars begin.
_TOP_BELOW_LABEL, _TOP, _BASE = 44, 10, 204
# Where the bars end when max_length lies beyond the longest row, in percent of the width.
_FILLED = 84.0
_NOUNS = {"warning": "warning", "info": "note"}
# What a page can't hold (control characters, half characters) and what would turn the text around it.
_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


def page(document: dict[str, Any], examples: Sequence[dict[str, Any]] = ()) -> str:
    """The whole text of the page about `document`, what `validate --json` writes, with `examples` of rows.

    An example is {"row", "why", "text"}, and with "segments" ({"text", "loss", "special"}) it shows which
    tokens carry loss.
    """
    shown: dict[str, Any] = _visible(document)
    codes = _codes(shown)
    html: str = _template().render(
        document=shown,
        statistics=_part(shown, "statistics"),
        tokens=_part(shown, "tokens"),
        num=_num_of_levels(codes),
        lede=_lede(shown, codes),
        codes=codes,
        chart=_chart(shown),
        examples=_examples(_visible(examples)),
        num_examples=len(examples),
        next_steps=_next_steps(shown, codes),
        version=__version__,
    )
    return html


@cache
def _template() -> Any:
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(figure=_figure, short=_short, percent=_percent, counted=_counted)
    return environment.from_string(Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8"))


# Words and numbers


def _visible(value: Any) -> Any:
    r"""`value` with the characters that a page can't hold written out in its texts, as \x1b or \ud83d."""
    if isinstance(value, str):
        return _UNSHOWABLE.sub(_written_out, value)
    if isinstance(value, Mapping):
        return {_visible(key): _visible(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [_visible(each) for each in value]
    return value


def _written_out(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _cut(value: Any, limit: int) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _figure(value: Any) -> str:
    """A number as a person reads it: 12,345 or 3.1; a dash where there is none."""
    if not _is_number(value):
        return "–"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:,.1f}"


def _short(value: Any) -> str:
    """A number in little room: 12,345, 250k or 8.2M."""
    if not _is_number(value) or abs(value) < 100_000:
        return _figure(value)
    size, letter = next(pair for pair in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if abs(value) >= pair[0])
    return f"{value / size:.3g}{letter}"


def _percent(share: Any) -> str:
    """A share in percent, with as many digits as tell it from nothing and from everything."""
    if not _is_number(share):
        return "–"
    percent = 100 * share
    if not 0 < percent < 100:
        return f"{percent:.0f}%"
    for digits in range(4):
        said = f"{percent:.{digits}f}"
        if 0 < float(said) < 100 and (digits or 10 <= percent <= 99):
            return f"{said}%"
    return "below 0.001%" if percent < 50 else "above 99.999%"


def _counted(number: Any, noun: str) -> str:
    return f"{_figure(number)} {noun}" + ("" if number == 1 else "s")


def _part(document: dict[str, Any], *names: str) -> dict[str, Any]:
    """The object at a path of the document; an empty one where there is none."""
    value: Any = document
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


# Verdict and findings


def _num_of_levels(codes: list[dict[str, Any]]) -> dict[str, int]:
    """How many findings there are of each level, and how many errors were allowed."""
    num: Counter[str] = Counter(dict.fromkeys((*LEVELS, "allowed"), 0))
    for each in codes:
        num["allowed" if each["allowed"] else each["level"]] += each["count"]
    return dict(num)


def _lede(document: dict[str, Any], codes: list[dict[str, Any]]) -> str:
    """What the verdict stands on, in a sentence or three."""
    num = _num_of_levels(codes)
    rows = _counted(document.get("num_rows"), "row") if "num_rows" in document else "the data"
    errors, minor = num["error"], num["warning"] + num["info"]
    said = f"No errors in {rows}." if minor or num["allowed"] else f"Nothing was found in {rows}."
    if errors:
        said = f"{_counted(errors, 'error')} in {rows} {'stands' if errors == 1 else 'stand'} in the way."
    elif num["allowed"]:
        said = f"No errors in {rows} but {_figure(num['allowed'])} that you allowed."
    if minor:
        parts = [_counted(num[level], _NOUNS[level]) for level in ("warning", "info") if num[level]]
        said += f" {' and '.join(parts)} {'is' if minor == 1 else 'are'} worth a look."
    return said


def _codes(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The codes that were found, worst level first, each with the findings that the page shows."""
    found: dict[str, list[dict[str, Any]]] = {}
    for each in document.get("findings") or []:
        found.setdefault(str(each.get("code")), []).append(each)
    counts = document.get("counts") or {code: len(each) for code, each in found.items()}
    room = _room(found)
    codes = []
    for code, count in counts.items():
        first = next(iter(found.get(code, [])), {})
        known = CODES.get(code)
        level = known.level if known else first.get("level")
        findings = [
            {"row": each.get("row"), "field": _cut(each.get("field"), 120), "message": _message(each)}
            for each in found.get(code, [])[:room]
        ]
        codes.append({
            "code": code, "count": count, "level": level if level in LEVELS else "info",
            "title": known.title if known else code, "fix": first.get("fix") or (known.fix if known else ""),
            "findings": findings, "num_more": max(0, count - len(findings)),
            "places": _places(findings, count),
            # No copy of the data mends what only a reward found.
            "of_reward": bool(findings)
            and all(str(each["field"]).startswith("reward ") for each in findings),
            "allowed": level == "error" and code in (document.get("allowed") or []),
        })  # fmt: skip
    return sorted(codes, key=lambda each: (LEVELS.index(each["level"]), each["code"]))


def _places(findings: list[dict[str, Any]], count: int) -> str:
    """The first rows of a code in few words: `rows 17, 4411`, `rows 3, 8, 9 and more`."""
    rows = [row for row in dict.fromkeys(each["row"] for each in findings) if row is not None]
    if not rows:
        return "the whole set"
    more = " and more" if len(rows) > 3 or count > len(findings) else ""
    return ("row " if len(rows) == 1 else "rows ") + ", ".join(map(str, rows[:3])) + more


def _message(finding: dict[str, Any]) -> str:
    return _cut(finding.get("message"), _MESSAGE_CHARS)


def _room(found: dict[str, list[dict[str, Any]]]) -> int:
    """How many findings of each code the page has room for; the same number for all codes."""
    sizes = [
        [
            _MARKUP_BYTES + len(escape(_message(each) + _cut(each.get("field"), 120)).encode())
            for each in findings[:SHOWN_PER_CODE]
        ]
        for findings in found.values()
    ]
    room = SHOWN_PER_CODE
    while room > 1 and sum(sum(each[:room]) for each in sizes) > _ROOM_OF_FINDINGS:
        room -= 1
    return room


# Lengths


@dataclass(frozen=True)
class _Axis:
    """Where a length stands, in percent of the width.

    Every bin is as wide as the next on the page, so that bins that widen towards the long rows can be read.
    """

    edges: list[float]
    filled: float

    def at(self, length: float) -> float:
        """The place of a length, never outside the bins."""
        index = min(max(bisect_right(self.edges, length), 1), len(self.edges) - 1) - 1
        low, high = self.edges[index : index + 2]
        share = index + min(max((length - low) / (high - low), 0), 1)
        return round(self.filled * share / (len(self.edges) - 1), 2)

    @property
    def rest(self) -> float | None:
        """Where a last bin begins that holds all that is longer than the other bins are fine for."""
        before, start, end = self.edges[-3:] if len(self.edges) > 2 else (0, 0, 0)
        return start if end - start > 2.5 * (start - before) else None

    @property
    def widens(self) -> bool:
        """True where bins are the wider the further to the right."""
        ends = self.edges if self.rest is None else self.edges[:-1]
        return ends[-1] - ends[-2] > 1.5 * (ends[1] - ends[0])

    def ticks(self) -> list[float]:
        """Round lengths to write under the bars; of bins that widen, some of their own edges."""
        if self.widens:
            return self.edges[:: math.ceil((len(self.edges) - 1) / 8)]
        return _round_steps(self.edges[0], self.edges[-1] if self.rest is None else self.rest, 8)


def _chart(document: dict[str, Any]) -> dict[str, Any] | None:
    """The histogram of tokens, or else of characters: across in percent of the width, down in pixels."""
    lengths, unit = _part(document, "tokens"), "token"
    if not _is_histogram(_part(lengths, "histogram")):
        lengths, unit = _part(document, "statistics", "characters"), "character"
    histogram = _part(lengths, "histogram")
    if not _is_histogram(histogram):
        return None
    edges, counts = histogram["edges"], histogram["counts"]
    limit = lengths["max_length"] if _is_number(lengths.get("max_length")) else None
    num, num_longer = sum(counts), lengths.get("num_cut") or 0
    # A row can be several texts: a pair is two.
    noun = "row" if lengths.get("num_rows_read") in (None, num) else "text"
    axis = _Axis(edges, 100 if limit is None or limit <= edges[-1] else _FILLED)
    levels = _round_steps(0, max(counts), 4)
    height_of_one = (_BASE - (_TOP if limit is None else _TOP_BELOW_LABEL)) / max(*counts, *levels)
    mark = None
    if limit is not None:
        x = axis.at(limit) if limit <= edges[-1] else 100.0
        longer = f"{_counted(num_longer, noun)} longer, {_percent(num_longer / num)}"
        said = longer if num_longer else f"no {noun} is longer"
        mark = {"x": x, "limit": limit, "said": said, "flipped": x > 50}
    bins = [(low, high, count) for (low, high), count in zip(pairwise(edges), counts, strict=True)]
    return {
        "unit": unit, "noun": noun, "num": num, "num_longer": num_longer, "lengths": lengths, "axis": axis,
        "bins": bins, "mark": mark, "base": _BASE,
        "bars": _bars(bins, axis, height_of_one, limit if limit is not None and num_longer else math.inf),
        "levels": [(round(_BASE - level * height_of_one, 1), level) for level in levels[1:]],
    }  # fmt: skip


def _bars(
    bins: list[tuple[float, float, int]], axis: _Axis, height_of_one: float, limit: float
) -> list[dict[str, Any]]:
    """The bars; the one that max_length runs through comes in two parts."""
    bars = []
    for low, high, count in bins:
        middle = min(max(limit, low), high)
        for start, end, beyond in ((low, middle, False), (middle, high, True)):
            if count and end > start:
                height = round(max(2.0, count * height_of_one), 1)  # a single row can be seen too
                x = axis.at(start)
                bars.append({
                    "x": x, "width": round(axis.at(end) - x, 2), "y": round(_BASE - height, 1),
                    "height": height, "beyond": beyond, "low": low, "high": high, "count": count,
                })  # fmt: skip
    return bars


def _is_histogram(histogram: dict[str, Any]) -> bool:
    """Whether edges and counts fit each other and there is something to draw."""
    edges, counts = histogram.get("edges"), histogram.get("counts")
    if not isinstance(edges, list) or not isinstance(counts, list) or len(edges) != len(counts) + 1:
        return False
    numbers = all(map(_is_number, [*edges, *counts]))
    return numbers and any(counts) and all(low < high for low, high in pairwise(edges))


def _round_steps(low: float, high: float, parts: int) -> list[float]:
    """Multiples of a round whole number from `low` to `high`, about `parts` of them."""
    rough = (high - low) / parts
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(1.0, next(each * power for each in (1, 2, 5, 10) if each * power >= rough))
    return [step * each for each in range(math.ceil(low / step), math.floor(high / step) + 1)]


# The rest


def _examples(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The examples that the page has room for, those with tokens first: the legend stands above them."""
    shown: list[dict[str, Any]] = []
    room = _ROOM_OF_EXAMPLES
    for each in sorted(examples, key=lambda each: not each.get("segments")):
        segments = each.get("segments") or [{"text": each.get("text")}]
        parts, num_more = _parts(segments)
        room -= sum(len(escape(text).encode()) + 40 for text, _ in parts)
        if room < 0 and shown:
            break
        coloured = bool(each.get("segments"))
        shown.append({**each, "parts": parts, "num_more": num_more, "coloured": coloured})
    return shown


def _parts(segments: list[dict[str, Any]]) -> tuple[list[tuple[str, str]], int]:
    """Segments as (text, classes), tokens of one kind joined, and the number of characters left out."""
    # Special tokens stay apart: two of them beside each other are two.
    kinds = [
        (bool(each.get("loss")), index if each.get("special") else -1) for index, each in enumerate(segments)
    ]
    parts, left = [], _EXAMPLE_CHARS
    for (loss, special), group in groupby(zip(kinds, segments, strict=True), lambda pair: pair[0]):
        text = "".join(str(each.get("text") or "") for _, each in group)
        if text and left > 0:
            parts.append((text[:left], " ".join(["loss"] * loss + ["special"] * (special >= 0))))
        left -= len(text)
    return parts, max(0, -left)


def _next_steps(document: dict[str, Any], codes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What to run next and why, as (sentence, command)."""
    data, method = (shlex.quote(str(document.get(name) or name.upper())) for name in ("data", "method"))
    tokens, found = _part(document, "tokens"), {each["code"] for each in codes if not each["of_reward"]}
    model = shlex.quote(str(tokens.get("model") or "MODEL"))
    with_model = f" --model {model}" if tokens else ""
    limit = f" --max-length {tokens['max_length']}" if tokens.get("max_length") else ""
    validate = f"tunesmith validate {data} --method {method}"
    allowed = "".join(f" --allow {shlex.quote(code)}" for code in document.get("allowed") or [])
    if "D107" in found:
        return [("Say which columns play which part.", f"{validate} --map SLOT=COLUMN")]
    steps = []
    if found & (DROPPED | REPAIRED):
        clean = "clean.jsonl" if Path(data).name != "clean.jsonl" else "clean-2.jsonl"
        why = "Write a copy without the rows that can't be trained on, small faults mended."
        steps.append((why, f"{validate}{with_model}{limit} --fix {clean}"))
    if any(each["num_more"] for each in codes):
        command = f"{validate}{with_model}{limit} --findings findings.jsonl"
        steps.append(("Get every finding of a row.", command))
    longer = [each for each in _part(tokens, "max_length_to_keep").values() if _is_number(each)]
    longer = [each for each in longer if each > (tokens.get("max_length") or math.inf)]
    if not tokens:
        steps.append(("Count tokens, and see what max_length cuts.", f"{validate}{allowed} --model MODEL"))
    elif longer and found & {"D205", "D206", "D207"}:
        command = f"{validate}{allowed}{with_model} --max-length {longer[0]}"
        steps.append(("See what a longer max_length still cuts.", command))
    if tokens:
        preview = f"tunesmith preview {data} --method {method}{with_model}{limit}"
        steps.append(("See rows as the trainer sees them.", preview))
    if document.get("fit") and method in METHODS:
        train = f"tunesmith train {method} --model {model} --dataset {data}{limit} --dry-run"
        steps.append(("See what training would do; without --dry-run it begins.", train))
    return steps
