"""What an export leaves beside its files: export.json, a Modelfile for Ollama, and how each is run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith import __version__
from tunesmith.export.exporting import GGUF, MERGED, ExportedFile
from tunesmith.export.trained import Trained
from tunesmith.runs.files import write_json_whole, write_text_whole
from tunesmith.runs.fingerprint import model_fingerprint

SCHEMA = "tunesmith-export/1"
RECORD, MODELFILE = "export.json", "Modelfile"


def write_record(folder: Path, trained: Trained, files: Sequence[ExportedFile]) -> dict[str, Any]:
    """Write export.json and the Modelfile; what run.json keeps of it comes back.

    Files of the same model that an earlier export left in the folder stay in the record.
    """
    source = _source(trained)
    new = {each.path.name for each in files}
    files = [*files, *(each for each in _earlier(folder, source) if each.path.name not in new)]
    record = {
        "schema": SCHEMA,
        "tunesmith": __version__,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "name": trained.name,
        "base": trained.base,
        "source": source,
        "files": [each.as_dict() | {"path": each.path.name} for each in files],
    }
    write_json_whole(folder / RECORD, record)
    chosen = _smallest(files)
    if chosen is not None:
        write_text_whole(folder / MODELFILE, modelfile(chosen, trained))
    return {
        "path": str(folder.resolve()),
        "verified": bool(files) and all(each.verified for each in files),
        "files": [
            {
                "name": each.path.name, "format": each.format, "quantization": each.quantization,
                "size_bytes": each.size_bytes, "fingerprint": each.fingerprint, "verified": each.verified,
                "imatrix": each.imatrix,
                **{key: each.checks[key] for key in _KEPT if key in each.checks},
            }
            for each in files
        ],
    }  # fmt: skip


def _source(trained: Trained) -> str:
    """By what it is known that two exports are of one model."""
    parts = [trained.base_path, *([trained.adapter_path] if trained.adapter_path else [])]
    return " + ".join(str(model_fingerprint(str(each))) for each in parts)


def _earlier(folder: Path, source: str) -> list[ExportedFile]:
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        if record["source"] != source:
            return []
        entries = [each | {"path": folder / each["path"]} for each in record["files"]]
        files = [ExportedFile(**each | {"failures": tuple(each["failures"])}) for each in entries]
    except (OSError, ValueError, TypeError, KeyError):  # none, or one of another version
        return []
    return [each for each in files if model_fingerprint(str(each.path)) == each.fingerprint]


_KEPT = (
    "mean_divergence",
    "top1_agreement",
    "perplexity",
    "trained_perplexity",
    "same_answers",
    "num_answers",
)


def modelfile(file: ExportedFile, trained: Trained) -> str:
    """A Modelfile for `ollama create`: the file, and the tokens at which it stops.

    Ollama reads the chat template from the GGUF file itself.
    """
    lines = [f"FROM ./{file.path.name}", f"PARAMETER stop {json.dumps(trained.tokenizer.eos_token)}"]
    lines += [
        f"PARAMETER {name} {value}" for name, value in _sampling(Path(trained.tokenizer_source)).items()
    ]
    return "\n".join([*lines, ""])


def how_to_run(folder: Path, files: Sequence[ExportedFile]) -> list[str]:
    """Lines that a person can copy to talk to what was exported."""
    chosen = _smallest(files)
    lines = []
    if chosen is not None:
        name = chosen.path.stem.lower()
        lines += [
            f"llama.cpp: llama-cli -m {chosen.path}",
            f"Ollama:    ollama create {name} -f {folder / MODELFILE} && ollama run {name}",
            f"LM Studio: lms import {chosen.path}",
        ]
    merged = next((each for each in files if each.format == MERGED), None)
    if merged is not None:
        lines.append(f"vLLM:      vllm serve {merged.path}")
    return lines


def _smallest(files: Sequence[ExportedFile]) -> ExportedFile | None:
    """The smallest GGUF file that wasn't found wrong."""
    good = [each for each in files if each.format == GGUF and each.verified is not False]
    return min(good, key=lambda each: each.size_bytes, default=None)


def _sampling(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    stated = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    named = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k"}
    return {ours: stated[theirs] for theirs, ours in named.items() if stated.get(theirs) is not None}
