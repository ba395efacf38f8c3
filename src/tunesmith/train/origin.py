"""Where a run starts: a model as it is, or what an earlier run made of one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunesmith.config.run_config import RunConfig
from tunesmith.errors import RunFolderError
from tunesmith.runs.folder import RunFolder


@dataclass(frozen=True)
class Origin:
    """The model to load, the adapter to merge into it, and where the tokenizer lies."""

    model: str
    revision: str | None
    tokenizer: str
    adapter: Path | None = None
    was_quantized: bool = False


def origin_of(config: RunConfig, run: RunFolder | None = None) -> Origin:
    """The start of a run; of a `run` that goes on, the base that it wrote itself.

    Raises:
        RunFolderError: the run to start from isn't there, or isn't done.
    """
    if config.init_from is None:
        return Origin(config.model, config.model_revision, config.model)
    if run is not None and run.base_path.is_dir():
        return Origin(str(run.base_path), None, str(run.base_path))
    return origin_of_run(RunFolder.open(Path(config.init_from)), where="init_from")


def origin_of_run(earlier: RunFolder, where: str = "RUN") -> Origin:
    """What a run made, as the start of another or to be exported; `where` was it named.

    Raises:
        RunFolderError: the run isn't done, or made a reward model.
    """
    if earlier.status() != "done":
        raise RunFolderError(
            f"{earlier.path} is {earlier.status()}: it has no model to start from yet",
            where=where,
            fix=f"tunesmith resume {earlier.path}, and then go on",
        )
    model = str(earlier.model_path.resolve())
    before = earlier.record["config"]
    if before.get("method") == "reward":
        raise RunFolderError(
            f"{earlier.path} is a reward model: it gives a number, and can't answer",
            where=where,
            fix="start from a run of another method",
        )
    four_bit = before["tuning"] == "qlora"
    if before["tuning"] == "full":
        return Origin(model, None, model)
    if earlier.base_path.is_dir():
        return Origin(str(earlier.base_path.resolve()), None, model, earlier.model_path, four_bit)
    if before.get("init_from"):  # of a run that trained every weight: its model is the base
        first = RunFolder.open(Path(before["init_from"]))
        return Origin(str(first.model_path.resolve()), None, model, earlier.model_path, four_bit)
    return Origin(before["model"], before["model_revision"], model, earlier.model_path, four_bit)
