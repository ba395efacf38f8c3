"""The picture of a run: its loss by step, or its reward where answers are rewarded, as a plain PNG."""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tunesmith.publish.markdown import one_line
from tunesmith.publish.redaction import redacted
from tunesmith.runs.files import write_bytes_whole
from tunesmith.runs.folder import RunFolder

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

Points = list[tuple[int, float]]
WIDTH, HEIGHT = 1200, 600
_LEFT, _RIGHT, _TOP, _BOTTOM = 112, 48, 96, 84
# Drawn so many times larger and made smaller: lines without steps.
_FINE = 3
_PAPER, _INK, _FAINT, _GRID = "#ffffff", "#24292f", "#6e7781", "#e6e8eb"
_RAW, _SMOOTH, _EVAL = "#a9cbe8", "#0b5394", "#d9480f"
# With fewer values than the first a line of means hides more than it shows; each is of a tenth of all.
_SMOOTHED_FROM, _REACH = 40, 20


@dataclass(frozen=True)
class Curve:
    """What was logged of a run's `name`, loss or reward: steps and finite values, in `unit`."""

    name: str
    unit: str
    training: Points
    evaluation: Points


def curve_of(run: RunFolder) -> Curve:
    """The loss of a run by step; its reward where answers were rewarded, for there the loss tells little."""
    rows = run.read_metrics()
    rewards = _points(rows, "reward")
    if len(rewards) > 1:
        return Curve("reward", "mean of the answers", rewards, _points(rows, "eval_reward"))
    unit = "nats a token" if run.record.get("method") in ("sft", "cpt") else ""
    return Curve("loss", unit, _points(rows, "loss"), _points(rows, "eval_loss"))


def draw_losses(run: RunFolder, path: Path) -> bool:
    """Whether a picture of the run's curve was written to `path`.

    It isn't of fewer than two values, or where Pillow (extra `train`) is missing.
    """
    curve = curve_of(run)
    if len(curve.training) < 2:
        return False
    title = redacted({"name": one_line(run.record.get("name") or "")})["name"]
    # Pillow's own font has no other letters.
    title = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    try:
        content = _drawn(curve, title)
    except ImportError:  # of Pillow, or of its FreeType
        return False
    # Replaced, never written into: what lies there may be a link to another folder's file.
    write_bytes_whole(path, content)
    return True


def _points(rows: Iterable[Mapping[str, Any]], key: str) -> Points:
    """The finite values by step, in order; what was logged of a step last holds."""
    found = {
        row["step"]: float(row[key])
        for row in rows
        if isinstance(row.get(key), int | float) and math.isfinite(row[key]) and isinstance(row["step"], int)
    }
    return sorted(found.items())


def smoothed(points: Points) -> Points:
    """Each value as the mean of those around it, a tenth of all at most; nothing where there are few."""
    if len(points) < _SMOOTHED_FROM:
        return []
    reach = len(points) // _REACH
    values = [value for _, value in points]
    means = []
    for index, (step, _) in enumerate(points):
        near = min(reach, index, len(points) - 1 - index)  # as many before as after: no lag at either end
        window = values[index - near : index + near + 1]
        means.append((step, sum(window) / len(window)))
    return means


class _Scale(NamedTuple):
    """The ends of an axis, and the round numbers on it."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """How far along the axis a value lies, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def _scale(low: float, high: float, most: int, *, whole: bool = False) -> _Scale:
    """An axis that holds the values from low to high, with at most `most` gaps between its numbers."""
    if low >= 0 and low < high / 2:
        low = 0.0
    spread = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(spread / most))
    gap = next(power * each for each in (1, 2, 2.5, 5, 10) if spread / (power * each) <= most)
    gap = max(1.0, float(math.ceil(gap))) if whole else gap
    first, last = math.floor(low / gap + 1e-9), math.ceil(high / gap - 1e-9)
    last = max(last, first + 1)
    ticks = tuple(number * gap for number in range(first, last + 1))
    return _Scale(ticks[0], ticks[-1], ticks)


def _tick_text(value: float, ticks: Sequence[float]) -> str:
    gap = ticks[1] - ticks[0]
    digits = max(0, -math.floor(math.log10(gap) + 1e-9))
    digits += abs(round(gap, digits) - gap) > gap / 100  # of 0.25
    return f"{value:,.{min(digits, 8)}f}" if abs(value) < 1e7 and digits <= 8 else f"{value:.2g}"


