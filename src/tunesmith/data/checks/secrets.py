"""Secrets in text: API keys and tokens (D401), private keys (D402), e-mail addresses (D403).

Two stages. `SCREEN` and `EMAIL_SCREEN` are run over every row by polars, and match wherever `find_secrets`
would find something; `find_secrets` reads the few rows that they name, and tells real from made up.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple
from urllib.parse import unquote

from tunesmith.data.checks.addresses import find_addresses, is_made_up

KEY, PRIVATE_KEY, EMAIL = "D401", "D402", "D403"


class Secret(NamedTuple):
    """One secret: its code, what it is, and a form that can be shown, `sk-proj-...9f2a (164 characters)`."""

    code: str
    kind: str
    masked: str


class _Shape(NamedTuple):
    """How one kind looks: `pattern` has the groups `known`, the part of it that may be shown, and `body`.

    `screens` are Rust regular expressions; where `pattern` matches, one of them does. Each begins with one
    of _LITERALS, and a text that has none of these literals is not judged.
    """

    kind: str
    pattern: str
    screens: tuple[str, ...]
    is_real: Callable[[re.Match[str]], bool]
    code: str = KEY


# --- telling a real secret from an example --------------------------------------------------------------

# Words that people write where a key belongs. Random characters seldom spell one: four letters in whatever
# case turn up in fewer than one of 10,000 keys of 50 characters.
_PLACEHOLDER = re.compile(
    r"your|example|x{4}|placeholder|dummy|insert|replace|redact|sample|fake|change.?me|token|secret"
    r"|api.?key|password|here$",
    re.IGNORECASE,
)
# How keys begin that their makers print in their documentation: Stripe's test keys, Azure's emulator.
_PUBLISHED = ("4eC39HqLyj", "BQokikJOvB", "26PHem9AhJ", "tR3PYbcVNZ", "Eby8vdM02x")


def _looks_random(body: str) -> bool:
    """Whether a machine drew these characters: many different ones, no runs, no repetition, no words."""
    length = len(body)
    # 16 random characters of base32 have 10 or more different ones, 32 of hex 11 or more.
    if len(set(body)) < (7 if length < 24 else 10):
        return False
    kinds = (str.islower, str.isupper, str.isdigit)
    if length >= 20 and sum(any(map(kind, body)) for kind in kinds) < 2:
        return False
    for step in (1, 2):  # 1234, abcd, aaaa; and two steps apart a1b2c3d4
        near = sum(abs(ord(a) - ord(b)) <= 1 for a, b in zip(body, body[step:], strict=False))
        # In random hex 17 % of the pairs are such neighbours, in larger alphabets fewer.
        if 2 * near > length - step:
            return False
    if any(body[period:] == body[:-period] for period in range(1, min(17, length // 2 + 1))):
        return False
    return not _PLACEHOLDER.search(body) and not body.startswith(_PUBLISHED)


def _random_body(match: re.Match[str]) -> bool:
    return _looks_random(match["body"])


def _with_digit(match: re.Match[str]) -> bool:
    """For ids that begin like a word in capitals (ASIA): words go on without digits."""
    return any(map(str.isdigit, match["body"])) and _random_body(match)


# What jwt.io and PyJWT put into the tokens that they show, which every tutorial repeats.
_SAMPLE_CLAIMS = (b"1234567890", b"John Doe", b'"some":"payload"')


def _is_jwt(match: re.Match[str]) -> bool:
    parts = (match["header"], match["claims"])
    try:
        header, claims = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts)
        signed = "alg" in json.loads(header)
    except (ValueError, TypeError, RecursionError):
        return False
    return signed and not any(sample in claims for sample in _SAMPLE_CLAIMS) and _random_body(match)


def _is_bearer_token(match: re.Match[str]) -> bool:
    return not match["body"].startswith("eyJ") and _with_digit(match)  # a web token was judged as one


def _follows_discord(match: re.Match[str]) -> bool:
    before = (match.string.find(name, 0, match.start()) for name in ("iscord", "ISCORD"))
    return any(place >= 0 for place in before) and _random_body(match)


_TEMPLATE = re.compile(r"^\$|[{}<>\[\]*\\]|%(?![0-9A-Fa-f]{2})|\.\.\.")
_PASSWORD_WORDS = re.compile(
    r"pass|pwd|p4ss|secret|your|user|admin|root|test|example|demo|dummy|change|token|key|guest|postgres|mysql"
    r"|redis|mongo|rabbit|1234|qwerty|foo|bar|xxx",
    re.IGNORECASE,
)


def _is_url_password(match: re.Match[str]) -> bool:
    body, host = unquote(match["body"]), match["host"].lower()
    if _TEMPLATE.search(match["body"]) or _PASSWORD_WORDS.search(body):
        return False
    if len(body) < 6 or len(set(body)) < 5 or not re.search("[0-9A-Z]", body):
        return False
    classes = sum(bool(re.search(kind, body)) for kind in ("[a-z]", "[A-Z]", "[0-9]", "[^A-Za-z0-9]"))
    # A host without a dot (db, redis) is of a compose file, where a password seldom guards anything.
    strong = classes >= 2 if "." in host else classes >= 3 and len(body) >= 12
    return strong and not host.startswith(("127.", "0.0.0.0")) and not is_made_up(host)


def _is_private_key(match: re.Match[str]) -> bool:
    """Whether a key follows its first line: the shortest, Ed25519 in PKCS #8, has 64 characters of base64."""
    lines = match["body"].partition("--")[0]
    base64_text = "".join(re.findall(r"[A-Za-z0-9+/]{16,}", lines))
    return len(base64_text) >= 60 and len(set(base64_text)) >= 20


