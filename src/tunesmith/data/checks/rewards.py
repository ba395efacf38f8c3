"""Reward functions, called on real rows as TRL will call them, before a model is loaded."""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from tunesmith.data.checks import reward_calls
from tunesmith.data.checks.reward_calls import (
    KEPT_BACK,
    Call,
    Fault,
    as_rewards,
    call_reward,
    fault_of,
    parameters_of,
    short,
    signature_fault,
)
from tunesmith.data.checks.reward_report import RIGHT, RewardReport
from tunesmith.data.checks.text import is_blank
from tunesmith.data.findings import Finding
from tunesmith.rewards.completions import REFERENCE, REFERENCE_COLUMNS

# A step judges so many completions at a usual setting (8 prompts, 8 answers to each) and takes seconds to
# generate them, so that a second of waiting for the reward is felt.
COMPLETIONS = 64
SLOW_S = 1.0
# From fewer rows than these the time for COMPLETIONS isn't extrapolated: a call's fixed cost would be too.
ROWS_TO_SCALE = 16
_UNRELATED = "I would rather talk about the weather: it has been raining here since Tuesday."
_EMPTY = "an empty completion"
# The sample completions of a row. Rewards look for answers in different places, so that the reference stands
# in several; forms without a place for it go to rows that have none, too.
_FORMS: dict[str, str] = {
    RIGHT: "{}",
    f"{RIGHT} in a sentence": "The answer is {}.",
    f"{RIGHT} in tags": "<think>\nLet me see.\n</think>\n<answer>\n{}\n</answer>",
    f"{RIGHT} in a box": "Let me see.\n\nThe answer is $\\boxed{{{}}}$.",
    f"{RIGHT} after ####": "Let me see.\n#### {}",
    _EMPTY: "",
    "an unrelated sentence": _UNRELATED,
    "an unrelated sentence in tags": f"<think>\nLet me see.\n</think>\n<answer>\n{_UNRELATED}\n</answer>",
}


