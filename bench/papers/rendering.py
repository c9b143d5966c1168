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
from bench.papers.filling import NAMES, Filled, Row, filled, scales
from bench.papers.run_matching import Ledger
from bench.records.record import read_all
from bench.storage.atomic import atomic

Format = Literal["text", "md", "csv", "latex", "html"]
STYLES = {"text": "simple", "md": "github", "latex": "latex_booktabs", "html": "html"}
UNSURE = "unsure"
MADE = "Made by `python -m bench.tables --write` from the records and results/published/; do not edit."


def sections(name: str, ledger: Ledger, scale: Scale | None = None) -> list[Filled]:
    """A table at the scale that is asked for, or at the paper's and at all others that have records."""
    if scale:
        return [filled(name, scale, ledger)]
    table = catalog.tables().get(name)
    whole = [filled(name, one, ledger) for one in (scales(table) if table else ("paper",))]
    return [one for one in whole if one.scale == "paper" or one.run]


def number(value: float | None, row: Row) -> str:
    """A measured number with as many decimals as the published one, and at least two where it is no whole number."""
    if value is None:
        return ""
    if row.metric in ("layers", "width", "heads"):
        return f"{value:g}"
    decimals = max(len(row.printed.partition(".")[2]), 3 if row.metric in NAMES else 2)
    return f"{round(value, decimals) + 0:.{decimals}f}"


def line_of(row: Row, *, own_cell: bool) -> dict[str, str]:
    """A row for people."""
    interval = "" if row.low is None or row.high is None else f"{number(row.low, row)} to {number(row.high, row)}"
    difference = "" if row.difference is None else f"{number(row.difference, row)}"
    if row.difference is not None and row.difference > 0:
        difference = f"+{difference}"
    found = {
        "row": row.line,
        "metric": f"{row.metric} {ARROWS.get(row.direction, '')}".rstrip(),
        "published": _published(row),
        "source": row.source,
    }
    if own_cell:
        found["measured here"] = row.cell
    return found | {
        "measured": number(row.measured, row),
        "95 % interval": interval,
        "seeds": str(row.seeds) if row.seeds else "",
        "difference": difference,
        "verdict": row.verdict,
    }


def _published(row: Row) -> str:
    """The number as printed, or the outcome in words; marked where the number is not sure."""
    if not row.printed:
        return row.words
    return row.printed if published_results.sure(row.verified) else f"{row.printed} ({UNSURE})"


def lines_of(one: Filled) -> list[dict[str, str]]:
    own_cell = any(row.cell and row.cell != row.line for row in one.rows) and any(row.measured for row in one.rows)
    own_cell = own_cell and one.rows[0].metric in NAMES
    lines = [line_of(row, own_cell=own_cell) for row in one.rows]
    return [{k: v for k, v in line.items() if k != "source"} for line in lines] if one_source(one) else lines


def one_source(one: Filled) -> str:
    """Where all that was published stands; "" where lines have several sources, which then have a column."""
    sources = {row.source for row in one.rows}
    return sources.pop() if len(sources) == 1 else ""


def about(one: Filled) -> list[str]:
    """What is said below a table: verdict, order, protocol, notes and commands."""
    said = f"Verdict: {one.verdict}"
    if one.cells:
        said += f"; {one.run} of {one.cells} line{'s'[: one.cells > 1]} measured"
    words = [f"{said}."]
    if one.order:
        words.append(f"Order: {one.order.verdict}; {one.order.sentence()}.")
    if source := one_source(one):
        words.append(f"Published: {source}.")
    if one.protocol:
        words.append(f"Measured: {one.protocol}.")
    if one.run and one.scale != "paper":
        words.append(f"At {one.scale} scale the numbers are not comparable with the published ones, only the order is.")
    if any(row.printed and not published_results.sure(row.verified) for row in one.rows):
        words.append("Unsure: recalled, or read off a figure; not held to.")
    words += one.notes
    return words


def shown(found: Sequence[Filled], style: Format) -> str:
    """A table at one scale or more, in a format."""
    if style == "csv":
        return as_csv(found)
    parts = []
    for one in found:
        table = tabulate(lines_of(one), headers="keys", tablefmt=STYLES[style], disable_numparse=True)
        parts.append({"text": _text, "md": _markdown, "latex": _latex, "html": _html}[style](one, table))
    return "\n\n".join(parts) + "\n"


