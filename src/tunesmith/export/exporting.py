"""One export: merge, convert, quantise and verify, each file there whole or not at all."""

from __future__ import annotations

import filecmp
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from tunesmith.data.gguf_support import why_no_gguf
from tunesmith.errors import ConfigError, ModelError
from tunesmith.export import converter
from tunesmith.export.asking import measure_importance, quantize
from tunesmith.export.calibration import calibration_rows
from tunesmith.export.llama_cpp import FTYPES
from tunesmith.export.merge import merge, stored_dtype
from tunesmith.export.reference import Reference, reference_of
from tunesmith.export.samples import samples_of
from tunesmith.export.trained import Trained
from tunesmith.export.verify import Verified, verify_gguf, verify_gguf_lora, verify_merged
from tunesmith.plan.parameters import stored_parameters
from tunesmith.runs.fingerprint import model_fingerprint
from tunesmith.train.host_memory import available_bytes

MERGED, GGUF, ADAPTER, GGUF_LORA = "merged", "gguf", "adapter", "gguf-lora"
FORMATS = (MERGED, GGUF, ADAPTER, GGUF_LORA)
UNQUANTIZED = {"F32", "F16", "BF16"}
Say = Callable[[str], None]
# How much more than its weights a model takes while it is read or merged (benchmarks/RESULTS.md).
_SLACK = 1.3
_ADAPTER = "adapter_model.safetensors"
_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Wanted:
    """What to export; `kinds` are llama.cpp's names of precisions, the largest first.

    `imatrix` names the data that tell which weights matter.
    """

    formats: tuple[str, ...]
    kinds: tuple[str, ...] = ("F16",)
    verify: bool = True
    imatrix: str | None = None


