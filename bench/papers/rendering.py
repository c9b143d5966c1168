"""Render the papers' tables as text, Markdown, CSV, LaTeX or HTML.  Imports no torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal

from tabulate import tabulate

from bench.config.metric_specs import ARROWS
from bench.experiments.suites import Scale
from bench.papers import catalog, published_results, verdicts
from bench.papers.filling import METRIC_TYPES, FilledTable, TableRow, available_scales, fill_table
from bench.papers.run_matching import RecordIndex
from bench.records.record import read_records
from bench.storage.atomic import atomic_write

TableFormat = Literal["text", "md", "csv", "latex", "html"]
TABULATE_FORMATS = {"text": "simple", "md": "github", "latex": "latex_booktabs", "html": "html"}
UNCERTAIN_MARK = "unsure"
GENERATED_NOTE = "Made by `python -m bench.tables --write` from the records and results/published/; do not edit."


def fill_scales(name: str, ledger: RecordIndex, scale: Scale | None = None) -> list[FilledTable]:
    """A table at the scale that is asked for, or at the paper's and at all others that have records."""
    if scale:
        return [fill_table(name, scale, ledger)]
    table = catalog.tables().get(name)
    whole = [fill_table(name, one, ledger) for one in (available_scales(table) if table else ("paper",))]
    return [one for one in whole if one.scale == "paper" or one.run]


def format_measured(value: float | None, row: TableRow) -> str:
    """A measured number with as many decimals as the published one, and at least two where it is no whole number."""
    if value is None:
        return ""
    if row.metric in ("layers", "width", "heads"):
        return f"{value:g}"
    decimals = max(len(row.printed.partition(".")[2]), 3 if row.metric in METRIC_TYPES else 2)
    return f"{round(value, decimals) + 0:.{decimals}f}"


def format_row(row: TableRow, *, own_cell: bool) -> dict[str, str]:
    """A row for people."""
    interval = (
        ""
        if row.low is None or row.high is None
        else f"{format_measured(row.low, row)} to {format_measured(row.high, row)}"
    )
    difference = "" if row.difference is None else f"{format_measured(row.difference, row)}"
    if row.difference is not None and row.difference > 0:
        difference = f"+{difference}"
    found = {
        "row": row.line,
        "metric": f"{row.metric} {ARROWS.get(row.direction, '')}".rstrip(),
        "published": _format_published(row),
        "source": row.source,
    }
    if own_cell:
        found["measured here"] = row.cell
    return found | {
        "measured": format_measured(row.measured, row),
        "95 % interval": interval,
        "seeds": str(row.seeds) if row.seeds else "",
        "difference": difference,
        "verdict": row.verdict,
    }


def _format_published(row: TableRow) -> str:
    """The number as printed, or the outcome in words; marked where the number is not sure."""
    if not row.printed:
        return row.words
    return row.printed if published_results.is_certain(row.verified) else f"{row.printed} ({UNCERTAIN_MARK})"


def format_rows(one: FilledTable) -> list[dict[str, str]]:
    own_cell = any(row.cell and row.cell != row.line for row in one.rows) and any(row.measured for row in one.rows)
    own_cell = own_cell and one.rows[0].metric in METRIC_TYPES
    lines = [format_row(row, own_cell=own_cell) for row in one.rows]
    return [{k: v for k, v in line.items() if k != "source"} for line in lines] if common_source(one) else lines


def common_source(one: FilledTable) -> str:
    """Where all that was published stands; "" where lines have several sources, which then have a column."""
    sources = {row.source for row in one.rows}
    return sources.pop() if len(sources) == 1 else ""


def table_notes(one: FilledTable) -> list[str]:
    """What is said below a table: verdict, order, protocol, notes and commands."""
    said = f"Verdict: {one.verdict}"
    if one.cells:
        said += f"; {one.run} of {one.cells} line{'s'[: one.cells > 1]} measured"
    words = [f"{said}."]
    if one.order:
        words.append(f"Order: {one.order.verdict}; {one.order.sentence()}.")
    if source := common_source(one):
        words.append(f"Published: {source}.")
    if one.protocol:
        words.append(f"Measured: {one.protocol}.")
    if one.run and one.scale != "paper":
        words.append(f"At {one.scale} scale the numbers are not comparable with the published ones, only the order is.")
    if any(row.printed and not published_results.is_certain(row.verified) for row in one.rows):
        words.append("Unsure: recalled, or read off a figure; not held to.")
    words += one.notes
    return words


def render_tables(found: Sequence[FilledTable], style: TableFormat) -> str:
    """A table at one scale or more, in a format."""
    if style == "csv":
        return render_csv(found)
    parts = []
    for one in found:
        table = tabulate(format_rows(one), headers="keys", tablefmt=TABULATE_FORMATS[style], disable_numparse=True)
        parts.append({"text": _text, "md": _markdown, "latex": _latex, "html": _html}[style](one, table))
    return "\n\n".join(parts) + "\n"


