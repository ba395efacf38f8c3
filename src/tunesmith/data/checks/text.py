"""What can be wrong with a piece of text, whatever it is for: patterns for one text and for a column of them.

Each pattern stands once, in the syntax that Python's re and Rust's regex (polars) share, so that the screen
over a column and the judge of one row can't differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# White space, and characters that show nothing: no-break and zero-width spaces, joiners, soft hyphen, byte
# order mark, the blanks of Hangul and Braille. Python's \s and Rust's differ in \x1c-\x1f, named here.
INVISIBLE = (
    r"\s\x1c-\x1f\x{AD}\x{115F}\x{1160}\x{180E}\x{200B}-\x{200F}"
    r"\x{2060}-\x{2064}\x{2800}\x{3164}\x{FEFF}\x{FFA0}"
)
BLANK = rf"^[{INVISIBLE}]*$"
# C0 but tab, newline, carriage return and form feed (code holds it); DEL; C1 but next line.
CONTROL = r"[\x00-\x08\x0b\x0e-\x1f\x7f\x{80}-\x{84}\x{86}-\x{9F}]"
# Markers that chat templates write between turns. ChatML, Llama 3 and 4, Phi, Harmony and Cohere: <|...|>;
# DeepSeek: full-width bars; Gemma; Llama 2 and Mistral; ChatGLM.
CONTROL_TOKENS = (
    r"<\|[A-Za-z][A-Za-z0-9_]{0,40}\|>|<\x{FF5C}[^\x{FF5C}<>\s]{1,40}\x{FF5C}>|<(?:start|end)_of_turn>"
    r"|</?s>|<(?:bos|eos|pad|unk)>|\[/?INST\]|<</?SYS>>|\[gMASK\]"
)
# Rows beyond this are named: a row is padded to, or packed with, the longest of its batch.
LARGE_BYTES = 1 << 20


def _python(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\x\{([0-9A-F]+)\}", lambda found: f"\\u{int(found[1], 16):04x}", pattern))


_BLANK, _CONTROL, _TOKENS = _python(BLANK.replace("$", r"\Z")), _python(CONTROL), _python(CONTROL_TOKENS)
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def is_blank(text: str) -> bool:
    """True when a person sees nothing: empty, white space, zero-width and no-break spaces."""
    return bool(_BLANK.match(text))


def without_controls(text: str) -> str:
    """`text` without control characters."""
    return _CONTROL.sub("", text)


def text_faults(text: str) -> Iterator[tuple[str, str]]:
    """Code and message of each kind of fault in `text`; being blank is not one of them."""
    found = _SURROGATE.search(text)
    if found and "\udc80" <= found[0] <= "\udcff":  # what Python reads other bytes as
        yield "D015", f"holds the byte {ord(found[0]) - 0xDC00:#04x}, which is no UTF-8, at {found.start()}"
    elif found:
        yield "D015", f"holds half a character (\\u{ord(found[0]):04x}) at position {found.start()}"
    controls = _CONTROL.findall(text)
    if controls:
        names = ", ".join(dict.fromkeys(f"\\x{ord(each):02x}" for each in controls))
        yield "D016", f"holds control characters: {names} ({_times(len(controls))})"
    tokens = _TOKENS.findall(text)
    if tokens:
        yield "D017", f"holds {', '.join(list(dict.fromkeys(tokens))[:5])} ({_times(len(tokens))})"
    if len(text) * 4 > LARGE_BYTES and _num_bytes(text) > LARGE_BYTES:
        yield "D018", f"is {_num_bytes(text) / LARGE_BYTES:.1f} MiB of text"


def _num_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
