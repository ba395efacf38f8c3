"""`tunesmith preview`: rows as the trainer sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tunesmith.cli import data_options as options
from tunesmith.cli.data_options import known_method, model_fit, source_of
from tunesmith.cli.data_progress import DataProgress
from tunesmith.cli.library_log import libraries_logged
from tunesmith.cli.output import DebugFlag, JsonFlag, Output, verb
from tunesmith.cli.plain_help import PlainHelpCommand
from tunesmith.errors import ConfigError

if TYPE_CHECKING:
    from tunesmith.data.preview import PreviewRow

app = typer.Typer(add_completion=False, rich_markup_mode=None)

# Around text with loss, where there are no colours.
OPEN, CLOSE = "⟦", "⟧"
CUT = "✂ max_length cuts here ✂"


@app.command(cls=PlainHelpCommand)
def preview(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Hub id, file or folder.")],
    method: options.Method = "sft",
    model: options.Model = None,
    max_length: options.MaxLength = 1024,
    chat_template: options.ChatTemplate = None,
    maps: options.Map = None,
    split: options.Split = "train",
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many rows.")] = 3,
    rows: Annotated[list[int] | None, typer.Option("--row", min=0, help="This row. Repeat it.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Rows from anywhere, by this seed.")] = None,
    as_json: JsonFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Show rows as the trainer sees them, the tokens that carry loss marked."""
    with verb("preview", as_json, debug) as out:
        known_method(method)
        if model is None:
            raise ConfigError(
                "preview needs the model: its template and tokenizer make the text",
                where="--model",
                fix="add --model, a Hub id or a folder",
            )
        with libraries_logged(), DataProgress(out) as view:
            from tunesmith.data.column_map import parse_map
            from tunesmith.data.preview import preview as look

            fit = model_fit(model, chat_template, view.phase)
            assert fit is not None
            found = look(
                source_of(data, split), method, fit.tokenizer,
                given=parse_map(maps or []), wanted=rows or number, max_length=max_length, seed=seed,
            )  # fmt: skip
        for each in found.rows:
            show(out, each)
        legend = f"; {_legend(out)}" if any(row.num_learned for row in found.rows) else ""
        out.say(f"{data} is read as {found.layout.name}{legend}")
        shown = [each.as_dict() for each in found.rows]
        out.document(data=data, format=found.layout.name, method=method, rows=shown)


def show(out: Output, row: PreviewRow) -> None:
    """A row with its statistics, on stdout."""
    name = f"row {row.row}" + (f", {row.name}" if row.name != "row" else "")
    if row.fault:
        out.styled_text(Text.assemble((name, "bold"), ": ", (row.fault, "red")))
        return
    share = row.num_learned / max(1, row.num_tokens)
    cut = f", {row.num_cut:,} beyond max_length are cut" if row.num_cut else ""
    loss = f"{row.num_learned:,} carry loss ({share:.0%})"
    head = f"{name}: {row.num_tokens:,} tokens, {'the model writes the rest' if row.is_prompt else loss}{cut}"
    out.styled_text(Text(head, style="bold"))
    out.styled_text(_body(row, colours=out.has_colours))
    out.styled_text(Text())


def _body(row: PreviewRow, *, colours: bool) -> Text:
    text, is_cut = Text(), False
    for loss, pieces in _runs(row):
        text.append(OPEN if loss and not colours else "")
        for said, special, beyond in pieces:
            if beyond and not is_cut:
                is_cut = True
                text.append(CUT, style="bold red")
            style = ("green" if loss else "dim") + (" reverse" if special else "")
            text.append(said, style=style)
        text.append(CLOSE if loss and not colours else "")
    return text


def _runs(row: PreviewRow) -> list[tuple[bool, list[tuple[str, bool, bool]]]]:
    runs: list[tuple[bool, list[tuple[str, bool, bool]]]] = []
    for piece in row.pieces:
        if not runs or runs[-1][0] != piece.loss:
            runs.append((piece.loss, []))
        runs[-1][1].append((piece.text, piece.special, piece.cut))
    return runs


def _legend(out: Output) -> str:
    if out.has_colours:
        return "green carries loss, dim doesn't, special tokens are inverted"
    return f"what stands between {OPEN} and {CLOSE} carries loss"
