"""What a published model was trained on and how, and what that leaves open."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunesmith.data.findings import CODES
from tunesmith.data.reasoning_gym import is_reasoning_gym
from tunesmith.publish.card_facts import Facts
from tunesmith.publish.card_usage import needs_own_base
from tunesmith.publish.licence import Licence
from tunesmith.publish.lineage import Base, Source, name_of, shown
from tunesmith.publish.markdown import code, link, plain, table
from tunesmith.publish.redaction import HUB_ID, redacted
from tunesmith.runs.figures import count, quantity, setting_text, warmup_text

_HUB = "https://huggingface.co"
_TUNINGS = {
    "full": "every weight",
    "lora": "LoRA adapter",
    "qlora": "LoRA adapter, its base in 4 bit (QLoRA)",
}
# Told elsewhere in the card, or of no weight for what the model is.
_NOT_REPEATED = frozenset(
    {
        "method", "model", "init_from", "dataset", "dataset_config", "dataset_train_split", "max_length",
        "tuning", "use_dora", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules",
        "num_train_epochs", "max_steps", "global_batch_size", "learning_rate", "lr_scheduler_type",
        "warmup_steps", "seed", "test_size", "dataset_test_split", "eval_dataset", "map", "precision",
        "device", "num_processes", "save_steps", "save_total_limit", "max_minutes", "logging_steps",
        "rewards", "allow", "trl",
    }
)  # fmt: skip
_PATHS = frozenset({"chat_template", "teacher_model"})
# Of TRL's arguments those that say where something was kept or shown.
_OF_THE_MACHINE = frozenset(
    {"report_to", "run_name", "project", "trackio_space_id", "logging_dir", "output_dir", "hub_token"}
)
_CODE = re.compile(r"(?:evaluation: )?(D\d{3})\b")


def base_link(facts: Facts) -> str:
    """The base model as a link to the Hub, or its name."""
    base = facts.base
    if base is None:
        return "a model that its record doesn't name"
    return link(base.name, f"{_HUB}/{base.hub_id}") if base.hub_id else plain(base.name)


def data_section(facts: Facts) -> str:
    """The section on the data; what isn't recorded has no line."""
    head = ["data set", "part", "rows trained on", "weight", "format", "licence"]
    parts = [table(head, [_source(each) for each in facts.sources])]
    if any(each.hub_id is None and not is_reasoning_gym(each.name) for each in facts.sources):
        parts.append("A name without a link is a file or folder that isn't published with the model.")
    parts.append("\n".join(f"- {line}" for line in _counts(facts)))
    if not facts.part("data"):
        parts = ["The run's record doesn't say what it was trained on."]
    return "\n\n".join(["## Data", *(each for each in parts if each)])


def training_section(facts: Facts) -> str:
    """The section on method and settings: those that every run has, then whatever is no default."""
    rows = [[name, text] for name, text in _settings(facts) if text]
    parts = [table(["setting", "value"], rows)]
    more = [[code(name), code(text)] for name, text in _other_settings(facts) if text]
    if more:
        parts.append("Also set, against Tunesmith's defaults:")
        parts.append(table(["setting", "value"], more))
    if drift := _drift(facts):
        parts.append(drift)
    return "\n\n".join(["## Training", *parts])


def limits_section(facts: Facts) -> str:
    """The section on what this model isn't known to do."""
    return "\n\n".join(["## Limits", "\n".join(f"- {line}" for line in _limits(facts))])


# --- data


def _source(source: Source) -> list[str]:
    name = link(source.name, f"{_HUB}/datasets/{source.hub_id}") if source.hub_id else code(source.name)
    return [
        name,
        plain(source.parts),
        f"{source.num_rows:,}" if source.num_rows is not None else "",
        f"{source.weight:g}" if source.weight is not None else "",
        code(source.layout),
        licence_text(source.licence),
    ]


def licence_text(licence: Licence | None) -> str:
    """A licence as a reader looks it up; nothing where none is known."""
    if licence is None:
        return ""
    name = licence.name if licence.name and licence.id == "other" else licence.id
    return link(name, licence.link) if licence.link else plain(name)


def _counts(facts: Facts) -> Iterator[str]:
    def number(key: str) -> int:
        return int(facts.number("data", key) or 0)

    rows, tokens = number("num_rows"), number("num_tokens")
    if rows:
        asked = "prompts" if facts.method and facts.method.kind == "prompts" else "rows"
        carry = f", {number('num_loss_tokens'):,} of them carry loss" if number("num_loss_tokens") else ""
        told = (
            f" with {tokens:,} tokens in all{carry}; the longest text has {number('longest'):,}"
            if tokens
            else ""
        )
        yield f"Trained on {rows:,} {asked}{told}."
    yield f"Held out: {_held_out(facts)}."
    for key, words in (
        ("num_cut", "were longer than `max_length`"),
        ("num_dropped", "of what was read couldn't be learned from, and were left out"),
        ("num_left_out", "had faults and were left out"),
    ):
        if number(key):
            yield f"{quantity(number(key), 'row')} {words}."
    if isinstance(columns := facts.config.get("map"), Mapping) and columns:
        yield f"Columns were read as {code(setting_text(columns))}."
    if fingerprint := facts.part("data").get("fingerprint"):
        yield f"Fingerprint (SHA-256 of all rows as they were trained on, in order): {code(fingerprint)}."


