"""`tunesmith doctor`: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import typer
from rich.markup import escape
from rich.table import Table

from tunesmith import __version__
from tunesmith.cli.library_log import libraries_logged
from tunesmith.cli.output import DebugFlag, JsonFlag, verb
from tunesmith.runs.folder import package_versions
from tunesmith.train.versions import PackageRange, install_command, package_ranges

app = typer.Typer(add_completion=False, rich_markup_mode=None)

GIB = 2**30
INSTALL = "pip install 'tunesmith[train]'"
UNTESTED = "Apple MPS, macOS and Windows (built for, not run by the project's own tests)"


@app.command()
def doctor(as_json: JsonFlag = False, debug: DebugFlag = False) -> None:
    """What this machine has, what is missing, and how to get it."""
    with verb("doctor", as_json, debug) as out:
        with libraries_logged():
            facts = examine()
        packages = package_ranges()
        wrong = [each for each in packages if each.found is not None and not each.fits]
        named = {**facts["versions"], **{each.name: each.found for each in packages}}
        missing = [name for name, version in named.items() if version is None]
        install = INSTALL if missing else install_command(wrong) if wrong else None
        out.document(
            **facts,
            packages=[{**each._asdict(), "fits": each.fits} for each in packages],
            missing=missing,
            out_of_range=[each.name for each in wrong],
            install=install,
        )
        if as_json:
            return
        table = Table(show_header=False, box=None, padding=(0, 1))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in _lines(facts).items():
            table.add_row(name, escape(text))
        out.table(table)
        out.table(_package_table(packages, facts["versions"]))
        if missing:
            out.say(f"missing: {', '.join(missing)}. To train, install them: {INSTALL}", style="yellow")
        if wrong:
            out_of_range = ", ".join(f"{each.name} {each.found} (needs {each.needed})" for each in wrong)
            out.say(f"out of range: {out_of_range}. To train: {install_command(wrong)}", style="yellow")
        if install is None:
            out.say("ready to train: tunesmith demo")


def examine() -> dict[str, Any]:
    """Versions, device, memory, disk and Hub login, as plain facts."""
    versions = package_versions()
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    facts: dict[str, Any] = {
        "tunesmith": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "executable": sys.executable,
        "versions": versions,
        "memory_gib": {"total": round(memory.total / GIB, 1), "available": round(memory.available / GIB, 1)},
        "disk_gib": {"free": round(disk.free / GIB, 1)},
        "cores": psutil.cpu_count(logical=True),
        "hub_login": _hub_login(),
        "device": None,
        "untested": UNTESTED,
    }
    if versions["torch"]:
        from tunesmith.train.machine import probe_machine

        facts["device"] = vars(probe_machine())
    return facts


def _hub_login() -> str:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return "offline (HF_HUB_OFFLINE is set)"
    return (
        "a token is stored"
        if get_token()
        else "none (hf auth login; needed for gated and private repositories)"
    )


def _package_table(packages: Sequence[PackageRange], versions: dict[str, str | None]) -> Table:
    """Each package with its installed version and its range; what does not fit is marked."""
    table = Table("package", "installed", "range", "", box=None, padding=(0, 1))
    for each in packages:
        mark = "" if each.fits else "missing" if each.found is None else "out of range"
        table.add_row(
            each.name, escape(each.found or "-"), escape(each.needed), f"[bold red]{mark}[/]" if mark else ""
        )
    if not packages:  # a source tree that was never installed: no metadata to read ranges from
        for name, version in versions.items():
            table.add_row(name, version or "-", "unknown", "")
    return table


def _lines(facts: dict[str, Any]) -> dict[str, str]:
    device, memory = facts["device"], facts["memory_gib"]
    return {
        "tunesmith": facts["tunesmith"],
        "python": f"{facts['python']} at {facts['executable']}",
        "system": facts["system"],
        "device": (
            f"{device['device']}: {device['device_name']}, "
            f"{'native bf16' if device['native_bf16'] else 'no native bf16'}"
            if device
            else "unknown until torch is installed"
        ),
        "memory": f"{memory['available']} of {memory['total']} GiB free, {facts['cores']} cores",
        "disk": f"{facts['disk_gib']['free']} GiB free here",
        "Hub login": facts["hub_login"],
        "not tested": facts["untested"],
    }