def _drawn(curve: Curve, title: str) -> bytes:
    from PIL import Image, ImageDraw

    big = Image.new("RGB", (WIDTH * _FINE, HEIGHT * _FINE), _PAPER)
    _Picture(ImageDraw.Draw(big), curve, title).draw()
    file = io.BytesIO()
    big.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(file, "PNG", optimize=True)
    return file.getvalue()


class _Picture:
    """One drawing; places are in pixels of the finished picture."""

    def __init__(self, draw: ImageDraw, curve: Curve, title: str) -> None:
        from PIL import ImageFont

        self.draw_on, self.curve, self.title = draw, curve, title
        self.font: Callable[[int], Any] = lambda size: ImageFont.load_default(size * _FINE)
        steps = [step for step, _ in curve.training + curve.evaluation]
        values = [value for _, value in curve.training + curve.evaluation]
        self.x = _scale(0, max(steps), 8, whole=True)._replace(high=max(max(steps), 1))
        self.y = _scale(min(values), max(values), 6)

    def draw(self) -> None:
        self._axes()
        fine = smoothed(self.curve.training)
        self._line(self.curve.training, *((_RAW, 2) if fine else (_SMOOTH, 4)))
        self._line(fine, _SMOOTH, 4)
        if len(self.curve.evaluation) > 1:
            self._line(self.curve.evaluation, _EVAL, 3)
        for point in self.curve.evaluation[:: 1 + len(self.curve.evaluation) // 40]:
            self._dot(*self._place(point), _EVAL)
        self._heading(has_fine=bool(fine))

    def _place(self, point: tuple[int, float]) -> tuple[float, float]:
        across, up = self.x.share(point[0]), self.y.share(point[1])
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    def _axes(self) -> None:
        for tick in self.y.ticks:
            _, y = self._place((0, tick))
            self._stroke([(_LEFT, y), (WIDTH - _RIGHT, y)], _GRID, 1.5)
            self._text(_LEFT - 14, y, _tick_text(tick, self.y.ticks), 20, _FAINT, "rm")
        bottom = HEIGHT - _BOTTOM
        for tick in (each for each in self.x.ticks if each <= self.x.high):
            x, _ = self._place((int(tick), self.y.low))
            self._stroke([(x, bottom), (x, bottom + 7)], _FAINT, 1.5)
            self._text(x, bottom + 14, f"{tick:,.0f}", 20, _FAINT, "mt")
        self._stroke([(_LEFT, bottom), (WIDTH - _RIGHT, bottom)], _FAINT, 2)
        self._text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 14, "optimizer steps", 20, _INK, "mb")

    def _heading(self, *, has_fine: bool) -> None:
        unit = f" ({self.curve.unit})" if self.curve.unit else ""
        self._text(_LEFT, 24, self._short(self.title), 24, _INK, "lt")
        self._text(_LEFT, 60, f"{self.curve.name}{unit}", 20, _FAINT, "lt")
        entries = [("evaluation", _EVAL)] if self.curve.evaluation else []
        entries += [("training, smoothed", _SMOOTH)] if has_fine else []
        entries += [("training", _RAW if has_fine else _SMOOTH)]
        x = float(WIDTH - _RIGHT)
        for name, colour in entries:
            self._text(x, 70, name, 20, _INK, "rm")
            x -= self._width(name, 20) + 10
            self._stroke([(x - 34, 70), (x, 70)], colour, 5)
            x -= 34 + 28

    def _short(self, text: str) -> str:
        while self._width(text, 24) > WIDTH - _LEFT - _RIGHT and len(text) > 4:
            text = f"{text[:-4]}..."
        return text

    # Drawing in pixels of the finished picture

    def _width(self, text: str, size: int) -> float:
        return float(self.draw_on.textlength(text, font=self.font(size))) / _FINE

    def _text(self, x: float, y: float, text: str, size: int, colour: str, anchor: str) -> None:
        self.draw_on.text((x * _FINE, y * _FINE), text, fill=colour, font=self.font(size), anchor=anchor)

    def _stroke(self, places: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        scaled = [(x * _FINE, y * _FINE) for x, y in places]
        self.draw_on.line(scaled, fill=colour, width=round(width * _FINE), joint="curve")

    def _line(self, points: Points, colour: str, width: float) -> None:
        if len(points) > 1:
            self._stroke([self._place(each) for each in points], colour, width)

    def _dot(self, x: float, y: float, colour: str, radius: float = 5) -> None:
        box = [(each + side * radius) * _FINE for side in (-1, 1) for each in (x, y)]
        self.draw_on.ellipse(box, fill=colour)
