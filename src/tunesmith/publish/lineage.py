"""What a run was made from, as others may know it: its base model and its data sets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.reasoning_gym import is_reasoning_gym
from tunesmith.data.sources import LOADERS
from tunesmith.publish.licence import Licence, licence_of
from tunesmith.publish.redaction import HUB_ID, redacted
from tunesmith.runs.folder import RunFolder

_NAME_ON_HUB = re.compile(r"[A-Za-z0-9_][\w.-]*")
# A mixture of more is asked about no further: the card has to be written soon.
_ASKED = 8


@dataclass(frozen=True)
class Base:
    """The model that a run began from. `hub_id` is None where it came from a folder.

    `run` names the earlier run that stands between the base and this one; `fingerprint` is that of its files,
    or its commit on the Hub.
    """

    name: str
    hub_id: str | None
    fingerprint: str | None
    licence: Licence | None
    run: str | None = None


@dataclass(frozen=True)
class Source:
    """A data set of a run; `num_rows` is how many of its rows were trained on, where that is known."""

    name: str
    hub_id: str | None
    parts: str
    layout: str
    num_rows: int | None
    weight: float | None
    licence: Licence | None


def base_of(run: RunFolder) -> Base | None:
    """The base model of a run, or None where its record names none."""
    config, base = run.record.get("config") or {}, run.record.get("base") or {}
    model = base.get("model") or config.get("model")
    if not isinstance(model, str):
        return None
    # Of a base with an adapter merged into it there are two.
    fingerprint = (str(base.get("fingerprint") or "").split(" + ")[0]) or None
    earlier, revision = config.get("init_from"), config.get("model_revision")
    if earlier and model == earlier:  # an early record, which doesn't say what that began from
        return Base("the model of an earlier run", None, None, None, shown(earlier))
    is_of_hub = _is_of_hub(model, run, fingerprint)
    return Base(
        name=shown(model, is_of_hub=is_of_hub),
        hub_id=model if is_of_hub else None,
        fingerprint=fingerprint,
        licence=licence_of(model, is_of_hub=is_of_hub, revision=None if earlier else revision),
        run=shown(earlier) if earlier else None,
    )


def sources_of(run: RunFolder) -> list[Source]:
    """The data sets of a run in their order."""
    config, data = run.record.get("config") or {}, run.record.get("data") or {}
    dataset = config.get("dataset")
    given = dataset if isinstance(dataset, list) else []
    if isinstance(dataset, str):
        single = {"path": dataset, "config": config.get("dataset_config")}
        given = [{**single, "split": config.get("dataset_train_split")}]
    entries = [each for each in given if isinstance(each, Mapping) and isinstance(each.get("path"), str)]
    return [_source(run, each, data, index, is_alone=len(entries) == 1) for index, each in enumerate(entries)]


def name_of(path: str, run: RunFolder) -> str:
    """What others may know a model or data set by: its Hub id, or the last part of its path."""
    return shown(path, is_of_hub=is_reasoning_gym(path) or _is_of_hub(path, run))


def _source(
    run: RunFolder, given: Mapping[str, Any], data: Mapping[str, Any], index: int, *, is_alone: bool
) -> Source:
    path = given["path"]
    is_of_hub = not is_reasoning_gym(path) and _is_of_hub(path, run)
    taken = data.get("num_rows") if is_alone else (data.get("mixture") or {}).get(f"{path}#{index}")
    parts = [given.get("config"), given.get("split") if is_of_hub or given.get("split") != "train" else None]
    weight = given.get("weight")
    return Source(
        name=shown(path, is_of_hub=is_of_hub or is_reasoning_gym(path)),
        hub_id=path if is_of_hub else None,
        parts=", ".join(redacted({"parts": [str(each) for each in parts if each]})["parts"]),
        layout=str((data.get("formats") or {}).get(path) or ""),
        num_rows=taken if isinstance(taken, int) else None,
        weight=weight if isinstance(weight, int | float) else None,
        licence=licence_of(path, "dataset", is_of_hub=is_of_hub) if index < _ASKED else None,
    )


def _is_of_hub(name: str, run: RunFolder, fingerprint: str | None = None) -> bool:
    """Whether a name is a Hub id and no path: by the fingerprint where there is one, else by what lies here.

    A run stands two folders below the one in which it was begun.
    """
    if fingerprint is not None:
        return fingerprint.startswith("commit:") and bool(
            HUB_ID.fullmatch(name) or _NAME_ON_HUB.fullmatch(name)
        )
    if not HUB_ID.fullmatch(name) or Path(name).suffix.lower() in LOADERS:
        return False
    return not any((place / name).exists() for place in (Path(), run.path.resolve().parent.parent))


def shown(path: str, *, is_of_hub: bool = False) -> str:
    """A Hub id as it is; of a path its last part, without what is this machine's."""
    last = path if is_of_hub else re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return str(redacted({"name": last})["name"]) or "a folder"
