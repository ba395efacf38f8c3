"""Files of strangers that mean harm, each made from a seed: chat templates, tokenizer files, GGUF files."""

from __future__ import annotations

import random
import struct

SEED = 54
_BIG = "{% for i in range(99999) %}"
_END = "{% endfor %}"

# What is wrong with a template, and a word of the reason that it is refused for.
TEMPLATES = {
    "class attribute": ("{{ ''.__class__ }}", "__class__"),
    "subclasses": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "__"),
    "class by item": ("{{ ''['__class__'] }}", "__class__"),
    "class by filter": ("{{ ''|attr('__class__') }}", "__class__"),
    "class in parts": ("{% set x = ''['__cl' ~ 'ass__'] %}{{ x['m' ~ 'ro'] }}", "reaches"),
    "map to attribute": ("{{ ['']|map(attribute='__class__')|list }}", "__class__"),
    "globals of a macro": ("{% macro f() %}{% endmacro %}{{ f.__globals__ }}", "__globals__"),
    "format to attribute": ("{{ '{0.__class__.__init__}'.format('') }}", "reaches"),
    "builtins by cycler": ("{{ cycler.__init__.__globals__.os.popen('touch CANARY') }}", "__globals__"),
    "namespace with a dunder": ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "__class__"),
    "namespace with an underscore": ("{% set ns = namespace() %}{% set ns._x = 1 %}", "reaches"),
    "nested ranges": (_BIG + _BIG + "x" + _END * 2, "rounds"),
    "three ranges of 200": ("{% for i in range(200) %}" * 3 + _END * 3, "rounds"),
    "ranges as lists": ("{% for i in range(9999)|list %}" * 2 + _END * 2, "rounds"),
    "loops over a text": (
        "{% set s = 'ab' * 500 %}" + "{% for a in s %}" * 4 + _END * 4,
        "longer than",
    ),
    "loop in a macro": (
        "{% macro f() %}" + _BIG + _END + "{% endmacro %}" + _BIG + "{{ f() }}" + _END,
        "longer than",
    ),
    "range that is too big": ("{% for i in range(9 * 99999) %}{% endfor %}", "too long"),
    "list of a huge range": ("{{ range(10 ** 9)|list }}", "power"),
    "1 GB in a loop": (_BIG + "{{ 'x' * 10000 }}" + _END, "MiB"),
    "1 GB at once": ("{{ 'x' * 1000 * 1000 * 1000 }}", "measure"),
    "1 GB for another row": (
        "{% if messages|length > 7777 %}{{ 'x' * 1000 * 1000 * 1000 }}{% endif %}",
        "measure",
    ),
    "one large number": ("{{ 'x' * 1000000000 }}", "measure"),
    "a width": ("{{ '%999999999d' | format(1) }}", "width"),
    "a width in braces": ("{{ '{:>999999999}'.format(1) }}", "width"),
    "center": ("{{ 'x'|center(999999999) }}", "number"),
    "indent": ("{{ 'x\n'|indent(1000000000, true) }}", "number"),
    "doubling": (
        "{% set ns = namespace(x='x' * 99) %}{% for i in range(99) %}"
        "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "memory",
    ),
    "doubling by join": (
        "{% set ns = namespace(x='x' * 99) %}{% for i in range(99) %}"
        "{% set ns.x = [ns.x, ns.x, ns.x]|join %}{% endfor %}",
        "memory",
    ),
    "doubling lists": (
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "memory",
    ),
    "replace": (
        "{% set ns = namespace(x='x' * 999) %}{% for i in range(9) %}"
        "{% set ns.x = ns.x|replace('x', ns.x) %}{% endfor %}",
        "memory",
    ),
    "huge power": ("{{ 9 ** 9 ** 9 }}", "power"),
    "power of data": ("{{ (messages|length + 9) ** 99999 ** 9 }}", "power"),
    "power for another row": ("{% if messages|length > 7777 %}{{ 9 ** 9 ** 9 }}{% endif %}", "power"),
    "a macro that calls itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "without end"),
    "a tree of macros": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "longer than",
    ),
    "two macros that call each other": (
        "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
        "",
    ),
    "a recursive loop": (
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "without end",
    ),
    "nested brackets": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested"),
    "include": ("{% include 'CANARY' %}", "another file"),
    "import": ("{% import '/etc/passwd' as x %}", "another file"),
    "from import": ("{% from '/etc/passwd' import x %}", "another file"),
    "extends": ("{% extends '/etc/passwd' %}", "another file"),
    "random": ("{{ [1, 2]|random }}", "random"),
    "lipsum": ("{{ lipsum(n=100) }}", "random"),
    "two million characters": ("x" * 2_000_000, "characters"),
}  # fmt: skip
# Refused without a trial of seconds: these are put into real templates, in many places.
QUICK = [
    name
    for name, (text, reason) in TEMPLATES.items()
    if reason not in ("longer than", "memory", "characters")
]


