"""Help for a verb with many options: every name whole at any width, grouped by what it is about."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class PlainHelpCommand(TyperCommand):
    """typer's panels cut long option names off at 80 columns; a list of definitions doesn't."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record:
                is_option = parameter.param_type_name == "option"
                name = getattr(parameter, "rich_help_panel", None) or (
                    "Options" if is_option else "Arguments"
                )
                groups.setdefault(name, []).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)