def check_reward(
    function: Callable[..., Any],
    name: str,
    rows: Sequence[dict[str, Any]],
    row_numbers: Sequence[int] | None = None,
    reference: str | None = None,
) -> tuple[RewardReport | None, list[Finding]]:
    """What a reward makes of completions that are known to be good or bad, and what is wrong with it.

    Rows are canonical GRPO rows; 64 of them, evenly spread, are used. The column with the reference answers
    is the one that the reward was made with, else `reference`, else one of REFERENCE_COLUMNS. There is no
    report where a reward can't be called or doesn't give rewards.
    """
    if not rows:
        return None, []
    numbers = row_numbers if row_numbers is not None else range(len(rows))
    columns = list(dict.fromkeys(key for row in rows for key in row if key not in KEPT_BACK))
    parameters = parameters_of(function)
    if fault := signature_fault(parameters, columns):
        return None, [Finding("D501", None, f"reward {name}", fault.said, fault.advice)]
    reference = getattr(function, "reference_column", None) or reference
    column = reference if reference in columns else _reference_column(parameters, columns)
    references = [_as_text(row.get(column)) if column else None for row in rows]
    picked = (
        [i * len(rows) // COMPLETIONS for i in range(COMPLETIONS)]
        if len(rows) > COMPLETIONS
        else range(len(rows))
    )
    # A blank reference is a finding of its own, and what a reward makes of it would only repeat that.
    usable = [i for i in picked if references[i] is not None] or list(picked)
    asked = [_Row(numbers[i], rows[i], references[i]) for i in usable]
    trial = _Trial(function, name, asked, columns, column, named=column in parameters)
    report = trial.run()
    if column and trial.uses_reference:
        said = f"column {column!r} is empty: there is nothing to judge completions by"
        blank = [number for number, each in zip(numbers, references, strict=True) if each is None]
        trial.findings += [Finding("D106", number, trial.field, said) for number in blank]
    return report, trial.findings


def _reference_column(parameters: dict[str, inspect.Parameter], columns: list[str]) -> str | None:
    """The column with the reference answers: one that the reward names, else the likeliest."""
    there = [name for name in REFERENCE_COLUMNS if name in columns]
    return next((name for name in there if name in parameters), there[0] if there else None)


def _as_text(value: Any) -> str | None:
    """A reference as a completion would say it; None where nothing is there, or nothing that can be said."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, str):
        return None if is_blank(value) else value
    return str(value) if isinstance(value, int | float) and not math.isnan(value) else None


@dataclass(frozen=True)
class _Row:
    number: int
    values: dict[str, Any]
    reference: str | None


class _Trial:
    """One reward on its sample completions. Rewards and failures are kept by form and index of the row."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        rows: list[_Row],
        columns: list[str],
        reference: str | None,
        *,
        named: bool,
    ) -> None:
        self.name, self.field = name, f"reward {name}"
        self.findings: list[Finding] = []
        self.uses_reference = named
        self._function, self._rows, self._columns, self._reference = function, rows, columns, reference
        self._rewards: dict[str, dict[int, float | None]] = {}
        self._failures: dict[str, dict[int, Fault]] = {}
        self._timed: list[tuple[int, float]] = []
        self._alone_s = 0.0

    def run(self) -> RewardReport | None:
        """Call it with each kind of completion, and say what came of it."""
        for form in _FORMS:
            indices = [i for i, row in enumerate(self._rows) if row.reference or "{}" not in _FORMS[form]]
            if indices and not self._judge(form, indices):
                return None
        if not any(self._rewards.values()):
            fault = next(fault for failed in self._failures.values() for fault in failed.values())
            self._find(
                "D501", None, fault.said + ("" if fault.whole else " on every completion"), fault.advice
            )
            return None
        self.uses_reference = self.uses_reference or self._depends_on_reference()
        self._failed()
        self._odd()
        self._slow()
        return self._report()

    def _find(self, code: str, number: int | None, message: str, advice: str = "") -> None:
        self.findings.append(Finding(code, number, self.field, message, advice))

    # Calling.

    def _call(self, form: str, indices: list[int], references: Sequence[Any] | None = None) -> Call:
        rows = [self._rows[i] for i in indices]
        texts = [_FORMS[form].format(row.reference) for row in rows]
        said = isinstance(rows[0].values.get("prompt"), list)
        values = {name: [row.values.get(name) for row in rows] for name in self._columns}
        if references is not None and self._reference:
            # A column that was mapped stands there twice: under its own name, and under that of all rewards.
            held_in = {self._reference, REFERENCE} & values.keys()
            values |= {name: list(references) for name in held_in}
        given = {
            "prompts": [row.values.get("prompt") for row in rows],
            "completions": [[{"role": "assistant", "content": text}] if said else text for text in texts],
            # There is no tokenizer yet: bytes stand for tokens, so that lengths differ as texts do.
            "completion_ids": [list(text.encode("utf-8", "surrogatepass")) for text in texts],
            "trainer_state": SimpleNamespace(
                global_step=0, max_steps=1000, epoch=0.0, num_train_epochs=1, log_history=[]
            ),
            "log_extra": _ignored,
            "log_metric": _ignored,
        }
        return call_reward(self._function, {**values, **given})

    def _judge(self, form: str, indices: list[int]) -> bool:
        """Judge a batch; False when there is no use in going on."""
        call = self._call(form, indices)
        if call.error is not None:
            return self._judge_alone(form, indices, call.error)
        if self._hung(call, form, None):
            return False
        rewards = self._kept(form, indices, call.value)
        self._timed.append((len(indices), call.seconds))
        return rewards

    def _judge_alone(self, form: str, indices: list[int], error: BaseException) -> bool:
        """After a batch has failed: each row by itself, to name those on which it fails."""
        failed = self._failures.setdefault(form, {})
        for i in indices:
            if self._alone_s > reward_calls.TIME_LIMIT_S:
                break
            call = self._call(form, [i])
            self._alone_s += call.seconds
            if self._hung(call, form, self._rows[i].number):
                return False
            if call.error is not None:
                failed[i] = self._fault(call.error)
            elif not self._kept(form, [i], call.value):
                return False
        if failed:
            return True
        fault = self._fault(error)
        said = f"{fault.said} on {len(indices)} completions at once, and on none of them alone"
        self._find("D501", None, said, fault.advice)
        return False

    def _fault(self, error: BaseException) -> Fault:
        fault = fault_of(error)
        # The library's rewards begin their sentences with their name, which the field says already.
        return fault._replace(said=fault.said.removeprefix(f"{self.name} ")) if fault.whole else fault

    def _hung(self, call: Call, form: str, number: int | None) -> bool:
        if call.hung:
            said = f"did not return within {reward_calls.TIME_LIMIT_S:g} s, given {form}"
            self._find("D501", number, said, "give it a time limit of its own: training would wait as well")
        return call.hung

    def _kept(self, form: str, indices: list[int], value: Any) -> bool:
        rewards = as_rewards(value, len(indices))
        if isinstance(rewards, str):
            self._find("D504", None, rewards)
            return False
        self._rewards.setdefault(form, {}).update(zip(indices, rewards, strict=True))
        return True

    def _depends_on_reference(self) -> bool:
        """Whether the same completions get other rewards when the rows change their references around."""
        given = self._rewards.get(RIGHT, {})
        indices = list(given)
        values = [self._rows[i].values.get(self._reference or "") for i in indices]
        if len({repr(value) for value in values}) < 2:
            return False
        again = self._call(RIGHT, indices)
        if as_rewards(again.value, len(indices)) != list(given.values()):
            return False  # it draws lots, or is in a bad way: that it changes says nothing
        moved = self._call(RIGHT, indices, [*values[1:], values[0]])
        return as_rewards(moved.value, len(indices)) != list(given.values())

    # Findings.

    def _failed(self) -> None:
        """Rows on which it raises: for any completion, for some, or for the reference answer alone."""
        by_row: dict[int, list[str]] = {}
        whole: dict[Fault, list[str]] = {}
        for form, failed in self._failures.items():
            if failed and not self._rewards.get(form):
                whole.setdefault(next(iter(failed.values())), []).append(form)
                continue
            for i in failed:
                by_row.setdefault(i, []).append(form)
        for fault, forms in whole.items():
            self._find("D501", None, f"{fault.said} for {_kinds(forms)}, whatever the row", fault.advice)
        for i, forms in sorted(by_row.items()):
            fault = self._failures[forms[0]][i]
            said = f"{fault.said} for {forms[0]}"
            of_reference = RIGHT in forms and all("{}" in _FORMS[form] for form in forms)
            said += f", {short(self._rows[i].reference)}" if of_reference else ""
            self._find("D106" if of_reference else "D501", self._rows[i].number, said, fault.advice)

    def _odd(self) -> None:
        """Rewards that are no numbers, and numbers that tell nothing."""
        given = [(form, i, each) for form, by_row in self._rewards.items() for i, each in by_row.items()]
        endless = [each for each in given if each[2] is not None and not math.isfinite(each[2])]
        self._counted("D503", endless)
        unread = self._unread()
        for i, said in unread.items():
            said = f"can't read {RIGHT} {short(self._rows[i].reference)}: {said}"
            self._find("D106", self._rows[i].number, said, "mend the answer, or let the reward read it")
        nones = [each for each in given if each[2] is None]
        if len(nones) == len(given):
            self._find("D502", None, "gives None for every completion")
        else:
            self._counted("D502", [each for each in nones if each[1] not in unread])
        values = {value for _, _, value in given}
        if len(values) == 1 and None not in values and not endless and not any(self._failures.values()):
            kinds = ", ".join(self._rewards)
            self._find("D505", None, f"gives {values.pop():g} for each of {len(given)} completions: {kinds}")

    def _counted(self, code: str, odd: list[tuple[str, int, float | None]]) -> None:
        """A finding for the kinds of completion that always get something odd, and one a row for others."""
        by_form: dict[str, dict[int, float | None]] = {}
        for form, i, value in odd:
            by_form.setdefault(form, {})[i] = value
        whole = [form for form, rows in by_form.items() if len(rows) == len(self._rewards[form])]
        if whole:
            number, of = sum(len(by_form[form]) for form in whole), sum(map(len, self._rewards.values()))
            value = next(iter(by_form[whole[0]].values()))
            said = (
                f"gives {value} for {_kinds(whole)}, whatever the row ({number} of {of} sample completions)"
            )
            self._find(code, None, said)
        for i in sorted({i for form, i, _ in odd if form not in whole}):
            forms = [form for form, rows in by_form.items() if i in rows and form not in whole]
            of = sum(i in rows for rows in self._rewards.values())
            said = (
                f"gives {by_form[forms[0]][i]} for {forms[0]} ({len(forms)} of its {of} sample completions)"
            )
            self._find(code, self._rows[i].number, said)

    def _unread(self) -> dict[int, str]:
        """Rows whose reference answer is worth no more than silence, and what it gets.

        Where most are, the reward wants answers in a form that none of the samples has: no fault of the rows.
        """
        found: dict[int, str] = {}
        empty = self._rewards.get(_EMPTY, {})
        judged = list(self._rewards.get(RIGHT, {})) if self.uses_reference else []
        for i in judged:
            got = [by_row.get(i) for form, by_row in self._rewards.items() if "{}" in _FORMS[form]]
            best = max((each for each in got if each is not None and math.isfinite(each)), default=None)
            nothing = empty.get(i)
            if best is None:
                found[i] = "it gets None"
            elif nothing is not None and best <= nothing:
                found[i] = f"it gets {best:g}, and an empty completion {nothing:g}"
        return found if 2 * len(found) <= len(judged) else {}

    def _slow(self) -> None:
        seconds = self._pace() * COMPLETIONS
        if len(self._rows) < ROWS_TO_SCALE:
            seconds = self._pace() * len(self._rows)
        if seconds > SLOW_S:
            num = COMPLETIONS if len(self._rows) >= ROWS_TO_SCALE else len(self._rows)
            self._find("D506", None, f"takes {seconds:.1f} s for {num} completions")

    def _pace(self) -> float:
        """Seconds a completion, without the first call, which imports and compiles."""
        timed = self._timed[1:] or self._timed
        return sum(seconds for _, seconds in timed) / max(1, sum(number for number, _ in timed))

    def _report(self) -> RewardReport:
        finite = {
            form: [each for each in by_row.values() if each is not None and math.isfinite(each)]
            for form, by_row in self._rewards.items()
        }
        values = [each for some in finite.values() for each in some]
        given = [each for by_row in self._rewards.values() for each in by_row.values()]
        return RewardReport(
            name=self.name,
            num_rows=len(self._rows),
            num_completions=len(given),
            mean=statistics.fmean(values) if values else None,
            minimum=min(values, default=None),
            maximum=max(values, default=None),
            num_none=sum(each is None for each in given),
            num_endless=sum(each is not None and not math.isfinite(each) for each in given),
            calls_per_s=round(1 / pace, 1) if (pace := self._pace()) else None,
            reference_column=self._reference if self.uses_reference else None,
            mean_by_completion={form: statistics.fmean(some) for form, some in finite.items() if some},
        )


def _kinds(forms: list[str]) -> str:
    """Kinds of completions in few words."""
    return forms[0] if len(forms) == 1 else f"{forms[0]} and {len(forms) - 1} more kinds of completions"


def _ignored(*_: Any, **__: Any) -> None:
    """What stands for TRL's `log_extra` and `log_metric`."""
