"""The licence of a base model or a data set, as its own card states it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

# A card can wait so long for what it can do without.
PATIENCE_S = 10.0
# The Hub's identifiers (huggingface.co/docs/hub/repositories-licenses), such as apache-2.0 or llama3.2.
_ID = re.compile(r"[a-z0-9][a-z0-9.+-]{0,40}", re.IGNORECASE)
_LINK = re.compile(r"https://[\w.~/%#?=&:@+-]{4,300}")


class Licence(NamedTuple):
    """A licence by the Hub's identifier; `name` and `link` belong to those that have none but `other`."""

    id: str
    name: str | None = None
    link: str | None = None


def licence_of(
    name: str, kind: Literal["model", "dataset"] = "model", *, is_of_hub: bool, revision: str | None = None
) -> Licence | None:
    """The licence stated in the README.md of a folder, or asked of the Hub; None where none is known.

    Neither a Hub that can't be reached nor a card that can't be read is an error.
    """
    try:
        stated = _asked_of_hub(name, kind, revision) if is_of_hub else _stated_in(Path(name))
    except Exception:  # the Hub's, httpx's, the network's and YAML's are many (test_card.py)
        return None
    return _licence(stated) if isinstance(stated, Mapping) else None


def _asked_of_hub(name: str, kind: str, revision: str | None) -> Mapping[str, Any]:
    from huggingface_hub import HfApi

    api = HfApi()
    ask = api.model_info if kind == "model" else api.dataset_info
    data = ask(name, revision=revision, timeout=PATIENCE_S).card_data
    return data.to_dict() if data is not None else {}


def _stated_in(folder: Path) -> Any:
    from huggingface_hub import metadata_load

    card = folder.expanduser() / "README.md"
    return metadata_load(card) if folder.is_dir() and card.is_file() else None


def _licence(stated: Mapping[str, Any]) -> Licence | None:
    found = stated.get("license")
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, str) or not _ID.fullmatch(found):
        return None
    name, link = stated.get("license_name"), stated.get("license_link")
    return Licence(
        found,
        name if isinstance(name, str) and _ID.fullmatch(name) else None,
        link if isinstance(link, str) and _LINK.fullmatch(link) else None,
    )
