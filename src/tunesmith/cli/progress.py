"""Training as a person sees it: a live bar in a terminal, sparse lines in a log, JSON lines for a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from tunesmith.cli.output import Output
from tunesmith.train.events import Evaluated, Event, Notice, Phase, Sample
from tunesmith.train.events import Progress as Step

# Without a terminal, a line every so many hundredths of the run.
LINE_EVERY = 0.1


class ProgressView:
    """A listener for training events; use it as a context manager."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._next_line = 0.0
        self._next_sample = 0.0
        self._sampled_at = 0

    def __enter__(self) -> ProgressView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        if self._out.as_json:
            self._out.event({"event": type(event).__name__.lower(), **asdict(event)})
        elif isinstance(event, Phase):
            self._begin_phase(event.name)
        elif isinstance(event, Notice):
            self._out.say(f"note: {event.message}", style="yellow")
        elif isinstance(event, Evaluated):
            self._out.say(f"step {event.step}: evaluation loss {event.loss:z.4f}{_also(event.metrics)}")
        elif isinstance(event, Sample):
            self._show_sample(event)
        elif self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=event.step, total=event.num_steps, note=step_note(event))
        elif event.step >= self._next_line * event.num_steps or event.step == event.num_steps:
            self._next_line = event.step / event.num_steps + LINE_EVERY
            self._out.say(f"step {step_note(event)}")

    def _show_sample(self, sample: Sample) -> None:
        """The answers of a step, some ten times a run."""
        place = (sample.step - 1) / sample.num_steps
        if self._sampled_at != sample.step and place < self._next_sample:
            return
        self._sampled_at, self._next_sample = sample.step, place + LINE_EVERY
        rewards = ", ".join(
            f"{name} {'none' if value is None else f'{value:.3g}'}" for name, value in sample.rewards.items()
        )
        self._out.say(f"  asked     {one_line(sample.prompt)}", style="dim")
        self._out.say(f"  answered  {one_line(sample.completion)}  [{rewards}]", style="dim")

    def _begin_phase(self, name: str) -> None:
        self.close()
        self._next_line = 0.0
        if not self._out.is_live:
            self._out.say(f"{name} ...")
            return
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"),
            console=self._out.console,
            transient=True,
            refresh_per_second=5,
            # What the libraries print goes to the log, also while the bar is up.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bar.start()
        self._task = self._bar.add_task(name, total=None, note="")

    def close(self) -> None:
        """Take the bar away; the next phase brings a new one."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


def step_note(step: Step) -> str:
    """Loss, tokens per second and time left of a step, in one line."""
    parts = [f"{step.step}/{step.num_steps}"]
    if step.loss is not None:
        parts.append(f"loss {step.loss:z.3f}{_also(step.metrics)}")
    if step.tokens_per_s is not None:
        parts.append(f"{step.tokens_per_s:,.0f} tokens/s")
    if step.eta_s is not None and step.step < step.num_steps:
        parts.append(f"{duration(step.eta_s)} left")
    return "  ".join(parts)


def _also(metrics: Mapping[str, float]) -> str:
    return "".join(f"  {words} {value:z.3f}" for words, value in metrics.items())


def one_line(text: str, limit: int = 100) -> str:
    """What a model said, on one line, cut after `limit` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else f"{flat[: limit - 3]}..."


def duration(seconds: float) -> str:
    """Seconds as a person says them: 48 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