# --- the kinds ------------------------------------------------------------------------------------------

# Keys don't begin in the middle of a word; in text that is itself source code, `\n` may stand before one.
_BEFORE = r"(?:(?<![A-Za-z0-9_])|(?<=\\[nrt]))"
_AFTER = r"(?![A-Za-z0-9_])"
_ALNUM, _WORD, _HEX, _BASE32 = "[A-Za-z0-9]", "[A-Za-z0-9_-]", "[0-9a-f]", "[A-Z2-7]"
_SK = (
    rf"sk-(?:{_ALNUM}{{32}}|(?:proj|svcacct|admin|None)-{_WORD}{{40}}"
    rf"|ant-[a-z]{{3,8}}[0-9]{{2}}-{_WORD}{{80}}|or-v1-{_HEX}{{64}})"
)
_GITHUB = tuple(f"gh{letter}_{_ALNUM}{{36}}" for letter in "pousr")
_TWILIO = ("twilio", "Twilio", "TWILIO")
_WANDB = tuple(rf"{name}[ -~]*{_HEX}{{40}}" for name in ("ndb_", "ndb[.]", "ndb ", "NDB_"))
_AWS_GAP = r"""[\]"' :=>,]{1,10}"""
_AWS_SECRET = "[A-Za-z0-9/+]{40}"


def _token(
    kind: str,
    known: str,
    body: str,
    *screens: str,
    middle: str = "",
    is_real: Callable[[re.Match[str]], bool] = _random_body,
) -> _Shape:
    """A key that begins with something known; its screen is the same expression, unless others are given."""
    pattern = rf"{_BEFORE}(?P<known>{known}){middle}(?P<body>{body}){_AFTER}"
    return _Shape(kind, pattern, screens or (known + middle + body,), is_real)


