"""E-mail addresses of somebody in text, told from code, files, packages and examples."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LOCAL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_%+.-"
_DOMAIN = re.compile(
    r"@(?P<domain>(?:[A-Za-z0-9-]{1,63}+\.){1,6}(?P<tld>[A-Za-z]{2,12}))(?![A-Za-z0-9_-]|\.[A-Za-z0-9])"
)
# Generic domains under which mail is read (the largest of the IANA root zone), besides those of countries,
# which have two letters. Everything else after a dot is more likely a file or an attribute: a@b.shape.
_ENDINGS = re.compile(
    "com|net|org|edu|gov|mil|int|info|biz|name|pro|mobi|app|dev|tech|cloud|online|site|shop|store|xyz|email"
    "|agency|digital|studio|solutions|group|team|work|world|life|live|news|media|space|top|club|blog|design"
    "|consulting|systems|network|academy|health|care|law|legal|bank|finance|capital|ventures|[a-z]{2}",
    re.IGNORECASE,
)
# A person stands behind none of these, or the writer meant nobody in particular. The last is a Message-ID.
_NOBODY = re.compile(
    r".*(?:no|not|dont)[._-]?reply.*|mailer-daemon|postmaster|git|hg|svn|root|address|e?mail[._-]?address"
    r"|(?:(?:your|my|some|their|the)[._-]?)?(?:(?:full|first|last|user|e?mail|company)[._-]?)?"
    r"(?:name|id|email|user)\d*"
    r"|some(?:one|body)|anyone|you|recipient\d*|sender|receiver|test(?:er|ing|user)?[\d._-]*|example\d*|sample"
    r"|dummy|fake|foo(?:bar)?|bar|baz|qux|abc\d*|xyz|x+|a|b|(?:person|customer|client|employee)\d*"
    r"|(?:john|jane)[._-]?(?:q[._-]?)?(?:doe|smith)\d*|[jd]?\.?doe|first(?:name)?[._-]?last(?:name)?"
    r"|\d{8,}\..+",
    re.IGNORECASE,
)
_MADE_UP_NAME = re.compile(
    r"(?:your|my|our|the|some|any|this|that|abc|xyz|fake|new|old)?-?(?:company|domain|business|organi[sz]ation"
    r"|org|site|website|email|e?mail-?(?:address|provider)|host|server|school|university|college|store|shop"
    r"|brand|startup|corp|firm|agency|institution|provider|client|app|foo|bar|baz|abc|xyz|test|testing|acme"
    r"|place|address|restaurant|hotel|hospital|bank)s?-?(?:name|domain|inc|corp|co|company|here|website)?",
    re.IGNORECASE,
)
# Names that RFC 2606, RFC 6762 and ICANN keep for examples and for networks at home.
_RESERVED = frozenset({"example", "test", "invalid", "localhost", "local", "internal", "lan"})


def is_made_up(domain: str) -> bool:
    """Whether a host stands for any: an example's, a reserved one, yourcompany.com."""
    labels = domain.split(".")
    if "example" in domain or not _RESERVED.isdisjoint(labels):
        return True
    # The name stands before the ending; before co.uk and the like, whose parts are short.
    two_part_ending = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
    name = labels[-3] if two_part_ending else labels[max(0, len(labels) - 2)]
    return _MADE_UP_NAME.fullmatch(name) is not None


def _is_email(local: str, match: re.Match[str]) -> bool:
    """Whether it looks like the address of somebody, and not like code, a file, a package or an example."""
    text, domain, ending = match.string, match["domain"].lower(), match["tld"]
    if not _ENDINGS.fullmatch(ending) or not (ending.islower() or ending.isupper()):
        return False
    # A package (a@1.2.x), a picture (icon@2x.md), a product of matrices (W@x.mT, W@x.to(device)).
    if re.match(r"\d+\.\d|\d+x\.", domain) or (len(local) == 1 and domain[1] == "."):
        return False
    after = text[match.end() : match.end() + 2]
    if after[:1] in ("(", "[") or after in (":/", ":~"):  # the last two: scp user@host.com:/path
        return False
    # In the authority of a URL what stands before @ is an account: ssh://deploy@host.com.
    if re.search(r"://[^\s/?#]*\Z", text[max(0, match.start() - 200) : match.start()]):
        return False
    if domain == "users.noreply.github.com" or is_made_up(domain):
        return False
    return not _NOBODY.fullmatch(local)


def find_addresses(text: str) -> Iterator[tuple[int, int, str]]:
    """Start and end of each address, and a form of it that can be shown, in order of place."""
    for match in _DOMAIN.finditer(text):
        before = text[max(0, match.start() - 65) : match.start()]
        local = before[len(before.rstrip(_LOCAL)) :].lstrip("._%+-")
        start = match.start() - len(local)
        if 0 < len(local) <= 64 and _is_email(local, match):
            yield start, match.end(), f"{local[0]}...@...{match['tld']} ({match.end() - start} characters)"