def _held_out(facts: Facts) -> str:
    number, config = int(facts.number("data", "num_eval_rows") or 0), facts.config
    if not number:
        return "no rows for evaluation during training"
    raw = facts.run.record.get("config") or {}
    told = quantity(number, "row")
    if config.get("dataset_test_split"):
        return f"{told}, the split {code(config['dataset_test_split'])} of the same data"
    if isinstance(raw.get("eval_dataset"), str):
        return f"{told} of {code(name_of(raw['eval_dataset'], facts.run))}"
    return f"{told}, drawn at random from the same data; copies of them were taken out of the training"


# --- training


def _settings(facts: Facts) -> Iterator[tuple[str, str]]:
    config = facts.config
    title = f": {facts.method.title}" if facts.method else ""
    yield "method", f"{code(facts.method_name)}{title}"
    yield "base model", _base(facts)
    yield "trained", _trained(facts)
    yield from _adapter(facts)
    yield "steps", _steps(facts)
    yield "learning rate", _rate(config)
    yield "batch", _batch(facts)
    if config.get("max_length"):
        yield "max_length", f"{config['max_length']:,} tokens"
    if config.get("max_completion_length"):
        yield "answers sampled in training", f"at most {config['max_completion_length']:,} tokens each"
    yield "rewards", _rewards(facts)
    yield "precision", plain(facts.part("choice").get("precision") or "")
    yield "seed", plain("" if config.get("seed") is None else config["seed"])


def _base(facts: Facts) -> str:
    base = facts.base
    if base is None:
        return ""
    name = base_link(facts)
    if base.run:
        name = f"the model of an earlier run, {code(base.run)}, which began from {name}"
    told = [name] + ([_fingerprint(base)] if base.fingerprint else [])
    licence = licence_text(base.licence)
    return ", ".join([*told, *([f"licence {licence}"] if licence else [])])


def _fingerprint(base: Base) -> str:
    commit = str(base.fingerprint).removeprefix("commit:")
    if base.hub_id and re.fullmatch(r"[0-9a-f]{7,64}", commit):
        return f"commit [`{commit[:12]}`]({_HUB}/{base.hub_id}/tree/{commit})"
    return f"fingerprint {code(base.fingerprint)}"


def _trained(facts: Facts) -> str:
    total, trained = facts.number("model", "num_params"), facts.number("model", "num_trainable_params")
    told = plain(_TUNINGS.get(str(facts.config.get("tuning")), ""))
    if facts.config.get("use_dora"):
        told += " with DoRA"
    if total and trained and told:
        percent = 100 * trained / total
        shown = f"{percent:.2g}" if percent < 10 else f"{percent:.0f}"
        told += f": {count(int(trained))} of {count(int(total))} parameters ({shown} %)"
    return told


def _adapter(facts: Facts) -> Iterator[tuple[str, str]]:
    config = facts.config
    if not facts.has_adapter or not config.get("lora_r"):
        return
    yield (
        "LoRA",
        f"rank {config['lora_r']}, alpha {config.get('lora_alpha')}, dropout {config.get('lora_dropout'):g}",
    )
    given = (facts.run.record.get("config") or {}).get("lora_target_modules")
    # An expression's backslashes separate no folders.
    kept = redacted({"names": setting_text(given).replace("\\", "\0")})["names"].replace("\0", "\\")
    yield "LoRA on", "all linear layers" if kept == "all-linear" else code(kept)


def _steps(facts: Facts) -> str:
    step, planned = facts.record.get("step"), facts.record.get("num_steps")
    epochs = [row["epoch"] for row in facts.rows if isinstance(row.get("epoch"), int | float)]
    if not isinstance(step, int):
        return ""
    told = f"{step:,}" + (
        f" of {planned:,}, ended early" if isinstance(planned, int) and planned > step else ""
    )
    return told + (f" ({quantity(round(epochs[-1], 2), 'epoch')})" if epochs else "")


def _rate(config: Mapping[str, Any]) -> str:
    if not isinstance(rate := config.get("learning_rate"), int | float):
        return ""
    told = [f"{rate:g}", plain(config.get("lr_scheduler_type") or "")]
    warmup = config.get("warmup_steps")
    return ", ".join([*filter(None, told), *([f"warm-up {warmup_text(warmup)}"] if warmup else [])])