# More telling kinds come first: what one has taken, later ones leave alone. Lengths are those that the
# makers issue, with room where they announced longer ones (GitHub: up to 255, changelog of 2021-03-31).
_SHAPES = (
    _token("Anthropic API key", "sk-ant-[a-z]{3,8}[0-9]{2}-", rf"{_WORD}{{80,120}}+", _SK),
    _token("OpenRouter API key", "sk-or-v1-", rf"{_HEX}{{64}}", _SK),
    _token("OpenAI API key", "sk-(?:proj|svcacct|admin|None)-", rf"{_WORD}{{40,250}}+", _SK),
    _token("OpenAI API key", "sk-", rf"{_ALNUM}{{20}}T3BlbkFJ{_ALNUM}{{20}}", _SK),
    # DeepSeek, Moonshot, Qwen and others issue keys in the manner of OpenAI's first ones.
    _token("OpenAI-style API key", "sk-", rf"{_ALNUM}{{32,64}}+", _SK),
    _token("Hugging Face token", "hf_", rf"{_ALNUM}{{34,40}}+", rf"hf_{_ALNUM}{{34}}"),
    _token("GitHub token", "gh[pousr]_", rf"{_ALNUM}{{36,251}}+", *_GITHUB),
    _token("GitHub token", "github_pat_", rf"{_ALNUM}{{22}}_{_ALNUM}{{59}}", rf"hub_pat_{_ALNUM}{{22}}_"),
    _token("GitLab token", "glpat-", rf"{_WORD}{{20,300}}+", rf"glpat-{_WORD}{{20}}"),
    _token("AWS access key id", "AKIA", rf"{_BASE32}{{16}}"),
    _token("AWS access key id", "ASIA", rf"{_BASE32}{{16}}", is_real=_with_digit),
    _Shape(
        "AWS secret access key",
        rf"(?:secret_access_key|SECRET_ACCESS_KEY|[sS]ecretAccessKey){_AWS_GAP}"
        rf"(?P<known>)(?P<body>{_AWS_SECRET})(?![A-Za-z0-9/+=])",
        tuple(name + _AWS_GAP + _AWS_SECRET for name in ("_access_key", "_ACCESS_KEY", "tAccessKey")),
        _random_body,
    ),
    _token("Google API key", "AIza", rf"{_WORD}{{35}}"),
    _token("Google OAuth client secret", "GOCSPX-", rf"{_WORD}{{28}}"),
    _token(
        "Slack token", "xox[abeprs]-", rf"{_ALNUM}{{20,250}}+", "xox[a-z]-[A-Za-z0-9-]{22}",
        middle=rf"(?:{_ALNUM}{{1,19}}-){{1,5}}",
    ),
    _token(
        "Slack token", "xapp-[0-9]-", rf"{_HEX}{{32,128}}+", "xapp-[0-9]-[A-Z0-9]{9}",
        middle="[A-Z0-9]{9,13}-[0-9]{9,15}-",
    ),
    _token(
        "Slack webhook", "hooks[.]slack[.]com/services/", rf"{_ALNUM}{{20,30}}+", "k[.]com/services/T",
        middle="T[A-Z0-9]{8,12}/B[A-Z0-9]{8,12}/",
    ),
    _token("Stripe key", "[sr]k_live_", rf"{_ALNUM}{{16,250}}+", rf"k_live_{_ALNUM}{{16}}"),
    # It can't move money, but it opens an account's test data.
    _token("Stripe test key", "[sr]k_test_", rf"{_ALNUM}{{16,250}}+", rf"k_test_{_ALNUM}{{16}}"),
    _token(
        "SendGrid API key", "SG[.]", rf"{_WORD}{{32,64}}+", rf"SG[.]{_WORD}{{16,32}}[.]{_WORD}{{32}}",
        middle=rf"{_WORD}{{16,32}}+[.]",
    ),
    # AC or SK and 32 characters of hex can be anything, unless the text speaks of Twilio.
    _token("Twilio API key", "SK", rf"{_HEX}{{32}}", *_TWILIO),
    _token("Twilio account SID", "AC", rf"{_HEX}{{32}}", *_TWILIO),
    _Shape(
        "Twilio auth token",
        rf"""(?i:auth_?token)[\]"' :=,]{{1,6}}(?P<known>)(?P<body>{_HEX}{{32}}){_AFTER}""",
        _TWILIO, _random_body,
    ),
    _token("npm token", "npm_", rf"{_ALNUM}{{36}}"),
    _token("PyPI token", "pypi-AgE", rf"{_WORD}{{60,400}}+", rf"pypi-AgE{_WORD}{{60}}"),
    _token(
        "Discord webhook", "discord(?:app)?[.]com/api/webhooks/", rf"{_WORD}{{60,72}}+",
        "iscord(?:app)?[.]com/api/webhooks/", middle="[0-9]{17,20}/",
    ),
    # Three words of base64 alone are no sign; the first is a number, so that it begins with M, N or O.
    _token(
        "Discord bot token", "", rf"{_WORD}{{27,38}}+", rf"iscord[\s\S]*[MNO]{_WORD}{{23,27}}[.]",
        rf"ISCORD[\s\S]*[MNO]{_WORD}{{23,27}}[.]", middle=rf"[MNO]{_WORD}{{23,27}}+[.]{_WORD}{{6}}[.]",
        is_real=_follows_discord,
    ),
    _token("Telegram bot token", "", rf"{_WORD}{{33}}", rf":AA{_WORD}{{33}}", middle="[0-9]{8,10}:AA"),
    _token("Azure storage key", "AccountKey=", "[A-Za-z0-9+/]{86}==", "ntKey=[A-Za-z0-9+/]{86}=="),
    _token("DigitalOcean token", "do[opr]_v1_", rf"{_HEX}{{64}}", rf"_v1_{_HEX}{{64}}"),
    _token("Databricks token", "dapi", rf"{_HEX}{{32}}", rf"dapi{_HEX}{{32}}"),
    _token("Replicate token", "r8_", rf"{_ALNUM}{{37,40}}+", rf"r8_{_ALNUM}{{37}}"),
    _token("Groq API key", "gsk_", rf"{_ALNUM}{{48,60}}+", rf"gsk_{_ALNUM}{{48}}"),
    _token("xAI API key", "xai-", rf"{_ALNUM}{{70,90}}+", rf"xai-{_ALNUM}{{70}}"),
    _token("W&B API key", "wandb_v1_", "[A-Za-z0-9_]{60,90}+", "ndb_v1_[A-Za-z0-9_]{60}"),
    _Shape(
        "W&B API key",
        rf"(?:WANDB_[A-Z_]{{0,12}}KEY|wandb_[a-z_]{{0,12}}key|wandb[. ]login)[ -~]{{1,40}}?(?<![0-9A-Za-z])"
        rf"(?P<known>)(?P<body>{_HEX}{{40}}){_AFTER}",
        _WANDB, _random_body,
    ),
    _Shape(
        "JSON web token",
        rf"(?<![A-Za-z0-9_-])(?P<header>(?P<known>eyJ){_WORD}{{10,2000}}+)[.](?P<claims>eyJ{_WORD}{{8,8000}}+)"
        rf"[.](?P<body>{_WORD}{{20,2000}}+)",
        (rf"eyJ{_WORD}{{10,}}[.]eyJ{_WORD}{{8}}",), _is_jwt,
    ),
    _Shape(
        "bearer token", r"Bearer {1,4}(?P<known>)(?P<body>[A-Za-z0-9._~+/-]{20,2000}+)",
        ("Bearer {1,4}[A-Za-z0-9._~+/-]{20}",), _is_bearer_token,
    ),
    _Shape(
        "password in a URL",
        r"://[!$-&*-.0-9;=A-~]{0,64}:(?P<known>)(?P<body>[!$-&*-.0-;=A-~]{1,128}+)@(?P<host>[\w.-]{1,200}+)",
        ("://[!-.0-9;-?A-~]*:[!-.0-?A-~]+@",), _is_url_password,
    ),
    _Shape(
        "private key",
        r"(?P<known>-{4,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5})(?=(?P<body>[\s\S]{0,2000}))",
        ("BEGIN [A-Z0-9 ]*PRIVATE KEY",), _is_private_key, PRIVATE_KEY,
    ),
)  # fmt: skip