def hidden_templates(real: dict[str, str], number: int) -> list[tuple[str, str]]:
    """Real templates with something from TEMPLATES in them, half of it where only some rows come by."""
    draw = random.Random(SEED)
    made = []
    static = [n for n in QUICK if TEMPLATES[n][1] not in ("", "MiB", "too long", "without end", "reaches")]
    for _ in range(number):
        family, hidden = draw.choice(sorted(real)), draw.random() < 0.5
        name = draw.choice(static if hidden else QUICK)
        text = TEMPLATES[name][0]
        if "extends" in text or "nested" in name:
            hidden = False
        if hidden:
            text = "{% if messages|length > 7777 %}" + text + "{% endif %}"
        made.append((f"{name} in {family}", text + real[family]))
    return made


# --- GGUF --------------------------------------------------------------------------------------------------


def string(text: str) -> bytes:
    """A string of the format: its length, then its bytes."""
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf(num_tensors: int = 0, num_keys: int = 0, rest: bytes = b"", version: int = 3) -> bytes:
    """A header that claims so many tensors and keys, and `rest`."""
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys) + rest


def key(name: str, kind: int, value: bytes) -> bytes:
    """A key with its value of a type of the format."""
    return string(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    """An array that claims `count` items."""
    return struct.pack("<IQ", kind, count) + items


def tensor(name: str, extents: list[int], kind: int, offset: int, num_dimensions: int | None = None) -> bytes:
    """What a header says of a tensor."""
    claimed = len(extents) if num_dimensions is None else num_dimensions
    packed = b"".join(struct.pack("<Q", each) for each in extents)
    return string(name) + struct.pack("<I", claimed) + packed + struct.pack("<IQ", kind, offset)


def hostile_ggufs() -> dict[str, bytes]:
    """Headers that lie, by what they lie about."""
    nested = b"".join(array(9, 1) for _ in range(3000))
    huge = 1 << 63
    return {
        "49 bytes": gguf(0, 1, key("a", 9, array(0, huge)))[:49],
        "array of 2^63 numbers": gguf(0, 1, key("a", 9, array(0, huge))),
        "array of 2^63 strings": gguf(0, 1, key("a", 9, array(8, huge))),
        "array of 2^62 arrays": gguf(0, 1, key("a", 9, array(9, 1 << 62))),
        "nested arrays": gguf(0, 1, key("a", 9, nested)),
        "2^63 keys": gguf(0, huge),
        "2^63 tensors": gguf(huge, 0),
        "a million keys": gguf(0, 1_000_000),
        "string of 2^63": gguf(0, 1, struct.pack("<Q", huge)),
        "value of 2^63 bytes": gguf(0, 1, key("a", 8, struct.pack("<Q", huge))),
        "string that wraps": gguf(0, 1, struct.pack("<Q", (1 << 64) - 8)),
        "five million items that fit": gguf(0, 1, key("a", 9, array(0, 5_000_000, bytes(5_000_000)))),
        "unknown value type": gguf(0, 1, key("a", 77, bytes(8))),
        "unknown item type": gguf(0, 1, key("a", 9, array(77, 1, bytes(8)))),
        "a key twice": gguf(0, 2, key("a", 0, b"1") * 2),
        "alignment of zero": gguf(0, 1, key("general.alignment", 4, struct.pack("<I", 0))),
        "alignment of three": gguf(0, 1, key("general.alignment", 4, struct.pack("<I", 3))),
        "alignment that is text": gguf(0, 1, key("general.alignment", 8, string("x"))),
        "a million dimensions": gguf(1, 0, tensor("t", [1], 0, 0, num_dimensions=1_000_000)),
        "extents that wrap": gguf(1, 0, tensor("t", [4194305, 4194305, 211106198978564], 0, 0) + bytes(64)),
        "tensor beyond the end": gguf(1, 0, tensor("t", [8], 0, 1 << 40) + bytes(64)),
        "tensor askew": gguf(1, 0, tensor("t", [1], 0, 1) + bytes(99)),
        "unknown tensor type": gguf(1, 0, tensor("t", [8], 999, 0) + bytes(64)),
        "half a block": gguf(1, 0, tensor("t", [33], 8, 0) + bytes(99)),
        "version 1": gguf(version=1),
        "other byte order": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        "another magic": b"GGML" + bytes(40),
        "nothing": b"",
    }
