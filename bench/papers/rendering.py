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


def fill_scales(name: str, index: RecordIndex, scale: Scale | None = None) -> list[FilledTable]:
    """Fill a table at one scale, or at the paper's scale and all others with records."""
    if scale:
        return [fill_table(name, scale, index)]
    table = catalog.tables().get(name)
    every_scale = [fill_table(name, one, index) for one in (available_scales(table) if table else ("paper",))]
    return [filled for filled in every_scale if filled.scale == "paper" or filled.run]


def format_measured(value: float | None, row: TableRow) -> str:
    """Format a value with the decimals of the published number, at least three for a metric and two for a cost."""
    if value is None:
        return ""
    if row.metric in ("layers", "width", "heads"):
        return f"{value:g}"
    decimals = max(len(row.printed.partition(".")[2]), 3 if row.metric in METRIC_TYPES else 2)
    return f"{round(value, decimals) + 0:.{decimals}f}"


def format_row(row: TableRow, *, show_variant: bool) -> dict[str, str]:
    """Format a row as column -> text; `show_variant` adds the variant that measures the line."""
    interval = ""
    if row.low is not None and row.high is not None:
        interval = f"{format_measured(row.low, row)} to {format_measured(row.high, row)}"
    sign = "+" if row.difference is not None and row.difference > 0 else ""
    return {
        "row": row.line,
        "metric": f"{row.metric} {ARROWS.get(row.direction, '')}".rstrip(),
        "published": _format_published(row),
        "source": row.source,
        **({"measured here": row.cell} if show_variant else {}),
        "measured": format_measured(row.measured, row),
        "95 % interval": interval,
        "seeds": str(row.seeds) if row.seeds else "",
        "difference": sign + format_measured(row.difference, row),
        "verdict": row.verdict,
    }


def _format_published(row: TableRow) -> str:
    """Return the printed number, marked if it is uncertain, or the outcome in words."""
    if not row.printed:
        return row.words
    return row.printed if published_results.is_certain(row.verified) else f"{row.printed} ({UNCERTAIN_MARK})"


def format_rows(table: FilledTable) -> list[dict[str, str]]:
    """Format the rows of a table; the source is a column only if it differs between lines."""
    renamed = any(row.cell and row.cell != row.line for row in table.rows) and any(row.measured for row in table.rows)
    rows = [format_row(row, show_variant=renamed and table.rows[0].metric in METRIC_TYPES) for row in table.rows]
    return [{k: v for k, v in row.items() if k != "source"} for row in rows] if common_source(table) else rows


def common_source(table: FilledTable) -> str:
    """Return the source of all published values; "" if they have several."""
    sources = {row.source for row in table.rows}
    return sources.pop() if len(sources) == 1 else ""


def table_notes(table: FilledTable) -> list[str]:
    """Return the sentences below a table: verdict, order, sources, protocol and notes."""
    verdict = f"Verdict: {table.verdict}"
    if table.cells:
        verdict += f"; {table.run} of {table.cells} line{'s'[: table.cells > 1]} measured"
    notes = [f"{verdict}."]
    if table.order:
        notes.append(f"Order: {table.order.verdict}; {table.order.describe()}.")
    if source := common_source(table):
        notes.append(f"Published: {source}.")
    if table.protocol:
        notes.append(f"Measured: {table.protocol}.")
    if table.run and table.scale != "paper":
        notes.append(f"At {table.scale} scale the numbers cannot be compared with published ones, only the order can.")
    if any(row.printed and not published_results.is_certain(row.verified) for row in table.rows):
        notes.append("Unsure: recalled from memory or read off a figure, so no measurement is judged by it.")
    return [*notes, *table.notes]


def render_tables(tables: Sequence[FilledTable], style: TableFormat) -> str:
    """Render one table, filled at one or more scales."""
    if style == "csv":
        return render_csv(tables)
    parts = []
    for table in tables:
        body = tabulate(format_rows(table), headers="keys", tablefmt=TABULATE_FORMATS[style], disable_numparse=True)
        parts.append({"text": _text, "md": _markdown, "latex": _latex, "html": _html}[style](table, body))
    return "\n\n".join(parts) + "\n"


def table_heading(table: FilledTable) -> str:
    """Return name, title, paper and scale of a table in a line."""
    return f"{table.name}: {table.title} ({table.paper}), {table.scale} scale"


