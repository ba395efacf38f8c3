"""The secrets that this machine is known to hold, so that their exact values can be looked for."""

from __future__ import annotations

import base64
import configparser
import netrc
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

# The last words of names that hold secrets: HF_TOKEN, WANDB_API_KEY, PGPASSWORD, AWS_SECRET_ACCESS_KEY.
_SECRET_NAME = re.compile(
    r"(?:^|.*_|.*(?=PASSWORD|APIKEY|TOKEN))"
    r"(?:TOKEN|KEY|APIKEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|PASS|PWD|CREDENTIALS?|PAT|COOKIE)(?:_\d+)?",
    re.IGNORECASE,
)
MIN_LENGTH = 8


def known_secrets(also: Iterable[str] = (), environment: Mapping[str, str] = os.environ) -> dict[bytes, str]:
    """Each secret of this machine as bytes, and where it is from ("the value of HF_TOKEN").

    From environment variables whose names speak of secrets, the Hugging Face logins, and netrc (where W&B's
    login puts its key); `also` adds values that a caller was given. Values that are shorter than 8
    characters, plain words, numbers or paths are left out: they are in files for other reasons.
    """
    values = dict.fromkeys(also, "a secret given to this command")
    values |= dict.fromkeys(_hugging_face_logins(), "this machine's Hugging Face login")
    values |= dict.fromkeys(_netrc_passwords(), "a password of this machine's netrc")
    values |= {
        value: f"the value of {name}" for name, value in environment.items() if _SECRET_NAME.fullmatch(name)
    }
    known = {value.strip().strip("'\""): kind for value, kind in values.items()}
    return {
        value.encode("utf-8", "surrogateescape"): kind for value, kind in known.items() if _is_telling(value)
    }


def needles(known: Mapping[bytes, str]) -> dict[bytes, str]:
    """What to look for where a known secret may be: its bytes as they are, URL-encoded, in UTF-16, in base64.

    Base64 has three forms, by where in a group of three bytes the secret begins; the characters at its ends
    that depend on its neighbours are left out.
    """
    found: dict[bytes, str] = {}
    for value, kind in known.items():
        forms = [value, quote(value, safe="").encode(), value.decode("latin-1").encode("utf-16-le")]
        for before in range(3):
            coded = base64.b64encode(b"\0" * before + value)
            start, end = (0, 2, 3)[before], (before + len(value)) * 8 // 6
            forms += [coded[start:end], coded[start:end].translate(bytes.maketrans(b"+/", b"-_"))]
        found |= {form: kind for form in forms if len(form) >= MIN_LENGTH and form not in found}
    return found


def _is_telling(value: str) -> bool:
    if len(value) < MIN_LENGTH or len(set(value)) < 5:
        return False
    word = value.isalpha() and len(value) < 20 and (value.islower() or value.isupper() or value.istitle())
    return not (word or _is_path(value) or (value.isdigit() and len(value) < 12))


def _is_path(value: str) -> bool:
    try:
        return value.startswith(("/", "~", "./")) and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # a name too long, nobody's home
        return False


def _hugging_face_logins() -> list[str]:
    from huggingface_hub import constants, get_token

    found = [get_token() or ""]
    stored = configparser.ConfigParser(interpolation=None)
    with suppress(OSError, UnicodeDecodeError):  # not logged in
        found.append(Path(constants.HF_TOKEN_PATH).read_text(encoding="utf-8"))
    try:
        stored.read(constants.HF_STORED_TOKENS_PATH, encoding="utf-8")
    except (OSError, UnicodeDecodeError, configparser.Error):
        return found
    return found + [stored.get(name, "hf_token", fallback="") for name in stored.sections()]


def _netrc_passwords() -> list[str]:
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return []
    return [password or "" for _, _, password in hosts.values()]
