"""A validation report as a person reads it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from tunesmith.cli.output import Output

if TYPE_CHECKING:
    from tunesmith.cli.validate_request import Flags
    from tunesmith.data.findings import Finding
    from tunesmith.data.fix import Fixes
    from tunesmith.data.report import Report
    from tunesmith.errors import DataError

SHOWN_PER_CODE = 3
_STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}


def say_verdict(out: Output, report: Report) -> None:
    """What was read, every code that was found with its first places, lengths, and verdict."""
    for line in _lines(report):
        out.styled(line)


def say_fixed(out: Output, path: Path, fixes: Fixes, nothing_left: DataError | None) -> None:
    """What --fix did."""
    if nothing_left:
        out.say(f"no clean copy: {nothing_left.message}", style="yellow")
        return
    parts = [f"{count:,} dropped ({code})" for code, count in sorted(fixes.dropped.items())]
    parts += [f"{count:,} repaired ({code})" for code, count in sorted(fixes.repaired.items())]
    parts += ["converted to the standard columns"] if fixes.converted else []
    out.say(
        f"clean copy: {path} with {fixes.num_rows:,} rows; {', '.join(parts) or 'no row had to be changed'}"
    )


def next_line(report: Report, flags: Flags, *, mends: bool) -> str | None:
    """The command to give next, with the options of this one, or None."""
    from tunesmith.data.fix import DROPPED

    if flags.merge:
        return None
    if report.layout is None:
        return _map_line(report, flags)
    if mends:
        return _command(flags, data=str(flags.fix), maps=[]) if report.num_rows else None
    found = [finding for finding in report.log.kept() if finding.code in report.blocking]
    of_rows = [each for each in found if each.row is not None and not each.is_of_reward]
    if any(finding.code in DROPPED for finding in of_rows):
        return f"{_command(flags)} --fix clean.jsonl    writes a copy without those rows"
    if "D207" in report.blocking and report.tokens:
        return _command(flags, max_length=report.tokens["max_length_to_keep"]["99"])
    if any(finding.is_of_reward for finding in found):
        return f"{_command(flags)}    again, once that is mended"
    if found:
        return None
    if report.tokens is None:
        return f"{_command(flags)} --model MODEL    checks template, tokens and max_length"
    return _command(flags, verb="preview")


def _map_line(report: Report, flags: Flags) -> str | None:
    """The command with the columns that may be meant, where it is the columns that don't fit."""
    from tunesmith.data.misfit import GUESSED, example, map_text

    if "D107" not in report.log.counts:
        return None
    if report.guess:
        return f"{_command(flags, maps=[map_text(report.guess)])}    {GUESSED}"
    return f"{_command(flags, maps=[map_text(example(report.method))])}    with the names of your columns"


def _command(
    flags: Flags,
    *,
    verb: str = "validate",
    data: str | None = None,
    maps: list[str] | None = None,
    max_length: int | None = None,
) -> str:
    parts = ["tunesmith", verb, data or flags.data[0], "--method", flags.method]
    for name, value in (("--model", flags.model), ("--chat-template", flags.chat_template)):
        parts += [name, value] if value else []
    length = max_length or flags.max_length
    parts += ["--max-length", str(length)] if flags.model and length != 1024 else []
    parts += ["--split", flags.split] if flags.split != "train" and data is None else []
    for each in flags.maps if maps is None else maps:
        parts += ["--map", each]
    for each in flags.rewards if verb == "validate" else ():
        parts += ["--reward", each]
    return shlex.join(parts)


def _lines(report: Report) -> list[str]:
    layout = report.layout
    read = f"read as {layout.name} for {report.method}" if layout else f"no format of {report.method}"
    lines = [f"[bold]{escape(report.data)}[/]: {report.num_rows:,} rows, {escape(read)}"]
    if layout:
        lines += [f"  {escape(said)}" for said in layout.evidence]
        if layout.overrides:
            lines.append(f"  [dim]the same as {escape(layout.overrides)}[/]")
    counts = report.log.counts
    for code in _by_level(report):
        lines += _code_lines(report, code, counts[code])
    lines += ["", *_statistics(report)]
    return [*lines, _verdict(report)]


def _by_level(report: Report) -> list[str]:
    return list(dict.fromkeys(finding.code for finding in report.log.kept()))


def _code_lines(report: Report, code: str, count: int) -> list[str]:
    from tunesmith.data.findings import CODES

    meaning = CODES[code]
    allowed = " (allowed)" if code in report.allowed else ""
    lines = [
        "",
        f"[{_STYLES[meaning.level]}]{meaning.level}[/] {code} {escape(meaning.title)}: {count:,}{allowed}",
    ]
    shown = [finding for finding in report.log.kept() if finding.code == code][:SHOWN_PER_CODE]
    lines += [f"  {escape(_place(report, each))}: {escape(_short(each.message))}" for each in shown]
    if count > len(shown):
        lines.append(f"  and {count - len(shown):,} more (--findings FILE writes all)")
    lines += [f"  [dim]{escape(advice)}[/]" for advice in dict.fromkeys(each.fix for each in shown)]
    return lines


def _place(report: Report, finding: Finding) -> str:
    found = report.file_of(finding.row)
    if found is None:
        return finding.place
    return ", ".join([f"{found[0]}, row {found[1]}", *([finding.field] if finding.field else [])])


def _statistics(report: Report) -> list[str]:
    lines = []
    characters = report.statistics.get("characters") or {}
    if characters:
        lines.append(f"lengths: {_spread(characters, 'characters')}")
    tokens: dict[str, Any] = report.tokens or {}
    if tokens:
        sample = f" of a sample of {tokens['num_rows_read']:,} rows" if tokens["sampled"] else ""
        rows = tokens["loss_share_of_rows"]
        lines.append(
            f"tokens{sample}: {_spread(tokens, 'tokens')}; {tokens['loss_share']:.0%} carry loss "
            f"(in most rows {rows['p5']:.0%} to {rows['p95']:.0%}); "
            f"max_length {tokens['max_length']:,} cuts {tokens['num_cut']:,}"
        )
        keep = tokens["max_length_to_keep"]
        lines.append(
            f"max_length that keeps 95 / 99 / 100 %: {keep['95']:,} / {keep['99']:,} / {keep['100']:,}"
        )
    told = [f"{each['language']} {each['share']:.0%}" for each in report.statistics.get("languages", [])[:5]]
    if told:
        lines.append(f"languages: {', '.join(told)} (of {report.statistics['languages_sample']:,} rows)")
    for reward in report.rewards:
        lines.append(f"reward {reward.name}: {escape(reward.said())}")
    return lines


def _spread(lengths: dict[str, Any], unit: str) -> str:
    return f"mean {lengths['mean']:,g} {unit}, 95 % up to {lengths['p95']:,}, longest {lengths['max']:,}"


def _verdict(report: Report) -> str:
    errors, warnings = (report.log.num_of(level) for level in ("error", "warning"))
    allowed = sum(report.log.counts[code] for code in report.allowed)
    said = f"{_count(errors - allowed, 'error')}, {_count(warnings, 'warning')}"
    said += f", {allowed:,} allowed" if allowed else ""
    if report.fit:
        return f"[bold green]fit[/] for {report.method}: {said}"
    return f"[bold red]not fit[/] for {report.method}: {said}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _short(message: str) -> str:
    return message if len(message) <= 300 else message[:297] + "..."