@dataclass(frozen=True)
class ExportedFile:
    """A file or folder that was exported; `verified` is None where nothing was compared.

    By its `fingerprint` whoever publishes it knows that it is what was compared.
    """

    path: Path
    format: str
    quantization: str | None
    size_bytes: int
    fingerprint: str | None
    verified: bool | None
    checks: dict[str, Any]
    failures: tuple[str, ...] = ()
    imatrix: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As export.json and `--json` have it."""
        checks = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in self.checks.items()
        }
        return {**vars(self), "path": str(self.path), "checks": checks, "failures": list(self.failures)}


def checked_kinds(named: Sequence[str]) -> tuple[str, ...]:
    """The precisions that a person named, as llama.cpp writes them, in the order of their sizes.

    Raises:
        ConfigError: llama.cpp has none of that name.
    """
    upper = [each.strip().upper() for each in named if each.strip()]
    unknown = [each for each in upper if each not in FTYPES]
    if unknown:
        raise ConfigError(
            f"there is no quantization {unknown[0]}",
            where="--quantize",
            fix=f"take some of {', '.join(FTYPES)}",
        )
    return tuple(dict.fromkeys(upper))


def export(trained: Trained, wanted: Wanted, folder: Path, say: Say) -> list[ExportedFile]:
    """Write what is wanted into `folder` and compare it with the trained model.

    Raises:
        ConfigError: the format can't be had of this model.
        ModelError: it can't be loaded, merged, converted or quantised, or has no room in memory.
        DataError: the data for an importance matrix can't be read.
        DownloadError: a tool or a model can't be fetched.
    """
    _refuse_impossible(trained, wanted)
    _refuse_without_room(trained, wanted)
    calibration = calibration_rows(trained, wanted.imatrix) if wanted.imatrix else None
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as scratch:
        return _Work(trained, wanted, folder, Path(scratch), calibration, say).run()


class _Work:
    """The steps of one export, and what they share."""

    def __init__(
        self,
        trained: Trained,
        wanted: Wanted,
        folder: Path,
        scratch: Path,
        calibration: list[list[int]] | None,
        say: Say,
    ) -> None:
        self.trained, self.wanted, self.say = trained, wanted, say
        self.folder, self.scratch, self.calibration = folder, scratch, calibration
        self.threads = _free_cores()

    def run(self) -> list[ExportedFile]:
        files: list[ExportedFile] = []
        if ADAPTER in self.wanted.formats:
            files.append(self._adapter())
        if GGUF_LORA in self.wanted.formats:
            files.append(self._gguf_lora())
        if {MERGED, GGUF} & set(self.wanted.formats):
            model, merged = self._model()
            files += [merged] if MERGED in self.wanted.formats else []
            if GGUF in self.wanted.formats:
                files += self._gguf(model, merged)
        return files

    @cached_property
    def reference(self) -> Reference | None:
        """What the trained model predicts, read when first asked for; None where nothing is compared."""
        if not self.wanted.verify:
            return None
        samples = samples_of(self.trained)
        self.say(f"reading {samples.source} with the trained model in fp32, to compare")
        return reference_of(self.trained, samples, self.scratch / "reference.npy")

    def _place(self, name: str, *, is_wanted: bool) -> Path:
        """Where a file or folder goes that is wanted, or only made on the way."""
        return (self.folder if is_wanted else self.scratch) / name

    def _model(self) -> tuple[Path, ExportedFile]:
        """The folder to convert from, and what was found of it."""
        reference = self.reference
        if self.trained.adapter is None and MERGED not in self.wanted.formats:
            whole = self.trained.base_path
            return whole, _entry(whole, MERGED, None, None)
        path = self._place("merged", is_wanted=MERGED in self.wanted.formats)
        with _written(path) as target:
            dtype = merge(self.trained, target, self.say)
        verified = verify_merged(path, dtype, reference) if reference else None
        return path, _entry(path, MERGED, dtype, verified)

    def _gguf(self, model: Path, merged: ExportedFile) -> list[ExportedFile]:
        first = next((each for each in self.wanted.kinds if each in ("F32", "BF16")), "F16")
        self.say(f"converting to {first}")
        source = self._place(self._name(first), is_wanted=first in self.wanted.kinds)
        self._converted(model, source, first)
        verified = self._verified(source, first, made_from=model, stage="merged to GGUF")
        begins = _entry(source, GGUF, first, verified, merged.failures)
        smaller = [kind for kind in self.wanted.kinds if kind != first]
        imatrix = self._importance(source) if smaller else None
        files = [begins] if first in self.wanted.kinds else []
        return files + [self._quantized(begins, kind, imatrix) for kind in smaller]

    def _importance(self, source: Path) -> Path | None:
        """The importance matrix that llama.cpp makes of the texts."""
        if self.calibration is None:
            return None
        count = sum(map(len, self.calibration))
        self.say(f"reading {count:,} tokens of {self.wanted.imatrix} for the importance matrix")
        made = self.scratch / "imatrix.npz"
        measure_importance(source, self.calibration, made, threads=self.threads)
        return made

    def _quantized(self, source: ExportedFile, kind: str, imatrix: Path | None) -> ExportedFile:
        path = self.folder / self._name(kind)
        with _written(path) as made:
            self.say(f"quantising to {kind}")
            quantize(source.path, made, kind, threads=self.threads, imatrix=imatrix)
        stage = f"{source.quantization} to {kind}"
        verified = self._verified(path, kind, made_from=source.path, stage=stage, imatrix=imatrix)
        entry = _entry(path, GGUF, kind, verified, source.failures)
        return replace(entry, imatrix=self.wanted.imatrix)

    def _verified(
        self, path: Path, kind: str, *, made_from: Path, stage: str, imatrix: Path | None = None
    ) -> Verified | None:
        if self.reference is None:
            return None
        self.say(f"comparing {path.name} with the trained model")
        return verify_gguf(
            path, kind, self.reference, self.trained.tokenizer,
            made_from=made_from, stage=stage, threads=self.threads, imatrix=imatrix,
        )  # fmt: skip

    def _adapter(self) -> ExportedFile:
        assert self.trained.adapter_path is not None
        path = self.folder / "adapter"
        with _written(path) as target:
            shutil.copytree(self.trained.adapter_path, target)
            self.trained.tokenizer.save_pretrained(target)
        same = filecmp.cmp(path / _ADAPTER, self.trained.adapter_path / _ADAPTER, shallow=False)
        verified = Verified({"same_bytes": same})
        verified.expect(same, "the copy isn't the adapter that was trained: does the disk fail?")
        return _entry(path, ADAPTER, None, verified if self.wanted.verify else None)

    def _gguf_lora(self) -> ExportedFile:
        assert self.trained.adapter_path is not None
        path = self.folder / f"{self.trained.name}-lora-F16.gguf"
        with _written(path) as made:
            self.say("converting the adapter")
            converter.convert_adapter(self.trained.adapter_path, self.trained.base_path, made)
        if self.reference is None:
            return _entry(path, GGUF_LORA, "F16", None)
        self.say(f"comparing {path.name}, applied to its base in F16, with the trained model")
        base = self._converted(self.trained.base_path, self.scratch / "base-F16.gguf", "F16")
        verified = verify_gguf_lora(path, base, self.reference, self.trained.tokenizer, threads=self.threads)
        return _entry(path, GGUF_LORA, "F16", verified)

    def _converted(self, model: Path, target: Path, kind: str) -> Path:
        """A model folder as a GGUF file."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder, _written(target) as made:
            readable = converter.readable_by_converter(
                model, self.trained.tokenizer, self.trained.base_path, Path(folder)
            )
            converter.convert(readable, made, kind, name=self.trained.name)
        return target

    def _name(self, kind: str) -> str:
        return f"{self.trained.name}-{kind}.gguf"


