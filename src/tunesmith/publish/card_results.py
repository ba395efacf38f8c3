"""What was measured of a published model, before and after, beside its plan, and of its exported files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard

from tunesmith.publish.card_facts import Facts
from tunesmith.publish.markdown import code, plain, table
from tunesmith.runs.figures import duration_text, planned_and_actual, quantity

# What TRL's trainers log of an evaluation, in words; and whether less of it is better.
_MEASURES = {
    "eval_loss": ("loss", True),
    "eval_accuracy": ("pairs with the better answer scored higher", False),
    "eval_rewards/accuracies": ("pairs with the better answer preferred", False),
    "eval_reward": ("reward", False),
    "eval_mean_token_accuracy": ("share of tokens foretold", False),
}
# Of a GPU's memory the plan's range holds what torch doesn't count: it has none here.
_RANGES: dict[str, tuple[str, Callable[[float], str]]] = {
    "time": ("duration_s", duration_text),
    "a step": ("step_s", "{:.3g} s".format),
    "cost": ("cost_usd", "${:.2f}".format),
}
_VERIFIED = {True: "yes", False: "**NOT VERIFIED**", None: "not compared"}


def before_and_after(facts: Facts) -> str:
    """The section: scores before and after, evaluations, and where there are none that sentence."""
    parts = [each for each in (*_scores(facts), *_evaluations(facts)) if each]
    if not parts:
        learned = {
            "loss": "The loss of the rows that it was trained on falls, whether or not it became better.",
            "reward": "The curve below is the reward of answers to the prompts that it was trained on.",
        }
        parts = [
            "**Nothing was measured of its answers.** No score was taken before or after the training, and "
            f"no evaluation is recorded. {learned[facts.curve.name]}"
        ]
    return "\n\n".join(["## Before and after", *parts])


def headline(facts: Facts) -> str:
    """The scores in a sentence, or nothing where there are none."""
    told = [
        f"{plain(_words(name))} {_share(before, None)} before, {_share(after, None)} after"
        for name, before, after in _pairs(facts)
    ]
    rows = facts.number("results", "num_rows")
    return f"**{'; '.join(told)}**, on {quantity(int(rows), 'held-out row')}." if told and rows else ""


def curve_section(facts: Facts, *, has_picture: bool) -> str:
    """The section with the picture, and its ends in words; nothing where nothing was logged."""
    curve = facts.curve
    parts = [f"![{curve.name}](loss.png)"] if has_picture else []
    if len(curve.training) > 1:
        (first, begins), (last, ends) = curve.training[0], curve.training[-1]
        unit = f" ({curve.unit})" if curve.unit else ""
        parts.append(
            f"Training {curve.name}{unit}: {begins:.3g} at step {first:,}, {ends:.3g} at step {last:,}, each "
            "the mean since the log before."
        )
    return "\n\n".join([f"## {curve.name.capitalize()} curve", *parts]) if parts else ""


def planned_section(facts: Facts) -> str:
    """The section on time, memory and money; nothing where neither a plan nor a measurement is recorded."""
    rows = [
        [name, _with_range(facts, name, planned), actual or "not measured"]
        for name, (actual, planned) in planned_and_actual(facts.record).items()
        if (actual or planned) and name != "cost"
    ]
    if not rows:
        return ""
    rows.append(_cost(facts))
    parts = [table(["", "predicted", "actual"], rows), _how_it_is_counted(facts)]
    if facts.record.get("resumed_from") is not None and not facts.part("actual"):
        step = facts.record["resumed_from"]
        parts.append(f"The run was interrupted and went on from step {step}: its whole was not timed.")
    parts += _machine(facts)
    return "\n\n".join(["## Predicted and actual", *parts])


def exported_section(facts: Facts) -> str:
    """The section on exported files, each with what was compared; nothing where none was exported."""
    rows = [_file(each) for each in facts.exported if each.get("name")]
    if not rows:
        return ""
    head = ["file", "format", "MB", "verified", "divergence", "same top token", "perplexity", "same answers"]
    parts = [table(head, rows)]
    trained = [
        each["trained_perplexity"] for each in facts.exported if _is_number(each.get("trained_perplexity"))
    ]
    if any(each.get("verified") is not None for each in facts.exported):
        said = f" (as trained: {trained[0]:.4g})" if trained else ""
        parts.append(
            "Verified against the trained model in fp32, on the same texts. Divergence is the mean "
            "Kullback-Leibler divergence of the next-token distributions, in nats; same top token the share "
            f"of places where both find the same token likeliest; perplexity{said} that of the texts; same "
            "answers the greedy answers that are equal to the letter."
        )
    if any(each.get("verified") is False for each in facts.exported):
        parts.append(
            "A file that is **NOT VERIFIED** does not answer as the trained model does: don't use it."
        )
    return "\n\n".join(["## Exported files", *parts])


# --- scores and evaluations


def _pairs(facts: Facts) -> list[tuple[str, float, float]]:
    results = facts.part("results")
    before, after = results.get("before"), results.get("after")
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return []
    return [
        (name, before[name], after[name])
        for name in after
        if _is_number(after[name]) and _is_number(before.get(name))
    ]


def _scores(facts: Facts) -> Iterator[str]:
    pairs, num_rows = _pairs(facts), facts.number("results", "num_rows")
    number = int(num_rows) if num_rows else None
    rows = [
        [plain(_words(name)), _share(before, number), _share(after, number), _interval(after, number)]
        for name, before, after in pairs
    ]
    if not rows:
        return
    told = f" on {quantity(number, 'held-out row')}" if number else ""
    told += f" of {code(name)}" if told and (name := facts.part("results").get("dataset")) else ""
    yield f"Measured{told}, the same ones before and after the training:"
    yield table(["", "before", "after", "after, 95 % interval"], rows)
    judged_by, baselines = facts.part("results").get("judged_by"), facts.part("results").get("baselines")
    if isinstance(judged_by, str):
        yield f"How it was judged: {plain(judged_by)}."
    if isinstance(baselines, Mapping):
        told = ", ".join(
            f"{plain(how)} {_share(each, None)}" for how, each in baselines.items() if _is_number(each)
        )
        yield f"Guessing would have scored: {told}."


def _evaluations(facts: Facts) -> Iterator[str]:
    rows = []
    for key, (words, less_is_better) in _MEASURES.items():
        found = [(row["step"], row[key]) for row in facts.rows if _is_number(row.get(key)) and "step" in row]
        if found:
            best = (min if less_is_better else max)(found, key=lambda each: each[1])
            rows.append(
                [words, *(f"{value:.4g} (step {step:,})" for step, value in (found[0], found[-1], best))]
            )
    if not rows:
        return
    number = facts.number("data", "num_eval_rows")
    on = f" on {quantity(int(number), 'held-out row')}" if number else ""
    yield f"Evaluated{on} during training. The first one came when it had begun: it isn't the base model's."
    yield table(["evaluation", "first", "last", "best"], rows)
    if facts.config.get("load_best_model_at_end"):
        yield "Published is the checkpoint of the lowest evaluation loss."


def _words(name: str) -> str:
    return name.replace("_", " ")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _hits(share: float, number: int | None) -> int | None:
    """How many of so many rows a share is; None where it is no share of them."""
    if not number or not 0 <= share <= 1 or abs(share * number - round(share * number)) > 1e-6:
        return None
    return round(share * number)


def _share(value: float, number: int | None) -> str:
    if not 0 <= value <= 1:
        return f"{value:.4g}"
    hits = _hits(value, number)
    return f"{100 * value:.1f} %" + (f" ({hits:,} of {number:,})" if hits is not None else "")


def _interval(share: float, number: int | None) -> str:
    """Where a share of all such rows lies with 95 % confidence (Wilson 1927, score interval)."""
    if number is None or _hits(share, number) is None:
        return ""
    z = 1.959964
    middle = (share + z * z / (2 * number)) / (1 + z * z / number)
    half = z / (1 + z * z / number) * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    return f"{100 * max(0.0, middle - half):.0f} to {100 * min(1.0, middle + half):.0f} %"


# --- time, memory, money


def _with_range(facts: Facts, name: str, planned: str | None) -> str:
    if planned is None:
        return "not known"
    key, say = _RANGES.get(name, ("", str))
    expected = facts.part("plan").get(key) or {}
    low, high = expected.get("low"), expected.get("high")
    if not _is_number(low) or not _is_number(high):
        return planned
    return f"{planned} ({say(low)} to {say(high)})"


def _cost(facts: Facts) -> list[str]:
    actual, planned = planned_and_actual(facts.record)["cost"]
    price = facts.number("plan", "price_usd_per_hour")
    if price is None:
        return ["cost", "not known", "not known (the machine's price isn't)"]
    return ["cost", _with_range(facts, "cost", planned), f"{actual or 'not known'}, at ${price:.2f} an hour"]


def _how_it_is_counted(facts: Facts) -> str:
    is_gpu = facts.part("choice").get("device") == "cuda"
    most = "torch handed out on one GPU" if is_gpu else "the process held"
    return f"Time is from the start of the command to the trained model, memory the most that {most}."


def _machine(facts: Facts) -> Iterator[str]:
    machine = facts.part("machine")
    if name := machine.get("device_name"):
        number = machine.get("num_devices") or 1
        yield f"Hardware: {f'{number} × ' if number > 1 else ''}{plain(name)}."
    versions = ", ".join(
        f"{plain(name)} {plain(each)}" for name, each in facts.part("versions").items() if each
    )
    if versions:
        yield f"Versions: {versions}."


def _file(found: Mapping[str, Any]) -> list[str]:
    def number(key: str, shape: str) -> str:
        return format(found[key], shape) if _is_number(found.get(key)) else ""

    same = number("same_answers", "d") and number("num_answers", "d")
    kind = " ".join(str(found[key]) for key in ("format", "quantization") if found.get(key))
    size = number("size_bytes", "d")
    return [
        code(found["name"]),
        plain(kind),
        f"{int(size) / 1e6:,.{1 if int(size) < 1e8 else 0}f}" if size else "",
        _VERIFIED.get(found.get("verified"), "not compared"),
        number("mean_divergence", ".2g"),
        number("top1_agreement", ".1%"),
        number("perplexity", ".4g"),
        f"{found['same_answers']} of {found['num_answers']}" if same else "",
    ]
