"""The inside of a chat template's trial: walls first, then the template. Started, never imported.

It runs as `python -I -S`, imports jinja2 alone and tells its verdict as one line of JSON: `reason` is a
clause that says why the template is refused, or null. Where it is ended before it can tell, the parent tells.
"""

from __future__ import annotations

import json
import marshal
import re
import signal
import sys
from datetime import datetime
from typing import Any, NoReturn

# A round of a loop takes some 50 ns: a million pass for work, a thousand million don't.
_MOST_ROUNDS = 1_000_000
# How far a loop is taken to go whose range depends on data.
_TYPICAL_ROUNDS = 1_000
_LARGEST_NUMBER = 1_000_000
_LARGEST_POWER = 64
_MOST_CHARACTERS = 16 << 20
# Of lists and dictionaries: the sandbox keeps them as they are, and honest templates try.
_CHANGES = {
    "append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault", "sort",
    "update",
}  # fmt: skip


def _main() -> None:
    asked = marshal.loads(sys.stdin.buffer.read())
    sys.path[:0] = asked["paths"]

    try:
        from tunesmith.rewards.sandbox_child import build_walls
    except ImportError:  # Windows has none: there the parent's clock alone ends it
        pass
    else:
        build_walls(asked["walls"], asked["parent"])
        # The kernel ends it, whatever C code it is in by then.
        signal.setitimer(signal.ITIMER_REAL, asked["time_s"])
    try:
        reason = _judge(asked)
    except MemoryError:
        reason = "it takes more memory than it may"
    except RecursionError:
        reason = "it calls itself without end, or is nested too deeply"
    sys.stdout.write(json.dumps({"reason": reason}))


def _judge(asked: dict[str, Any]) -> str | None:
    """Why the template is refused; None where it passed, or can't be read (each row then says so)."""
    import jinja2

    environment = _environment()
    try:
        tree = environment.parse(asked["template"])
        reason = _odd_node(tree) or _too_many_rounds(tree, 1)
        if reason:
            return reason
        template = environment.from_string(asked["template"])
    except (MemoryError, RecursionError):
        raise
    except (jinja2.TemplateError, ValueError, SyntaxError):
        return None
    for conversation in asked["conversations"]:
        reason = _render(template, {**asked["variables"], **conversation})
        if reason:
            return reason
    return None


def _render(template: Any, variables: dict[str, Any]) -> str | None:
    from jinja2.exceptions import SecurityError

    length = 0
    try:
        for piece in template.generate(documents=None, **variables):
            length += len(piece)
            if length > _MOST_CHARACTERS:
                return f"it writes more than {_MOST_CHARACTERS >> 20} MiB for a short conversation"
    except (MemoryError, RecursionError):
        raise
    except SecurityError as error:
        name = re.search(r"attribute '(\w+)'", str(error))
        return None if name and name[1] in _CHANGES else f"it reaches for what it may not have: {error}"
    except OverflowError as error:
        return f"it loops too long: {error}" if "Range too big" in str(error) else None
    except Exception:  # templates raise where they refuse a role or a tool: each row says so itself
        return None
    return None


# --- what can be seen without running it ------------------------------------------------------------------


def _odd_node(tree: Any) -> str | None:
    """The first thing in a template that no honest one has, told of in words."""
    from jinja2 import nodes

    for node in tree.find_all(nodes.Node):
        reason = _odd(node)
        if reason:
            return f"{reason} (line {getattr(node, 'lineno', 1)})"
    return None


def _odd(node: Any) -> str | None:
    from jinja2 import nodes

    match node:
        case nodes.Include() | nodes.Import() | nodes.FromImport() | nodes.Extends():
            return "it wants another file"
        case nodes.Getattr(attr=name) | nodes.NSRef(attr=name) if name.startswith("__"):
            return f"it reaches for {name}"
        case nodes.Const(value=str() as text) if re.search(r"^__[a-z]+__$|[.\[]__[a-z]+__", text):
            return f"it reaches for {text}"
        # A width in a format: '%999999999d', '{:>999999999}'.
        case nodes.Const(value=str() as text) if re.search(r"[%{][^\s}]{0,20}\d{7}", text):
            return "it formats with a width of millions"
        case nodes.Const(value=int() | float() as number) if abs(number) > _LARGEST_NUMBER:
            return f"it holds the number {number:g}"
        case nodes.Filter(name="random") | nodes.Name(name="lipsum"):
            return "it draws at random, so that no two renderings are alike"
        case nodes.Pow() if not _small_power(node):
            return "it raises to a power"
        case nodes.Mul():
            return _large_product(node)
    return None


def _small_power(node: Any) -> bool:
    from jinja2 import nodes

    parts = (node.left, node.right)
    if any(not isinstance(part, nodes.Const) or not isinstance(part.value, int) for part in parts):
        return False
    base, exponent = (abs(part.value) for part in parts)
    return exponent <= _LARGEST_POWER and bool(base**exponent <= _LARGEST_NUMBER)


def _large_product(node: Any) -> str | None:
    """Products of constants are computed when the template is compiled, before any row is seen."""
    from jinja2 import nodes

    try:
        value = node.as_const()
    except nodes.Impossible as error:
        return "it multiplies without measure" if isinstance(error.__cause__, MemoryError) else None
    size = len(value) if hasattr(value, "__len__") else abs(value)
    return "it multiplies without measure" if size > _LARGEST_NUMBER else None


def _too_many_rounds(node: Any, rounds: int) -> str | None:
    """Loops over ranges and constants, one in the other, that make too many rounds."""
    from jinja2 import nodes

    if isinstance(node, nodes.For):
        rounds *= _rounds(node.iter)
        if rounds > _MOST_ROUNDS:
            return f"its loops make {rounds:.0e} rounds (line {node.lineno})"
    return next(
        (found for each in node.iter_child_nodes() if (found := _too_many_rounds(each, rounds))), None
    )


def _rounds(over: Any) -> int:
    from jinja2 import nodes

    while isinstance(over, nodes.Filter) and over.node is not None:
        over = over.node
    if isinstance(over, nodes.Call) and isinstance(over.node, nodes.Name) and over.node.name == "range":
        try:
            return len(range(*(each.as_const() for each in over.args)))
        except (nodes.Impossible, TypeError, ValueError, OverflowError):
            return _TYPICAL_ROUNDS
    try:
        value = over.as_const()
    except nodes.Impossible:
        return 1
    return max(1, len(value)) if hasattr(value, "__len__") else 1


# --- what transformers gives to a template ----------------------------------------------------------------


def _environment() -> Any:
    """The environment of transformers 5.23 (utils/chat_template_utils.py), which takes seconds to import."""
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Any) -> Any:
            return caller()

    class Namespace(jinja2.utils.Namespace):
        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"a namespace keeps no {name!r}")
            super().__setitem__(name, value)

    def fail(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
               sort_keys: bool = False) -> str:  # fmt: skip
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals |= {
        "raise_exception": fail,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "namespace": Namespace,
    }
    return made


if __name__ == "__main__":
    _main()