@contextmanager
def _written(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes `target` once all of it is there."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield temporary
        if target.is_dir():
            shutil.rmtree(target)
        temporary.replace(target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _free_cores() -> int:
    """How many threads llama.cpp gets: they wait for each other, and far longer where others work too."""
    cores = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, cores - round(psutil.getloadavg()[0]))


def _entry(
    path: Path, kind: str, quantization: str | None, verified: Verified | None, before: Sequence[str] = ()
) -> ExportedFile:
    """What is told of a file; what went wrong `before` isn't mended by what came after."""
    parts = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    size = sum(each.stat().st_size for each in parts)
    told = (path, kind, quantization, size, model_fingerprint(str(path)))
    if verified is None:
        return ExportedFile(*told, None, {})
    failures = (*before, *verified.failures)
    return ExportedFile(*told, not failures, verified.checks, failures)


def _refuse_impossible(trained: Trained, wanted: Wanted) -> None:
    only_adapters = {ADAPTER, GGUF_LORA} & set(wanted.formats)
    if only_adapters and trained.adapter is None:
        raise ConfigError(
            f"{trained.name} has no adapter: every weight was trained",
            where=f"--format {min(only_adapters)}",
            fix="take --format merged or gguf",
        )
    if {GGUF, GGUF_LORA} & set(wanted.formats):
        base = trained.base_path
        # A file with an adapter alone holds no tokenizer, but to be compared it needs its base.
        has_tokenizer = GGUF in wanted.formats or wanted.verify
        reason = why_no_gguf(trained.architectures, trained.tokenizer if has_tokenizer else None)
        if reason:
            raise ModelError(
                f"{trained.name} can't be written as GGUF: {reason}",
                where=str(base),
                fix="take --format merged, which vLLM, SGLang and transformers read",
            )
        stored_dtype(base)


def _refuse_without_room(trained: Trained, wanted: Wanted) -> None:
    """A comparison holds the model in fp32, a merge in its own precision; both a little more."""
    numbers = stored_parameters(trained.base_path) or {}
    stored = sum(count * _BYTES.get(dtype, 4) for dtype, count in numbers.items())
    needed = _SLACK * (4 * sum(numbers.values()) if wanted.verify else stored)
    free = available_bytes()
    if needed <= free:
        return
    without = _SLACK * stored <= free and wanted.verify
    raise ModelError(
        f"{trained.name} needs about {needed / 2**30:.1f} GiB of memory to be "
        f"{'compared in fp32' if wanted.verify else 'merged'}, and {free / 2**30:.1f} GiB are free",
        where=str(trained.base_path),
        fix="export on a machine with more memory" + (", or add --no-verify" if without else ""),
    )
