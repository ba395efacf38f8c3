"""A validation report as a person reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from tunesmith.cli.output import Output

if TYPE_CHECKING:
    from tunesmith.data.findings import Finding
    from tunesmith.data.fix import Fixes
    from tunesmith.data.report import Report

SHOWN_PER_CODE = 3
_STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}


def say_verdict(out: Output, report: Report, fixed: Path | None = None) -> None:
    """What was read, every code that was found with its first places, lengths, verdict, and the way on."""
    for line in _lines(report):
        out.styled(line)
    next_command = _next(report, fixed)
    if next_command:
        out.say(f"next:  {next_command}")


def say_fixed(out: Output, path: Path | None, fixes: Fixes) -> None:
    """What --fix did."""
    parts = [f"{count:,} dropped ({code})" for code, count in sorted(fixes.dropped.items())]
    parts += [f"{count:,} repaired ({code})" for code, count in sorted(fixes.repaired.items())]
    parts += ["converted to the standard columns"] if fixes.converted else []
    out.say(
        f"clean copy: {path} with {fixes.num_rows:,} rows; {', '.join(parts) or 'nothing had to be changed'}"
    )


def _lines(report: Report) -> list[str]:
    layout = report.layout
    read = f"read as {layout.name} for {report.method}" if layout else f"no format of {report.method}"
    lines = [f"[bold]{escape(report.data)}[/]: {report.num_rows:,} rows, {escape(read)}"]
    if layout:
        lines += [f"  {escape(said)}" for said in layout.evidence]
        if layout.overrides:
            lines.append(
                f"  [dim]that is {escape(layout.overrides)}; name other columns to read it otherwise[/]"
            )
    counts = report.log.counts
    for code in _by_level(report):
        lines += _code_lines(report, code, counts[code])
    lines += ["", *_statistics(report)]
    return [*lines, _verdict(report)]


def _next(report: Report, fixed: Path | None) -> str | None:
    from tunesmith.data.fix import DROPPED

    command = f"tunesmith validate {report.data} --method {report.method}"
    if report.layout is None or fixed:
        return None
    if not report.fit:
        mended = any(code in DROPPED for code in report.blocking)
        return f"{command} --fix clean.jsonl    writes a copy without those rows" if mended else None
    if report.tokens is None:
        return f"{command} --model MODEL    checks template, tokens and max_length"
    return f"tunesmith preview {report.data} --method {report.method} --model {report.tokens['model']}"


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
        lines.append(f"  and {count - len(shown):,} more")
    lines.append(f"  [dim]{escape(meaning.fix)}[/]")
    return lines


def _place(report: Report, finding: Finding) -> str:
    found = report.file_of(finding.row)
    return f"{found[0]}, row {found[1]}: {finding.place}" if found else finding.place


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
    said = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    if report.fit:
        return f"[bold green]fit[/] for {report.method}: {said}"
    return f"[bold red]not fit[/] for {report.method}: {said}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _short(message: str) -> str:
    return message if len(message) <= 300 else message[:297] + "..."