# --- the screens ----------------------------------------------------------------------------------------

# What the alternatives of SCREEN begin with, in the order in which they stand there. polars finds these
# literals with SIMD (Teddy, of Rust's aho-corasick), which deals them out to 16 buckets in turn and then
# looks for places where each byte fits any literal of a bucket: those that are 16 apart should look alike.
# This order, found by swapping, reads 6.6 GB/s of Alpaca's prose, that of _SHAPES 1.4 (polars 2.1, AVX2).
_LITERALS = (
    "hub_pat_", "ASIA", "pypi-AgE", "sk-", "BEGIN ", "ghu_", "xox", "ndb ",
    "NDB_", "ndb_", "Twilio", ":AA", "gho_", "glpat-", "_access_key", "npm_",
    "iscord", "AKIA", "k_test_", "_v1_", "Bearer ", "ghr_", "xai-", "ntKey=",
    "eyJ", "hf_", "tAccessKey", "SG.", "ghp_", "dapi", "ndb.", "gsk_",
    "k.com/services/", "AIza", "k_live_", "://", "TWILIO", "ghs_", "xapp-", "ISCORD",
    "_ACCESS_KEY", "r8_", "twilio", "GOCSPX-",
)  # fmt: skip


@cache
def _compiled() -> tuple[tuple[_Shape, re.Pattern[str], frozenset[str]], ...]:
    """Each shape, its pattern, and the literals without which a text can't have it."""
    return tuple(
        (shape, re.compile(shape.pattern, re.ASCII), frozenset(map(_literal, shape.screens)))
        for shape in _SHAPES
    )


