"""What differs between the configuration that a run began with and the one that it is to go on with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.config.layers import TABLES
from tunesmith.config.loading import LoadedConfig, nearest, with_tuning
from tunesmith.config.run_config import RunConfig
from tunesmith.errors import ConfigError, RunFolderError

# What may differ as one likes: where things lie, what is logged and saved, who is told, what it may cost.
_FREE = {
    "run_dir", "project", "run_name", "trackio_space_id", "logging_steps", "save_steps", "save_total_limit",
    "budget", "hub", "max_minutes",
    "num_processes",  # the number itself is compared, as world_size
}  # fmt: skip
_FREE_OF_TRL = {
    "report_to", "project", "run_name", "log_level", "log_level_replica", "log_on_each_node", "disable_tqdm",
    "push_to_hub", "trackio_space_id", "trackio_static_space_id", "trackio_bucket_id", "log_completions",
    "log_completions_hub_repo", "log_unique_prompts", "log_multimodal", "num_completions_to_print",
    "include_num_input_tokens_seen", "include_tokens_per_second",
}  # fmt: skip
_FREE_BEGINNINGS = ("logging_", "save_", "hub_", "wandb_")
# What no key of the configuration says.
DATA, BASE, WORLD_SIZE = "data", "base", "world_size"
_MEANT = {
    DATA: "data (fingerprint of the rows)",
    BASE: "base (fingerprint of the model)",
    WORLD_SIZE: "world_size (processes)",
}
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Difference:
    """A key and its values; None stands for one that isn't set. `free` is a run that is only made longer."""

    key: str
    before: Any
    now: Any
    free: bool = False

    def __str__(self) -> str:
        return f"{_MEANT.get(self.key, self.key)} was {_shown(self.before)} and is {_shown(self.now)}"


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], num_steps: int | None = None
) -> list[Difference]:
    """The keys, by name, in which two configurations as run.json keeps them make different runs.

    `num_steps` are those of the whole run as it began. Keys of tables are called `trl.KEY`.
    """
    one, other = _flat(before), _flat(now)
    found = []
    for key in sorted(one.keys() | other.keys()):
        old, new = one.get(key), other.get(key)
        if old == new or _is_free(key) or (key == "model" and before.get("init_from") and now["init_from"]):
            continue
        if key == "num_train_epochs" and now.get("max_steps") is not None:
            continue  # max_steps overrules it
        found.append(Difference(key, old, new, _only_longer(key, old, new, num_steps)))
    return found


def measured(record: Mapping[str, Any], **now: Any) -> list[Difference]:
    """The differences in `data`, `base` and `world_size`, given by what they are now.

    What run.json doesn't tell, and what is None now, isn't compared.
    """
    before = {
        DATA: (record.get("data") or {}).get("fingerprint"),
        BASE: (record.get("base") or {}).get("fingerprint"),
        WORLD_SIZE: (record.get("machine") or {}).get("num_devices"),
    }
    return [
        Difference(key, before[key], value)
        for key, value in now.items()
        if value is not None and before[key] is not None and before[key] != value
    ]


def as_it_began(loaded: LoadedConfig, began: RunConfig, provenance: Mapping[str, str]) -> LoadedConfig:
    """The configuration given, with what nobody chose, neither then nor now, left as the run began.

    That is what set-up filled in (`tuning: auto`, logging_steps), and defaults that another version of
    Tunesmith has.
    """
    if loaded.config.tuning == "auto" and began.tuning in ("lora", "full"):
        loaded = with_tuning(loaded, began.tuning)
    config = loaded.config
    if (config.method, config.tuning) != (began.method, began.tuning):
        return loaded  # then defaults differ for a reason

    def unchosen(key: str, was_there: bool = True) -> bool:
        sources = loaded.provenance.get(key, "default"), provenance.get(key, "" if was_there else "default")
        return all(source.startswith("default") for source in sources)

    kept = {name: getattr(began, name) for name in RunConfig.model_fields if unchosen(name)}
    for name in {*TABLES, "model"} & kept.keys():  # a model that nobody named is that of init_from
        del kept[name]
    left = {name for name in {*config.trl, *began.trl} if unchosen(f"trl.{name}", name in began.trl)}
    of_trl = {name: value for name, value in config.trl.items() if name not in left}
    of_trl |= {name: value for name, value in began.trl.items() if name in left}
    return loaded._replace(config=config.model_copy(update=kept | {"trl": of_trl}))


def refuse_drift(
    run: str, found: Iterable[Difference], allowed: Collection[str], otherwise: str
) -> list[Difference]:
    """`found`, when each may be: the run is only made longer by it, or its key is allowed.

    `run` is the folder, `otherwise` what else can be done.

    Raises:
        RunFolderError: it names every other one, before and now, and the flags that allow them.
    """
    found = list(found)
    refused = [each for each in found if not each.free and each.key not in allowed]
    if refused:
        flags = " ".join(f"--allow-drift {each.key}" for each in refused)
        own = all(each.key in _MEANT for each in refused)
        claim = "can't go on as it began" if own else "belongs to another run, or to this one as it was"
        raise RunFolderError(
            f"{run} {claim}: {'; '.join(map(str, refused))}",
            where=run,
            fix=f"{flags} goes on all the same; or {otherwise}",
        )
    return found


def check_allowed(keys: Iterable[str]) -> None:
    """Make sure that each of `keys` is one in which runs can differ.

    Raises:
        ConfigError: one isn't.
    """
    known = [*RunConfig.model_fields, *_MEANT]
    for key in keys:
        if key not in known and not key.startswith("trl."):
            near = nearest(key, known)
            raise ConfigError(
                f"there is no key {key!r} to allow drift of",
                where="flag --allow-drift",
                fix=f"did you mean {near}?" if near else "give a key of the configuration, or data or base",
            )


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in config.items() if key not in TABLES}
    for table in TABLES:
        flat |= {f"{table}.{key}": value for key, value in (config.get(table) or {}).items()}
    return flat


def _is_free(key: str) -> bool:
    table, _, name = key.partition(".")
    if table == "trl":
        return name in _FREE_OF_TRL or name.startswith(_FREE_BEGINNINGS)
    return table in _FREE


def _only_longer(key: str, before: Any, now: Any, num_steps: int | None) -> bool:
    if key == "max_steps":
        steps = before or num_steps
        return now is not None and steps is not None and now >= steps
    return key == "num_train_epochs" and now > before


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
