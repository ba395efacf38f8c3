"""What is exported: the model of a run that is done, or a model folder or Hub id, maybe with an adapter."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tunesmith.config.run_config import RunConfig
from tunesmith.data.model_files import check_model_files, refuse_pickles
from tunesmith.data.tokenizer import load_tokenizer, model_sentence, vocabulary_size
from tunesmith.errors import ConfigError, ModelError, RunFolderError
from tunesmith.runs.fingerprint import model_fingerprint
from tunesmith.runs.folder import RunFolder
from tunesmith.train.origin import Origin, origin_of_run

ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Trained:
    """A trained model: the base (with an adapter), where its tokenizer lies, and the run that made it.

    `base`, `adapter` and `tokenizer_source` are folders or Hub ids, fetched when they are first needed;
    `four_bit` says that the adapter was trained on the base in NormalFloat4.
    """

    name: str
    base: str
    revision: str | None
    tokenizer_source: str
    adapter: Path | None = None
    four_bit: bool = False
    run: RunFolder | None = None

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer, with its chat template."""
        return load_tokenizer(RunConfig(model=self.tokenizer_source, dataset="-"))

    @cached_property
    def base_path(self) -> Path:
        """The folder of the base on this machine."""
        return _folder(self.base, self.revision)

    @cached_property
    def architectures(self) -> list[str]:
        """The base's classes in transformers; empty where its configuration names none."""
        from transformers import PretrainedConfig

        found, _ = PretrainedConfig.get_config_dict(self.base_path)
        return list(found.get("architectures") or [])

    @cached_property
    def vocab_size(self) -> int:
        """How many tokens there are, by the base's configuration, else by the tokenizer."""
        return vocabulary_size(RunConfig(model=str(self.base_path), dataset="-")) or len(self.tokenizer)

    @cached_property
    def adapter_path(self) -> Path | None:
        """The folder of the adapter on this machine."""
        return _folder(str(self.adapter), None) if self.adapter else None


def trained_by(run: RunFolder) -> Trained:
    """The model of a run.

    Raises:
        RunFolderError: the run isn't done, or made a reward model.
        ModelError: its base has other weights by now.
    """
    if run.status() != "done" or not run.model_path.is_dir():
        raise RunFolderError(
            f"{run.path} is {run.status()}: only a run that is done has a model to export",
            where=str(run.path),
            fix=f"tunesmith resume {run.path}" if run.status() in ("stopped", "killed") else "tunesmith runs",
        )
    origin: Origin = origin_of_run(run)
    _refuse_other_base(run, origin)
    return Trained(
        name=run.path.name,
        base=origin.model,
        revision=origin.revision,
        tokenizer_source=str(run.model_path),
        adapter=origin.adapter,
        four_bit=origin.was_quantized,
        run=run,
    )


def _refuse_other_base(run: RunFolder, origin: Origin) -> None:
    """An adapter on other weights than it was trained on says something else, and nothing else would tell."""
    known = (run.record.get("base") or {}).get("fingerprint")
    if origin.adapter is None or known is None or run.record["config"].get("init_from"):
        return
    found = model_fingerprint(origin.model, origin.revision)
    if found is not None and found != known:
        raise ModelError(
            f"{origin.model} isn't the base that {run.path} was trained on any more",
            where=origin.model,
            fix="put the weights back that it had then, or train again",
        )


def trained_elsewhere(model: str, adapter: str | None, revision: str | None = None) -> Trained:
    """A model folder or Hub id; `adapter` is a folder or Hub id too.

    A folder or repository that is an adapter names its base itself.

    Raises:
        ConfigError: the adapter names no base, or `model` and `adapter` are both adapters.
        ModelError, DownloadError: it isn't there, or is refused.
    """
    folder = _folder(model, revision)
    if not (folder / ADAPTER_CONFIG).is_file():
        lies = _folder(adapter, None) if adapter else None
        tokenizer = str(lies) if lies and (lies / "tokenizer_config.json").is_file() else str(folder)
        return Trained(_name(adapter or model), model, revision, tokenizer, lies)
    if adapter is not None:
        raise ConfigError(
            f"{model} is an adapter itself",
            where="--adapter",
            fix=f"tunesmith export {model}, or name the base before --adapter",
        )
    base = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8")).get("base_model_name_or_path")
    if not base:
        raise ConfigError(
            f"{model} is an adapter that names no base",
            where=ADAPTER_CONFIG,
            fix=f"tunesmith export BASE --adapter {model}",
        )
    has_own = (folder / "tokenizer_config.json").is_file()
    return Trained(_name(model), str(base), None, str(folder) if has_own else str(base), folder)


def _name(model: str) -> str:
    return Path(model.rstrip("/\\")).name or "model"


def _folder(model: str, revision: str | None) -> Path:
    """The folder itself, or the snapshot of a Hub repository: configuration, tokenizer and safetensors."""
    local = Path(model).expanduser()
    if local.is_dir():
        refuse_pickles(model)
        check_model_files(model)
        return local
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise ModelError(
            f"there is no run, folder or Hub model {model}",
            where=model,
            fix="tunesmith runs lists the runs; a Hub id is OWNER/NAME",
        )
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            model,
            revision=revision,
            allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"],
        )
    except (
        Exception
    ) as error:  # the Hub's and the network's are many; each becomes a sentence (test_export_cli.py)
        raise model_sentence(model, error, "model", revision) from error
    refuse_pickles(found)
    check_model_files(found)
    return Path(found)