def _literal(screen: str) -> str:
    plain = screen.replace("[.]", ".")
    return next(literal for literal in _LITERALS if plain.startswith(literal))


def _alternatives() -> list[str]:
    screens = dict.fromkeys(screen for shape in _SHAPES for screen in shape.screens)
    return sorted(screens, key=lambda screen: _LITERALS.index(_literal(screen)))


# A Rust regular expression that matches wherever `find_secrets` finds a key or a private key.
SCREEN = "|".join(_alternatives())
# The same for e-mail addresses, apart because one byte is its literal: in SCREEN it would disable Teddy.
EMAIL_SCREEN = r"[A-Za-z0-9_%+.-]@[A-Za-z0-9-][A-Za-z0-9.-]*\.[A-Za-z]{2}"


def find_secrets(text: str) -> list[Secret]:
    """What a text gives away, in order of place, each distinct secret once. It never raises."""
    found: dict[str, tuple[int, Secret]] = {}
    taken = bytearray(len(text))
    for match, secret in _keys(text, taken):
        found.setdefault(text[match.start("known") : match.end("body")], (match.start(), secret))
    for start, end, masked in find_addresses(text):
        if taken.find(1, start, end) < 0:
            found.setdefault(text[start:end].lower(), (start, Secret(EMAIL, "e-mail address", masked)))
    return [secret for _, secret in sorted(found.values())]


def find_keys(text: str) -> list[tuple[int, int, Secret]]:
    """Start and end of each key and private key in a text, and what it is; every place, in order."""
    found = _keys(text, bytearray(len(text)))
    return sorted((match.start("known"), match.end("body"), secret) for match, secret in found)


def _keys(text: str, taken: bytearray) -> Iterator[tuple[re.Match[str], Secret]]:
    """Keys and private keys, the more telling kinds first; `taken` gets a 1 for each of their characters."""
    present = [literal for literal in _LITERALS if literal in text]
    for shape, pattern, literals in _compiled() if present else ():
        if literals.isdisjoint(present):
            continue
        for match in pattern.finditer(text):
            start, end = match.span()
            if taken.find(1, start, end) < 0 and shape.is_real(match):
                taken[start:end] = b"\1" * (end - start)
                yield match, Secret(shape.code, shape.kind, _masked(shape.code, match))


def _masked(code: str, match: re.Match[str]) -> str:
    if code == PRIVATE_KEY:
        return f"{match['known']}..."
    tail = match["body"][-4:] if len(match["body"]) >= 16 else ""
    return f"{match['known']}...{tail} ({match.end('body') - match.start('known')} characters)"
