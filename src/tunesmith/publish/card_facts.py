"""What a model card is written from: a run's record without what is this machine's, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.config.methods import METHODS, Method
from tunesmith.publish.curve import Curve, curve_of
from tunesmith.publish.lineage import Base, Source, base_of, sources_of
from tunesmith.publish.redaction import redacted
from tunesmith.runs.folder import RunFolder

# The keys of run.json that a card tells of; the others are not even looked at.
_TOLD = (
    "id", "created_at", "tunesmith", "versions", "method", "config", "provenance", "data", "model", "machine",
    "choice", "plan", "actual", "num_steps", "step", "notes", "results", "export", "resumed_from", "drift",
)  # fmt: skip
# Settings that say where and under what name it was run, and nothing of the model.
_OF_THE_MACHINE = frozenset({"run_dir", "run_name", "project", "trackio_space_id", "hub", "budget"})


@dataclass(frozen=True)
class Facts:
    """A finished run, as others may know it. `record` is redacted; `rows` are those of metrics.jsonl."""

    run: RunFolder
    repo_id: str
    record: Mapping[str, Any]
    rows: list[dict[str, Any]]
    curve: Curve
    base: Base | None
    sources: list[Source]
    has_adapter: bool
    has_chat_template: bool
    exported: list[dict[str, Any]] = field(default_factory=list)

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings that the run began with."""
        return self.part("config")

    @property
    def method_name(self) -> str:
        """Such as sft; nothing where the record names none."""
        return str(self.config.get("method") or self.record.get("method") or "")

    @property
    def method(self) -> Method | None:
        """What Tunesmith knows of the method."""
        return METHODS.get(self.method_name)

    @property
    def is_reward_model(self) -> bool:
        """Whether it gives a number and no text."""
        return self.method_name == "reward"

    def part(self, key: str) -> Mapping[str, Any]:
        """A table of the record; an empty one where there is none."""
        found = self.record.get(key)
        return found if isinstance(found, Mapping) else {}

    def number(self, part: str, key: str) -> float | None:
        """A number in a table of the record, or None."""
        found = self.part(part).get(key)
        return found if isinstance(found, int | float) and not isinstance(found, bool) else None

    def has_eval(self) -> bool:
        """Whether rows were held out and evaluated on."""
        return bool(self.number("data", "num_eval_rows"))


def facts_of(run: RunFolder, repo_id: str, exported: Sequence[Mapping[str, Any]] = ()) -> Facts:
    """The facts of a run and of the exported files that go with it.

    The licences of what it was made from are asked of the Hub.

    Raises:
        SecretError: the record can't be cleaned of what is private.
    """
    told = {key: run.record[key] for key in _TOLD if key in run.record}
    if isinstance(told.get("config"), Mapping):
        told["config"] = {k: v for k, v in told["config"].items() if k not in _OF_THE_MACHINE}
    record = redacted(told)
    names = {each.get("name") for each in exported}
    entries = (record.get("export") or {}).get("files") or []
    return Facts(
        run,
        repo_id,
        record,
        run.read_metrics(),
        curve_of(run),
        base_of(run),
        sources_of(run),
        has_adapter=(run.model_path / "adapter_config.json").is_file(),
        has_chat_template=_has_chat_template(run),
        exported=[each for each in entries if isinstance(each, dict) and each.get("name") in names],
    )


def _has_chat_template(run: RunFolder) -> bool:
    """Whether the model is talked to in turns: it has a template, and was trained on more than plain text."""
    layouts = set(((run.record.get("data") or {}).get("formats") or {}).values())
    if layouts == {"text"} or run.record.get("method") == "cpt":
        return False
    if (run.model_path / "chat_template.jinja").is_file():
        return True
    settings = run.model_path / "tokenizer_config.json"
    return settings.is_file() and '"chat_template"' in settings.read_text(encoding="utf-8", errors="replace")
