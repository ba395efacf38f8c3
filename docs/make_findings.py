"""Write docs/findings.md from the codes themselves, so that the two can't differ."""

from __future__ import annotations

import textwrap
from pathlib import Path

from tunesmith.data.checks import balance
from tunesmith.data.findings import CODES

TARGET = Path(__file__).with_name("findings.md")
HEADER = """\
# Findings

Written by `make docs` from the code; a test holds it current. Codes are stable: scripts may rely on them.
An **error** stands in the way of training (`--allow CODE` accepts it), a **warning** is for you to look at,
**info** says what was done.
"""
GROUPS = {
    "D0": "Structure: each row, whatever the model",
    "D1": "Method: what this way of training needs",
    "D2": "Model: what its template and tokenizer make of the rows (`--model`)",
    "D3": "Set: rows beside each other",
    "D4": "Safety: what a model should not learn by heart (shown masked)",
    "D5": "Rewards: functions called on real rows (`--reward`)",
}
# What a table has no room for, under it.
LONGER, MOST = (f"{100 * share:.0f} %" for share in (balance.LONGER_SHARE, balance.FEW_SHARE))
NOTES = {
    "D1": (
        f"D103 is looked for from {balance.ENOUGH} pairs on: chosen is longer in {LONGER} of those that "
        f"differ in length, or {balance.LONGER_RATIO:g} times as long on average. From {balance.FEW} pairs "
        f"on it is enough that chosen is longer in {MOST}. Chosen that is shorter in {MOST} and half as long "
        "on average is reported too: then, and where it is twice as long, look whether the columns are "
        "swapped. Lengths are characters of the answers."
    ),
    "D5": (
        "A reward is called on up to 64 rows. `--fix` never takes a row out for what a reward did: mend the "
        "reward."
    ),
}


def page() -> str:
    """The whole of docs/findings.md."""
    parts = [HEADER]
    for prefix, title in GROUPS.items():
        parts.append(f"\n## {title}\n\n| code | level | what | what to do |\n|---|---|---|---|\n")
        parts += [
            f"| {code} | {meaning.level} | {meaning.title} | {meaning.fix} |\n"
            for code, meaning in CODES.items()
            if code.startswith(prefix)
        ]
        if prefix in NOTES:
            parts.append(f"\n{textwrap.fill(NOTES[prefix], 110)}\n")
    return "".join(parts)


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
