"""Write docs/cli.md from the command line's own help, so that the two can't differ."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tunesmith.cli.app import VERBS, load_verb

TARGET = Path(__file__).with_name("cli.md")
HEADER = """\
# The command line

Written by `make docs` from `tunesmith --help`; a test holds it current. Data goes to stdout, messages to
stderr. Every command takes `--json` (one document on stdout at the end, progress as JSON lines on stderr) and
`--debug`.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | findings: the data are not fit |
| 2 | wrong input or configuration; nothing was left behind |
| 4 | the run stopped early and can be resumed |
| 5 | finished here; a push is pending, and one command goes on with it |
| 130 | interrupted by Ctrl-C; when a step was done, a checkpoint is written |
| 70 | internal error: a bug of ours |
"""


def page() -> str:
    """The whole of docs/cli.md."""
    return HEADER + "".join(section(name, load_verb(name)) for name in VERBS)


def section(name: str, command: Any) -> str:
    """One verb: usage, description, options."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = " ".join([f"tunesmith {name}", *(each.metavar for each in arguments)])
    lines = [f"\n## tunesmith {name}\n\n`{usage}`\n\n{_plain(command.help)}\n"]
    if options:
        lines.append("\n| option | meaning |\n|---|---|\n")
    for each in options:
        names = " / ".join(f"`{option}`" for option in (*each.opts, *each.secondary_opts))
        lines.append(f"| {names} | {_plain(each.help).replace('|', '&#124;')} |\n")
    return "".join(lines)


def _plain(text: str | None) -> str:
    """Help text without rich's escapes, its paragraphs kept."""
    return re.sub(r"\\\[", "[", "\n".join(line.strip() for line in (text or "").strip().splitlines()))


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
