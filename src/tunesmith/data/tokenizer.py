"""Loading a tokenizer; torch is not needed for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.config.run_config import RunConfig
from tunesmith.data.model_files import check_model_files, needs_code
from tunesmith.errors import DownloadError, ModelError


def load_tokenizer(config: RunConfig, name: str | None = None, revision: str | None = None) -> Any:
    """The fast tokenizer of the model, or of what `name` says, with a padding token.

    Raises:
        ModelError: the folder or repository holds none, is refused, or its tokenizer never ends a text.
        DownloadError: the Hub can't be reached, or refuses.
    """
    from transformers import AutoTokenizer

    if name is None:
        name, revision = config.model, config.model_revision
    check_model_files(name, revision, trust_remote_code=config.trust_remote_code)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:  # transformers raises many kinds; each becomes a sentence (test_bad_input.py)
        raise model_sentence(name, error, "tokenizer", revision) from error
    except BaseException as error:
        # What tokenizers, in Rust, stumbles over in a tokenizer.json is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise model_sentence(name, ValueError(str(error)), "tokenizer", revision) from error
    if not tokenizer.is_fast:
        raise ModelError(f"{name} has no fast tokenizer", where=name)
    if tokenizer.eos_token is None:
        raise ModelError(
            f"the tokenizer of {name} names no end-of-text token: no answer would ever end",
            where=name,
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def vocabulary_size(config: RunConfig) -> int | None:
    """How many tokens the model knows, from its config.json; None where that can't be had."""
    from transformers import PretrainedConfig

    try:
        found, _ = PretrainedConfig.get_config_dict(config.model, revision=config.model_revision)
    except (OSError, ValueError):  # a folder with a tokenizer alone, or no network: nothing to compare with
        return None
    size = found.get("vocab_size") or (found.get("text_config") or {}).get("vocab_size")
    return size if isinstance(size, int) else None


def model_sentence(
    model: str, error: Exception, part: str, revision: str | None = None
) -> ModelError | DownloadError:
    """One sentence for what transformers raised while it loaded `part` of `model`."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    causes = [error, error.__cause__, error.__context__]
    text = str(error)
    if "trust_remote_code" in text:
        return needs_code(model, revision)
    if _is_folder(model):
        first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
        return ModelError(
            f"the folder {model} holds no {part} that can be loaded: {first}",
            where=model,
            fix="give a folder that save_pretrained wrote, or a Hub id",
        )
    if model.startswith((".", "/", "~", "\\")) or model.count("/") > 1:
        return ModelError(
            f"there is no folder {model}", where=str(Path.cwd()), fix="check the path to the model"
        )
    if any(isinstance(cause, GatedRepoError) for cause in causes) or "gated repo" in text:
        return DownloadError(
            f"the model {model} is gated",
            where=f"https://huggingface.co/{model}",
            fix="accept its licence on its page, then hf auth login",
        )
    if (
        any(isinstance(cause, RepositoryNotFoundError) for cause in causes)
        or "not a valid model identifier" in text
    ):
        return ModelError(
            f"there is no model {model} on the Hub that you can read, and no folder of that name here",
            where=model,
            fix="check the name; a private model needs hf auth login",
        )
    if isinstance(error, OSError) and (
        "connect" in text.lower() or "offline" in text.lower() or "cached" in text
    ):
        return DownloadError(
            f"the model {model} is not on this machine and the Hub can't be reached",
            where=model,
            fix="check the network (and HF_HUB_OFFLINE), or give a local folder",
        )
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return ModelError(
        f"the {part} of {model} can't be loaded: {first}",
        where=model,
        fix="check the name: OWNER/NAME on the Hub, or a folder",
    )


def _is_folder(model: str) -> bool:
    try:
        return Path(model).expanduser().is_dir()
    except (OSError, RuntimeError):  # a name too long, a home that doesn't exist
        return False
