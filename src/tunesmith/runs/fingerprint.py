"""A fingerprint of a base model: by it a run that goes on knows that it stands on the same weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

# Files up to this size are read whole, of larger ones so many pieces, first and last among them: a change of
# all weights shows in each, and a model of 100 GB takes seconds.
WHOLE_BYTES = 2**30
NUM_PIECES, PIECE_BYTES = 64, 2**20
# What a model and its tokenizer are made of, its own code too; no readme, no optimizer.
_PARTS = (
    "config.json", "generation_config.json", "adapter_config.json", "tokenizer*", "special_tokens_map.json",
    "added_tokens.json", "vocab.*", "merges.txt", "*.tiktoken", "chat_template.jinja", "*.py",
    "*.safetensors", "*.safetensors.index.json", "pytorch_model*", "*.gguf",
)  # fmt: skip


def model_fingerprint(model: str, revision: str | None = None) -> str | None:
    """`sha256:...` of a folder or file, `commit:...` of a model of the Hub that was fetched; else None."""
    path = Path(model)
    if path.is_dir():
        return _of_files(sorted({each for part in _PARTS for each in path.glob(part) if each.is_file()}))
    if path.is_file():  # a GGUF
        return _of_files([path])
    commit = _commit(model, revision)
    return f"commit:{commit}" if commit else None


def _of_files(paths: list[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        whole.update(f"{path.name}\0{size}\0{_content(path, size)}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def _content(path: Path, size: int) -> str:
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        pieces = hashlib.sha256()
        for number in range(NUM_PIECES):
            file.seek(number * (size - PIECE_BYTES) // (NUM_PIECES - 1))
            pieces.update(file.read(PIECE_BYTES))
        return pieces.hexdigest()


def _commit(model: str, revision: str | None) -> str | None:
    """The commit whose snapshot transformers read, which is named after it in the Hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent.name if isinstance(found, str) else None