def table_heading(one: FilledTable) -> str:
    return f"{one.name}: {one.title} ({one.paper}), {one.scale} scale"


def _text(one: FilledTable, table: str) -> str:
    run = [f"  {command}" for command in one.commands]
    return "\n".join([table_heading(one), "", table, "", *table_notes(one), *(["To run:", *run] if run else [])])


def _markdown(one: FilledTable, table: str) -> str:
    run = ["To run:\n", *(f"    {command}" for command in one.commands)] if one.commands else []
    return "\n".join(
        [f"## {one.scale.capitalize()} scale\n", table, "", *(f"{w}\n" for w in table_notes(one)), *run]
    ).rstrip()


def _latex(one: FilledTable, table: str) -> str:
    comments = [f"% {line}" for line in (table_heading(one), *table_notes(one), *one.commands)]
    return "\n".join([*comments, table])


def _html(one: FilledTable, table: str) -> str:
    notes = "".join(f"<p>{escape(line)}</p>\n" for line in table_notes(one))
    run = "".join(f"<pre>{escape(command)}</pre>\n" for command in one.commands)
    return f"<section>\n<h2>{escape(table_heading(one))}</h2>\n{table}\n{notes}{run}</section>"


CSV_FIELDS = (
    *("table", "scale", "line", "metric", "direction", "published", "words", "source", "verified", "note", "cell"),
    *("measured", "low", "high", "deviation", "seeds", "difference", "verdict", "records"),
)


def render_csv(found: Sequence[FilledTable]) -> str:
    """Every value with all its fields, unrounded; the published number as printed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for one in found:
        for row in one.rows:
            more: dict[str, Any] = {"table": one.name, "scale": one.scale}
            more |= {"published": row.printed, "records": " ".join(row.records)}
            cells = [more[f] if f in more else getattr(row, f) for f in CSV_FIELDS]
            writer.writerow(["" if cell is None else cell for cell in cells])
    return out.getvalue()


def list_tables(ledger: RecordIndex) -> list[dict[str, str]]:
    """Each table and figure: at each scale how many of its lines are measured, and the verdict."""
    found = []
    for name, table in catalog.tables().items():
        line = {"name": name, "what": f"{table.title} ({table.paper})", "paper": "", "digits": "", "shapes": ""}
        for scale in available_scales(table):
            one = fill_table(name, scale, ledger)
            line[scale] = f"{one.run} of {one.cells}, {one.verdict}" if one.cells else one.verdict
        found.append(line)
    for name, figure in catalog.figures().items():
        what = f"{figure.title} ({figure.paper}): python -m bench.figures {figure.drawn}"
        found.append({"name": name, "what": what, "paper": f"the numbers of {' and '.join(figure.tables)}"})
    return found


def render_page(name: str, ledger: RecordIndex) -> str:
    """results/tables/NAME.md."""
    found = fill_scales(name, ledger)
    rest = [s for s in available_scales(catalog.tables()[name]) if s not in {one.scale for one in found}]
    unrun = [f"    {fill_table(name, scale, ledger).commands[0]}" for scale in rest]
    head = f"# {name}: {found[0].title}\n\n{found[0].paper}. {GENERATED_NOTE}\n"
    more = "\n".join(["", "## Not run\n", *unrun, ""]) if unrun else ""
    return f"{head}\n{render_tables(found, 'md')}{more}"


def render_pages(ledger: RecordIndex) -> dict[str, str]:
    """File name -> content of all of results/tables/."""
    rows = [
        {**line, "name": f"[{line['name']}]({line['name']}.md)"} if line["name"] in catalog.tables() else line
        for line in list_tables(ledger)
    ]
    index = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    commands = "A table's page has the commands that run what is missing."
    made = {"README.md": f"# The papers' tables\n\n{GENERATED_NOTE} {commands}\n\n{verdicts.RULES}\n{index}\n"}
    return made | {f"{name}.md": render_page(name, ledger) for name in catalog.tables()}


def write_pages(results: Path) -> int:
    """Rebuild results/tables/; files of tables that there are no more are removed.  The number of pages."""
    made = render_pages(RecordIndex(read_records(results)))
    folder = results / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        with atomic_write(folder / name) as partial:
            partial.write_text(text)
    for path in folder.glob("*.md"):
        if path.name not in made:
            path.unlink()
    return len(made)


def render_figure(name: str, ledger: RecordIndex, flags: Any) -> str:
    """The tables whose numbers a figure shows."""
    tables = catalog.figures()[name].tables
    return "\n".join(render_tables(fill_scales(table, ledger, flags.scale), flags.format) for table in tables)
