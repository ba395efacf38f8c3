"""The model card of a finished run: what a stranger needs to use the model, and to judge it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tunesmith.publish.card_facts import Facts, facts_of
from tunesmith.publish.card_results import (
    before_and_after,
    curve_section,
    exported_section,
    headline,
    planned_section,
)
from tunesmith.publish.card_training import base_link, data_section, limits_section, training_section
from tunesmith.publish.card_usage import how_to_run, needs_own_base
from tunesmith.publish.markdown import code, plain
from tunesmith.runs.figures import count, quantity
from tunesmith.runs.folder import RunFolder

# The last line of a card: by it one that a person has changed is told from one that may be written anew.
_SEAL = re.compile(r"<!-- tunesmith card (?P<digest>[0-9a-f]{64}): once changed, it is left alone -->\n")


def card(run: RunFolder, repo_id: str, *, has_picture: bool, exported: Sequence[dict[str, Any]] = ()) -> str:
    """The README.md of a run's repository, front matter and all; `has_picture`: loss.png is beside it;
    `exported` are what run.json says of the exported files beside it.

    What isn't recorded is left out. Of the network only the licences of the base and of data sets are asked,
    and left out where it doesn't answer. The same run gives the same card.

    Raises:
        SecretError: the record can't be cleaned of what is private.
    """
    facts = facts_of(run, repo_id, exported)
    sections = [
        f"# {repo_id.rpartition('/')[2]}",
        _summary(facts),
        headline(facts),
        how_to_run(facts),
        data_section(facts),
        before_and_after(facts),
        training_section(facts),
        curve_section(facts, has_picture=has_picture),
        planned_section(facts),
        exported_section(facts),
        limits_section(facts),
        _made_with(facts),
    ]
    body = "\n\n".join(each for each in sections if each)
    text = f"---\n{_front_matter(facts)}---\n\n{body}\n\n"
    return f"{text}<!-- tunesmith card {_digest(text)}: once changed, it is left alone -->\n"


def is_ours(text: str) -> bool:
    """Whether a README.md is a card as Tunesmith wrote it, of this run or another, and unchanged."""
    seal = list(_SEAL.finditer(text))[-1:]
    return bool(seal) and seal[0].end() == len(text) and seal[0]["digest"] == _digest(text[: seal[0].start()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _front_matter(facts: Facts) -> str:
    """The metadata as YAML, by huggingface_hub."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(**_metadata(facts), **_evaluations(facts))
    return f"{data.to_yaml().rstrip()}\n"


def _metadata(facts: Facts) -> dict[str, Any]:
    base, datasets = facts.base, [each.hub_id for each in facts.sources if each.hub_id]
    told: dict[str, Any] = {
        "library_name": "peft" if facts.has_adapter else "transformers",
        # A pipeline of transformers for scores would read them as classes.
        "pipeline_tag": None if facts.is_reward_model else "text-generation",
        "tags": list(_tags(facts)),
        "datasets": list(dict.fromkeys(datasets)) or None,
    }
    if base is not None and base.hub_id and not needs_own_base(facts):
        told |= {
            "base_model": base.hub_id,
            "base_model_relation": "adapter" if facts.has_adapter else "finetune",
        }
    if base is not None and base.licence is not None:
        told["license"] = base.licence.id
        if base.licence.id == "other":
            told |= {"license_name": base.licence.name, "license_link": base.licence.link}
    return {key: value for key, value in told.items() if value}


def _tags(facts: Facts) -> Iterator[str]:
    yield "tunesmith"
    yield "trl"
    if facts.method:
        yield facts.method_name
    if facts.has_adapter:
        yield "lora"
    if any(str(each.get("format")).startswith("gguf") for each in facts.exported):
        yield "gguf"


def _evaluations(facts: Facts) -> dict[str, Any]:
    """The last evaluation in the form of the Hub's model-index, which is for data sets of the Hub."""
    from huggingface_hub import EvalResult

    hub_ids = [each.hub_id for each in facts.sources]
    raw = facts.run.record.get("config") or {}
    if len(hub_ids) != 1 or hub_ids[0] is None or raw.get("eval_dataset") or not facts.has_eval():
        return {}
    losses = [value for _, value in facts.curve.evaluation]
    if not losses or facts.curve.name != "loss":
        return {}
    value = min(losses) if facts.config.get("load_best_model_at_end") else losses[-1]
    split = facts.config.get("dataset_test_split")
    found = EvalResult(
        task_type="text-generation",
        dataset_type=hub_ids[0],
        dataset_name=hub_ids[0],
        dataset_config=facts.config.get("dataset_config"),
        dataset_split=str(split or facts.config.get("dataset_train_split") or "train"),
        metric_type="loss",
        metric_name="evaluation loss" if split else "evaluation loss on rows held out of the split",
        metric_value=round(value, 6),
    )
    return {"eval_results": [found], "model_name": facts.repo_id.rpartition("/")[2]}


def _summary(facts: Facts) -> str:
    what = "A LoRA adapter for" if facts.has_adapter else "A full fine-tune of"
    rows = facts.number("data", "num_rows")
    size = facts.number("model", "num_params")
    base = base_link(facts) + (f" ({count(int(size))} parameters)" if size else "")
    base = f"the model of an earlier run, which began from {base}" if facts.base and facts.base.run else base
    names = [plain(each.name) for each in facts.sources]
    on = f" on {quantity(int(rows), 'row')}" if rows else ""
    on += f" of {', '.join(names[:3])}{' and others' if len(names) > 3 else ''}" if on and names else ""
    how = f" by {code(facts.method_name)} ({facts.method.title})" if facts.method else ""
    text = "" if not facts.is_reward_model else " It scores answers, and writes none."
    return f"{what} {base}, trained{on}{how}.{text}"


def _made_with(facts: Facts) -> str:
    """The last line: version, run and day."""
    told = [f"Tunesmith {plain(facts.record.get('tunesmith') or '')}".strip()]
    if facts.record.get("id"):
        told.append(f"run {code(facts.record['id'])}")
    if facts.record.get("created_at"):
        told.append(f"begun on {plain(str(facts.record['created_at'])[:10])}")
    text = "This card is written from the run's own record; what the record doesn't hold isn't told."
    return "\n\n".join(["## Made with", f"{', '.join(told)}. {text}"])
