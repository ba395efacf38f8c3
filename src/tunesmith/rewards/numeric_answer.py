"""The number that a completion gives as its answer is the reference's."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Annotated, Any

from pydantic import Field

from tunesmith.rewards.completions import Reward, answers_of, column_of, marked_answer, text_of

# Hyphen (first, as it stands in a set of characters), minus, small and full-width hyphen, en dash.
_SIGNS = "-−﹣－–"
_VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
# Thousands are parted by a comma, by LaTeX's {,} and \, or by a narrow or no-break space or an apostrophe.
_WHOLE = r"\d{1,3}(?:(?:,|\{,\}|\\,|[\u00a0\u2009\u202f'’])\d{3})+(?!\d)|\d+"
_DECIMAL = rf"(?:(?:{_WHOLE})(?:\.\d+)?|(?<![\w.])\.\d+)"
_POWER = r"10\s?(?:\^\s?\{?\s?(?P<power>[-+−]?\d{1,6})\s?\}?|(?P<raised>⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,6}))"
_POWER_TOO = _POWER.replace("<power", "<power2").replace("<raised", "<raised2")
_NUMBER = re.compile(
    rf"""
    (?<![0-9A-Za-z_])(?<!\d\.)                          # not inside of a word, a version, another number
    (?:(?<![\w)\]}}%])(?P<sign>[{_SIGNS}+])[ ]?)?(?:\\?[$€£¥₹][ ]?)?(?P<sign2>[{_SIGNS}])?
    (?:
        {_POWER}
      | (?P<times>{_DECIMAL})\s?(?:×|\\times|\\cdot|·|[*x])\s?{_POWER_TOO}
      | (?P<mixed>\d+)[ ](?P<over>\d+)[ ]?[/⁄][ ]?(?P<under>\d+)(?![\d/])
      | (?<![/⁄])(?P<top>{_DECIMAL})[ ]?[/⁄][ ]?(?P<bottom>{_DECIMAL})(?![\d/])
      | (?P<units>\d*)(?P<vulgar>[{_VULGAR}])
      | (?P<plain>{_DECIMAL})(?:[eE](?P<exponent>[-+−]?\d{{1,6}})(?![0-9A-Za-z]))?
    )
    (?P<percent>\s?(?:\\?%|％|percent\b|per\ cent\b))?
    """,
    re.VERBOSE,
)  # fmt: skip
_FRACTION = re.compile(
    r"(\d\s*)?\\[dt]?frac\s*(?:\{\s*([^{}]{1,40}?)\s*\}\s*\{\s*([^{}]{1,40}?)\s*\}|(\d)\s*(\d))"
)


def numeric_answer(
    *,
    column: str | None = None,
    tolerance: Annotated[float, Field(ge=0)] = 0.0,
    relative_tolerance: Annotated[float, Field(ge=0)] = 0.0,
) -> Reward:
    """A reward: 1 when the completion's number is the reference's, else 0; None where that holds no number.

    The number is the last one in \\boxed{}, after ####, in <answer> tags (the first of these that is there),
    or else in the whole text; the reference is read the same way, so that GSM8K's `... #### 72` can stay as
    it is. Two numbers are the same when they differ by at most `tolerance`, or by `relative_tolerance` of the
    larger.
    """

    def reward(completions: list[Any], **kwargs: Any) -> list[float | None]:
        rewards: list[float | None] = []
        references = column_of(kwargs, column, "numeric_answer")
        for completion, value in zip(completions, references, strict=True):
            answers = [] if isinstance(value, bool) else answers_of(value)
            accepted = [reading for answer in answers for reading in readings(answer)]
            given = readings(text_of(completion)) if accepted else ()
            rewards.append(float(any(same(a, b) for a in given for b in accepted)) if accepted else None)
        return rewards

    def same(given: float, wanted: float) -> bool:
        # Without a tolerance, only the rounding of floating point passes: 1/3 is 0.3333333333333333.
        return math.isclose(given, wanted, rel_tol=max(1e-12, relative_tolerance), abs_tol=tolerance)

    return reward


def readings(text: str) -> tuple[float, ...]:
    """The values that the answer of a text can have: none, one, or two for a percentage (50 and 0.5)."""
    answer = marked_answer(text)
    found: tuple[float, ...] = ()
    for match in _NUMBER.finditer(_FRACTION.sub(_on_a_line, text if answer is None else answer)):
        value = _value(match)
        if value is not None and math.isfinite(value):
            found = (value, value / 100) if match["percent"] else (value,)
    return found


def _on_a_line(match: re.Match[str]) -> str:
    """LaTeX's fraction as a/b; after a whole number as a part of it."""
    whole, top, bottom = match[1], match[2] or match[4], match[3] or match[5]
    return f"{whole.strip()} {top}/{bottom}" if whole else f"{top}/{bottom}"


def _value(match: re.Match[str]) -> float | None:
    sign = -1.0 if (match["sign"] or "+") in _SIGNS or match["sign2"] else 1.0
    size = _size(match)
    return None if size is None else sign * size


def _size(match: re.Match[str]) -> float | None:
    """The number without its sign; None for a division by zero."""
    if match["mixed"]:
        part = _divided(match["over"], match["under"])
        return None if part is None else float(match["mixed"]) + part
    if match["top"]:
        return _divided(match["top"], match["bottom"])
    if match["vulgar"]:
        return float(match["units"] or 0) + unicodedata.numeric(match["vulgar"])
    power = match["power"] or match["power2"] or match["raised"] or match["raised2"] or match["exponent"]
    mantissa = _plain(match["times"] or match["plain"] or "1")
    exponent = (power or "0").translate(_SUPERSCRIPT).replace("−", "-")
    # As text, for float() to round once and to overflow to infinity.
    return float(f"{mantissa}e{exponent}")


def _divided(top: str, bottom: str) -> float | None:
    divisor = float(_plain(bottom))
    return float(_plain(top)) / divisor if divisor else None


def _plain(number: str) -> str:
    return re.sub(r"[^\d.]", "", number)