def heading(one: Filled) -> str:
    return f"{one.name}: {one.title} ({one.paper}), {one.scale} scale"


def _text(one: Filled, table: str) -> str:
    run = [f"  {command}" for command in one.commands]
    return "\n".join([heading(one), "", table, "", *about(one), *(["To run:", *run] if run else [])])


def _markdown(one: Filled, table: str) -> str:
    run = ["To run:\n", *(f"    {command}" for command in one.commands)] if one.commands else []
    return "\n".join(
        [f"## {one.scale.capitalize()} scale\n", table, "", *(f"{w}\n" for w in about(one)), *run]
    ).rstrip()


def _latex(one: Filled, table: str) -> str:
    comments = [f"% {line}" for line in (heading(one), *about(one), *one.commands)]
    return "\n".join([*comments, table])


def _html(one: Filled, table: str) -> str:
    notes = "".join(f"<p>{escape(line)}</p>\n" for line in about(one))
    run = "".join(f"<pre>{escape(command)}</pre>\n" for command in one.commands)
    return f"<section>\n<h2>{escape(heading(one))}</h2>\n{table}\n{notes}{run}</section>"


FIELDS = (
    *("table", "scale", "line", "metric", "direction", "published", "words", "source", "verified", "note", "cell"),
    *("measured", "low", "high", "deviation", "seeds", "difference", "verdict", "records"),
)


def as_csv(found: Sequence[Filled]) -> str:
    """Every value with all its fields, unrounded; the published number as printed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    for one in found:
        for row in one.rows:
            more: dict[str, Any] = {"table": one.name, "scale": one.scale}
            more |= {"published": row.printed, "records": " ".join(row.records)}
            cells = [more[f] if f in more else getattr(row, f) for f in FIELDS]
            writer.writerow(["" if cell is None else cell for cell in cells])
    return out.getvalue()


def listing(ledger: Ledger) -> list[dict[str, str]]:
    """Each table and figure: at each scale how many of its lines are measured, and the verdict."""
    found = []
    for name, table in catalog.tables().items():
        line = {"name": name, "what": f"{table.title} ({table.paper})", "paper": "", "digits": "", "shapes": ""}
        for scale in scales(table):
            one = filled(name, scale, ledger)
            line[scale] = f"{one.run} of {one.cells}, {one.verdict}" if one.cells else one.verdict
        found.append(line)
    for name, figure in catalog.figures().items():
        what = f"{figure.title} ({figure.paper}): python -m bench.figures {figure.drawn}"
        found.append({"name": name, "what": what, "paper": f"the numbers of {' and '.join(figure.tables)}"})
    return found


def page(name: str, ledger: Ledger) -> str:
    """results/tables/NAME.md."""
    found = sections(name, ledger)
    rest = [s for s in scales(catalog.tables()[name]) if s not in {one.scale for one in found}]
    unrun = [f"    {filled(name, scale, ledger).commands[0]}" for scale in rest]
    head = f"# {name}: {found[0].title}\n\n{found[0].paper}. {MADE}\n"
    more = "\n".join(["", "## Not run\n", *unrun, ""]) if unrun else ""
    return f"{head}\n{shown(found, 'md')}{more}"


def pages(ledger: Ledger) -> dict[str, str]:
    """File name -> content of all of results/tables/."""
    rows = [
        {**line, "name": f"[{line['name']}]({line['name']}.md)"} if line["name"] in catalog.tables() else line
        for line in listing(ledger)
    ]
    index = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    commands = "A table's page has the commands that run what is missing."
    made = {"README.md": f"# The papers' tables\n\n{MADE} {commands}\n\n{verdicts.RULES}\n{index}\n"}
    return made | {f"{name}.md": page(name, ledger) for name in catalog.tables()}


def write(results: Path) -> int:
    """Rebuild results/tables/; files of tables that there are no more are removed.  The number of pages."""
    made = pages(Ledger(read_all(results)))
    folder = results / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        with atomic(folder / name) as partial:
            partial.write_text(text)
    for path in folder.glob("*.md"):
        if path.name not in made:
            path.unlink()
    return len(made)


def print_figure(name: str, ledger: Ledger, flags: Any) -> str:
    """The tables whose numbers a figure shows."""
    tables = catalog.figures()[name].tables
    return "\n".join(shown(sections(table, ledger, flags.scale), flags.format) for table in tables)