def _text(table: FilledTable, body: str) -> str:
    run = ["To run:", *(f"  {command}" for command in table.commands)] if table.commands else []
    return "\n".join([table_heading(table), "", body, "", *table_notes(table), *run])


def _markdown(table: FilledTable, body: str) -> str:
    run = ["To run:\n", *(f"    {command}" for command in table.commands)] if table.commands else []
    notes = [f"{note}\n" for note in table_notes(table)]
    return "\n".join([f"## {table.scale.capitalize()} scale\n", body, "", *notes, *run]).rstrip()


def _latex(table: FilledTable, body: str) -> str:
    comments = [f"% {line}" for line in (table_heading(table), *table_notes(table), *table.commands)]
    return "\n".join([*comments, body])


def _html(table: FilledTable, body: str) -> str:
    notes = "".join(f"<p>{escape(line)}</p>\n" for line in table_notes(table))
    run = "".join(f"<pre>{escape(command)}</pre>\n" for command in table.commands)
    return f"<section>\n<h2>{escape(table_heading(table))}</h2>\n{body}\n{notes}{run}</section>"


CSV_FIELDS = (
    *("table", "scale", "line", "metric", "direction", "published", "words", "source", "verified", "note", "cell"),
    *("measured", "low", "high", "deviation", "seeds", "difference", "verdict", "records"),
)


def render_csv(tables: Sequence[FilledTable]) -> str:
    """Render every value with all its fields as CSV, unrounded; published numbers are as printed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for table in tables:
        for row in table.rows:
            fields: dict[str, Any] = {"table": table.name, "scale": table.scale}
            fields |= {"published": row.printed, "records": " ".join(row.records)}
            cells = [fields[f] if f in fields else getattr(row, f) for f in CSV_FIELDS]
            writer.writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()


def list_tables(index: RecordIndex) -> list[dict[str, str]]:
    """Return a row for each table, with measured lines and verdict at each scale, and a row for each figure."""
    rows = []
    for name, table in catalog.tables().items():
        row = {"name": name, "what": f"{table.title} ({table.paper})", "paper": "", "digits": "", "shapes": ""}
        for scale in available_scales(table):
            filled = fill_table(name, scale, index)
            row[scale] = f"{filled.run} of {filled.cells}, {filled.verdict}" if filled.cells else filled.verdict
        rows.append(row)
    for name, figure in catalog.figures().items():
        title = f"{figure.title} ({figure.paper}): python -m bench.figures {figure.drawn}"
        rows.append({"name": name, "what": title, "paper": f"the numbers of {' and '.join(figure.tables)}"})
    return rows


def render_page(name: str, index: RecordIndex) -> str:
    """Render the content of results/tables/NAME.md."""
    tables = fill_scales(name, index)
    other_scales = [s for s in available_scales(catalog.tables()[name]) if s not in {table.scale for table in tables}]
    commands = [f"    {fill_table(name, scale, index).commands[0]}" for scale in other_scales]
    head = f"# {name}: {tables[0].title}\n\n{tables[0].paper}. {GENERATED_NOTE}\n"
    missing = "\n".join(["", "## Not run\n", *commands, ""]) if commands else ""
    return f"{head}\n{render_tables(tables, 'md')}{missing}"


def render_pages(index: RecordIndex) -> dict[str, str]:
    """Render all files of results/tables/: file name -> content."""
    rows = [
        {**row, "name": f"[{row['name']}]({row['name']}.md)"} if row["name"] in catalog.tables() else row
        for row in list_tables(index)
    ]
    list_ = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    commands = "The page of a table has the commands that run the missing lines."
    readme = f"# The papers' tables\n\n{GENERATED_NOTE} {commands}\n\n{verdicts.RULES}\n{list_}\n"
    return {"README.md": readme, **{f"{name}.md": render_page(name, index) for name in catalog.tables()}}


def write_pages(results: Path) -> int:
    """Rebuild results/tables/, remove the pages of tables that no longer exist, and return the number of pages."""
    pages = render_pages(RecordIndex(read_records(results)))
    folder = results / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        with atomic_write(folder / name) as partial:
            partial.write_text(text)
    for path in folder.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    return len(pages)


def render_figure(name: str, index: RecordIndex, scale: Scale | None, style: TableFormat) -> str:
    """Render the tables whose numbers a figure shows."""
    tables = catalog.figures()[name].tables
    return "\n".join(render_tables(fill_scales(table, index, scale), style) for table in tables)
