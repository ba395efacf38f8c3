"""What a stranger's model folder or repository may not ask for: code, pickles, files outside of it.

Read before transformers reads the same files. transformers 5.23 refuses code unless told, and puts its own
paths over those that tokenizer_config.json states; but it opens `vocab`, `gguf_file` and a file of
`fast_tokenizer_files` wherever they lead, and pickled shards that an index of safetensors names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from tunesmith.errors import ModelError

CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
_INDEX = "model.safetensors.index.json"
# The largest of real models has 2 MB, for thousands of added tokens.
_MOST_BYTES = 64 << 20
# transformers doesn't open these, and old models keep paths of whoever saved them in them.
_LEFTOVERS = {"special_tokens_map_file", "name_or_path", "tokenizer_file"}
_FILES = {"vocab", "merges", "fast_tokenizer_files"}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
_WEIGHTS = (("model*.safetensors", "pytorch_model*"), ("adapter_model*.safetensors", "adapter_model*"))


class Code(NamedTuple):
    """Code that a model brings: the files, and the folder or the page of the revision to read them in."""

    files: tuple[str, ...]
    where: str
    revision: str | None


def check_model_files(model: str, revision: str | None = None, *, trust_remote_code: bool = False) -> None:
    """Make sure that what a model's JSON files state leads to nothing outside of it.

    A file that is missing, or no JSON, is left to the loader to tell of.

    Raises:
        ModelError: one names a file outside, a GGUF file, kernels to fetch, or is too large to be honest.
    """
    for name in (TOKENIZER_CONFIG, CONFIG):
        path = _find(model, name, revision)
        stated = None if path is None else _read(path, model)
        if path is None or stated is None:
            continue
        for key, value in _paths(stated):
            if _leads_out(value, path.parent, leftover=key in _LEFTOVERS):
                raise _refused(model, f"{key} of {name} leads out of it, to {value!r}")
        if name == TOKENIZER_CONFIG:
            _check_templates(model, stated)
            if stated.get("gguf_file"):
                raise _refused(model, f"{name} sends the tokenizer to the GGUF file {stated['gguf_file']!r}")
        elif not trust_remote_code:
            _refuse_kernels(model, stated)


def refuse_pickles(model: str, revision: str | None = None) -> None:
    """Make sure that a model's weights are safetensors; of a Hub model what the cache holds is looked at.

    Raises:
        ModelError: they are pickles, which can run code, or an index names other files.
    """
    folder = _folder(model, revision)
    if folder is None:
        return
    for safe, pickled in _WEIGHTS:
        found = sorted(path.name for kind in _PICKLES for path in folder.glob(kind) if path.match(pickled))
        if found and not any(folder.glob(safe)):
            raise _refused(model, f"its weights are pickles, which can run code: {', '.join(found[:3])}")
    index = _read(folder / _INDEX, model) if (folder / _INDEX).is_file() else {}
    named = (index or {}).get("weight_map")
    for value in named.values() if isinstance(named, dict) else ():
        if not _is_shard(value):
            raise _refused(model, f"{_INDEX} names {value!r}, which is no safetensors file of it")
    config = _read(folder / CONFIG, model) if (folder / CONFIG).is_file() else {}
    weights = (config or {}).get("transformers_weights")
    if weights is not None and not (
        isinstance(weights, str) and _is_shard(weights.removesuffix(".index.json"))
    ):
        raise _refused(model, f"transformers_weights of {CONFIG} is {weights!r}, no safetensors file of it")


def code_of(model: str, revision: str | None = None) -> Code:
    """The code that a model's files name in `auto_map`; only what is on this machine is read."""
    files: dict[str, None] = {}
    where, commit = model, revision
    for name in (CONFIG, TOKENIZER_CONFIG):
        path = _find(model, name, revision, fetch=False)
        try:
            stated = None if path is None else _read(path, model)
        except ModelError:  # said when it is loaded
            continue
        if path is None or stated is None:
            continue
        if _local(model) is None:
            commit = path.parent.name
            where = f"https://huggingface.co/{model}/tree/{commit}"
        for reference in _strings(stated.get("auto_map")):
            # OWNER/NAME--module.Class is code of another repository.
            owner, _, inner = reference.rpartition("--")
            file = f"{inner.rpartition('.')[0].replace('.', '/')}.py"
            files[f"{file} of {owner}" if owner else file] = None
    return Code(tuple(files), where, commit)