def _batch(facts: Facts) -> str:
    size, answers = facts.config.get("global_batch_size"), facts.config.get("num_generations")
    if not isinstance(size, int):
        return ""
    told = quantity(size, "row") + " a step"
    if isinstance(answers, int) and answers:
        told = f"{quantity(size // answers, 'prompt')} a step, {quantity(answers, 'answer')} each"
    micro, devices = (
        facts.number("choice", "per_device_train_batch_size"),
        facts.number("machine", "num_devices"),
    )
    over = f" on each of {int(devices)} devices" if devices and devices > 1 else ""
    return told + (f", {int(micro)} at a time{over}" if micro else "")


def _rewards(facts: Facts) -> str:
    given = facts.config.get("rewards") or ()
    told = [
        f"{code(shown(str(each.get('function'))))} (weight {each.get('weight', 1):g})"
        for each in given
        if isinstance(each, Mapping) and each.get("function")
    ]
    return ", ".join(told)


def _other_settings(facts: Facts) -> Iterator[tuple[str, str]]:
    provenance, raw = facts.part("provenance"), facts.run.record.get("config") or {}
    for name, value in facts.config.items():
        if name in _NOT_REPEATED or str(provenance.get(name, "default")).startswith("default"):
            continue
        if name in _PATHS and isinstance(raw.get(name), str):
            yield name, name_of(raw[name], facts.run)
        else:
            yield name, setting_text(value)
    trl = facts.config.get("trl")
    for name, value in trl.items() if isinstance(trl, Mapping) else ():
        if name not in _OF_THE_MACHINE:
            yield f"trl.{name}", _without_folders(setting_text(value))


def _without_folders(text: str) -> str:
    """The last part of what looks like a path here; other texts, Hub ids too, as they are."""
    is_id = HUB_ID.fullmatch(text) and not Path(text).suffix
    return text if " " in text or "/" not in text or is_id else shown(text)


def _drift(facts: Facts) -> str:
    found = facts.record.get("drift")
    told = [
        f"{code(each.get('key'))} from step {each.get('step')} on"
        for each in (found if isinstance(found, list) else [])
        if isinstance(each, Mapping) and each.get("key")
    ]
    return (
        f"Changed on the way, when the run went on after an interruption: {', '.join(told)}." if told else ""
    )


# --- limits


def _limits(facts: Facts) -> Iterator[str]:
    rows, evaluated = facts.number("data", "num_rows"), facts.number("data", "num_eval_rows")
    scored = facts.number("results", "num_rows")
    if rows:
        yield f"It learned from {quantity(int(rows), 'row')}. What they don't show, it wasn't taught."
    if scored or evaluated:
        told = " and ".join(quantity(int(each), "row") for each in (scored, evaluated) if each)
        yield (
            f"It was evaluated on {told} that it wasn't trained on, and on nothing else: how it answers "
            "other requests isn't known."
        )
    else:
        yield "It was not evaluated on anything that it wasn't trained on."
    yield (
        "Nothing here tests its safety, its bias or whether what it says is true. "
        + f"What {base_link(facts)} knows, gets wrong and leans to, it inherits."
    )
    yield from _limits_of_data(facts)
    yield from _limits_of_base(facts)


def _limits_of_data(facts: Facts) -> Iterator[str]:
    if cut := int(facts.number("data", "num_cut") or 0):
        longest = facts.config.get("max_length")
        told = f" of {longest:,} tokens" if isinstance(longest, int) else ""
        what = (
            "left out" if facts.method and facts.method.kind == "prompts" else "cut, and their ends not seen"
        )
        yield f"{quantity(cut, 'row')} longer than `max_length`{told} were {what}."
    allowed = [str(each) for each in facts.config.get("allow") or ()]
    found = {match[1] for note in facts.record.get("notes") or () if (match := _CODE.match(str(note)))}
    for name in sorted(found.intersection(allowed, CODES)):  # the note itself may quote a row
        yield f"A fault that was found in the data was allowed: {plain(CODES[name].title)} ({code(name)})."


def _limits_of_base(facts: Facts) -> Iterator[str]:
    if facts.config.get("tuning") == "qlora":
        yield "It was trained on its base in 4 bit: on the base in 16 bit it answers a little differently."
    if needs_own_base(facts) and facts.base is not None:
        yield "The adapter is of use with exactly the base that it was trained on: with no other one."
    if facts.config.get("trust_remote_code"):
        yield "Its base brings code of its own, which runs on your machine when it is loaded."
    licence = facts.base.licence if facts.base else None
    if licence is None:
        yield "No licence is stated here: those of its base and of its data apply, and the card knows none."
    elif any(each.licence is None for each in facts.sources):
        yield "The licence is that of its base. Whether the data allow the same wasn't found out."