def needs_code(model: str, revision: str | None = None) -> ModelError:
    """The error for a model that can't be loaded without its own code: which files to read, and where."""
    code = code_of(model, revision)
    named = ": " + ", ".join(code.files[:6]) if code.files else ""
    pinned = f" and model_revision: {code.revision}" if code.revision and code.where != model else ""
    return ModelError(
        f"{model} wants to run its own code{named}",
        where=code.where,
        fix=f"read that code, then set trust_remote_code: true{pinned}",
    )


def _paths(stated: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in stated.items():
        if key.endswith("_file") or key in _LEFTOVERS or key in _FILES:
            yield from (
                (key, each) for each in (value if isinstance(value, list) else [value]) if _is_text(each)
            )


def _leads_out(value: str, folder: Path, *, leftover: bool) -> bool:
    """Whether a path goes up, or is one of this machine. A whole path that isn't here was its author's."""
    if "\0" in value:
        return True
    posix, windows = PurePosixPath(value), PureWindowsPath(value)
    if not (posix.is_absolute() or windows.is_absolute() or windows.drive or value.startswith("~")):
        return ".." in windows.parts and not (leftover and "/" not in value and "\\" not in value)
    if leftover:
        return False
    try:
        path = Path(value).expanduser()
        return path.exists() and not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a name too long, a home that doesn't exist
        return True


def _check_templates(model: str, stated: Mapping[str, Any]) -> None:
    given = stated.get("chat_template")
    for each in given if isinstance(given, list) else ():
        name = each.get("name") if isinstance(each, dict) else None
        if not _is_text(name) or set(str(name)) & set("/\\\0") or str(name).startswith("."):
            raise _refused(model, f"the name of a chat template of {TOKENIZER_CONFIG} is a path, {name!r}")


def _refuse_kernels(model: str, stated: Mapping[str, Any]) -> None:
    for key, value in stated.items():
        if key.endswith(("attn_implementation", "experts_implementation")):
            fetched = [each for each in _strings(value) if "/" in each]
            if fetched:
                raise _refused(model, f"{key} of {CONFIG} has kernels fetched and run: {fetched[0]!r}")


def _is_shard(value: Any) -> bool:
    return _is_text(value) and value.endswith(".safetensors") and not set(value) & set("/\\\0")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def _read(path: Path, model: str) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none.

    Raises:
        ModelError: it is far larger, or nested far deeper, than such files are.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise _refused(model, f"{path.name} has {path.stat().st_size >> 20:,} MiB")
        found = json.loads(path.read_text("utf-8"))
    except RecursionError:
        raise _refused(model, f"{path.name} is nested without measure") from None
    except ModelError:
        raise
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _local(model: str) -> Path | None:
    try:
        path = Path(model).expanduser()
        return path if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):
        return None


def _folder(model: str, revision: str | None) -> Path | None:
    """A folder, or the snapshot of a Hub model in the cache."""
    config = None if _local(model) else _find(model, CONFIG, revision, fetch=False)
    return _local(model) or (config.parent if config else None)


def _find(model: str, name: str, revision: str | None, *, fetch: bool = True) -> Path | None:
    """Where a file of the model lies; None where it can't be had, which the loader tells in its own words."""
    folder = _local(model)
    if folder:
        return folder / name if (folder / name).is_file() else None
    try:
        if not fetch:
            from huggingface_hub import try_to_load_from_cache

            found = try_to_load_from_cache(model, name, revision=revision)
        else:
            from transformers.utils.hub import cached_file

            found = cached_file(model, name, revision=revision)
    except Exception:  # no such model, no network: many kinds (test_bad_input.py)
        return None
    return Path(found) if isinstance(found, str) else None


def _refused(model: str, reason: str) -> ModelError:
    pickled = "pickle" in reason or "safetensors" in reason
    return ModelError(
        f"the model {model} is refused: {reason}",
        where=model,
        fix="ask its author for safetensors, or take a revision that has them"
        if pickled
        else "read that file; mend it in a copy of your own if you trust the rest",
    )
