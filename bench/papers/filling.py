"""Paper tables filled from records: what was published beside what was measured, and the verdict.

The two have fields of their own and neither is ever made from the other.  Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from architectures.suggestions import did_you_mean
from bench.config.metric_specs import METRIC_SPECS, metric_type
from bench.experiments import suites
from bench.experiments.suites import Scale
from bench.papers import catalog, published_networks, published_results, verdicts
from bench.papers.published_results import PublishedValue
from bench.papers.run_matching import RecordIndex, find_records, run_command
from bench.papers.schema import PaperTable
from bench.papers.verdicts import OrderComparison, Verdict
from bench.records.protocol import describe_protocol
from bench.records.ranking import SeedStatistics, metric_statistics
from bench.records.record import Metric, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """One value of a paper's table."""

    line: str
    """The row of the table, as the paper names it."""
    metric: str
    direction: str
    """lower or higher, whichever is better; "" for what is neither."""
    published: float | None
    printed: str
    """The published number as it was printed; "" where there is none."""
    words: str
    """The outcome where the paper has no number."""
    source: str
    verified: str
    note: str
    cell: str
    """What was, or would be, measured at this scale: a cell of the suite, or a network; "" for nothing."""
    measured: float | None
    low: float | None
    high: float | None
    deviation: float | None
    """Over seeds; None of one."""
    seeds: int
    records: tuple[str, ...]
    """Ids."""
    difference: float | None
    """Measured minus published; only in the paper's own setting."""
    verdict: Verdict | Literal["", "reference"]
    """Of the number; "reference" where nothing here can be run; "" where only the order can be judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilledTable:
    """A paper's table at one scale."""

    name: str
    title: str
    paper: str
    scale: Scale
    rows: tuple[TableRow, ...]
    order: OrderComparison | None
    """Of the variants; None where not all are measured, or the table has no order to judge."""
    verdict: Verdict | Literal["reference"]
    """Of the whole table."""
    cells: int
    """Lines that can be measured at this scale."""
    run: int
    """Lines that are, with all the seeds that their suite asks for."""
    commands: tuple[str, ...]
    """What runs the rest."""
    notes: tuple[str, ...]
    protocol: str = ""
    """In words, of what was measured; "" where nothing was."""


METRIC_TYPES: Mapping[str, str] = {
    **dict.fromkeys(("FID", "FID-50K", "FID-30K", "FID-10K", "FID-5K"), "fid"),
    **{"sFID": "sfid", "IS": "is", "precision": "precision", "recall": "recall"},
}
"""A paper's metric -> its kind in records."""
COUNT_LABELS = {
    "param_m": "parameters (M)",
    "gflops": "MACs (G)",
    "depth": "layers",
    "hidden": "width",
    "heads": "heads",
}
"""Columns of models.csv that are compared, and what they are called."""


def values_by_line(table: PaperTable) -> dict[str, list[PublishedValue]]:
    """Line -> its published values, in the file's order; of results.csv and ablations.csv."""
    assert table.file != "models"
    found: dict[str, list[PublishedValue]] = {}
    for value in published_results.select_values(table.file, **table.where):
        words = [_format_key(column, value.columns[column]) for column in table.key]
        found.setdefault(", ".join(filter(None, words)), []).append(value)
    return found


def _format_key(column: str, text: str) -> str:
    if column == "guidance" and text == "none":
        return "unguided"
    if column == "steps" and text:
        return f"{int(text) // 1000}K steps"
    if column == "n_samples" and text:
        return f"{int(text):,} samples"
    return f"{text} px" if column == "resolution" and text else text


def fill_table(name: str, scale: Scale, ledger: RecordIndex) -> FilledTable:
    """A table at a scale, with what the records say; ValueError for a table or a scale that there is not."""
    tables = catalog.tables()
    if name not in tables:
        raise ValueError(f"there is no table {name!r}; {did_you_mean(name, tables)}")
    table = tables[name]
    if scale not in available_scales(table):
        raise ValueError(f"{name} has no scale {scale}; it has {' and '.join(available_scales(table))}")
    if table.file == "models":
        return _fill_from_counts(table)
    return _fill_from_suite(table, scale, ledger) if table.suite else _fill_from_runs(table, ledger)


def fill_all_tables(records: Iterable[Record]) -> list[FilledTable]:
    """Every table at every scale it has."""
    ledger = RecordIndex(records)
    return [
        fill_table(name, scale, ledger) for name, table in catalog.tables().items() for scale in available_scales(table)
    ]


def table_to_dict(one: FilledTable) -> dict[str, Any]:
    """As JSON takes it, with the order's figures in words as `order_words`."""
    return {**asdict(one), "order_words": one.order.sentence() if one.order else ""}


def available_scales(table: PaperTable) -> tuple[Scale, ...]:
    """The scales at which a table can be asked for; one without a suite has the paper's alone."""
    return ("paper", "digits", "shapes") if table.suite else ("paper",)


def _table_row(line: str, value: PublishedValue, **more: Any) -> TableRow:
    """A row with its published half; `more` is the measured one."""
    empty: dict[str, Any] = dict(cell="", measured=None, low=None, high=None, deviation=None, seeds=0, records=())
    return TableRow(
        line=line,
        metric=value.metric,
        direction=METRIC_SPECS[METRIC_TYPES[value.metric]][0] if value.metric in METRIC_TYPES else "",
        published=value.number,
        printed=value.printed,
        words=value.words,
        source=value.source,
        verified=value.verified,
        note=value.note,
        **{**empty, "difference": None, "verdict": "reference", **more},
    )


def _matching_metrics(value: PublishedValue, records: Iterable[Record]) -> list[tuple[str, Metric]]:
    """(record's id, its metric) for a published value's metric."""
    if value.metric not in METRIC_TYPES:
        return []
    wanted = METRIC_TYPES[value.metric]
    return [(r.id, m) for r in records for name, m in r.metrics.items() if metric_type(name) == wanted]


def _measured_fields(
    value: PublishedValue, records: Iterable[Record], *, trained: bool, compare: bool
) -> dict[str, Any]:
    """The measured half of a row.

    `compare`: these records are of the paper's own setting, so that the numbers may be held to each other.
    """
    found = _matching_metrics(value, records)
    if not found:
        return dict(verdict="not run")
    m = metric_statistics([metric for _, metric in found])
    half: dict[str, Any] = dict(measured=m.mean, low=m.low, high=m.high, deviation=m.std, seeds=m.n)
    half |= dict(records=tuple(id_ for id_, _ in found), verdict="")
    if compare and value.number is not None and value.sure:
        half["difference"] = m.mean - value.number
        half["verdict"] = verdicts.judge_number(value.metric, value.number, m.mean, trained=trained)
    return half


def _select_one_evaluation(found: Mapping[str, list[Record]]) -> tuple[dict[str, list[Record]], int]:
    """The records that share the commonest protocol of evaluation, one a seed, and how many are left out."""
    every = [r for records in found.values() for r in records]
    if not every:
        return {}, 0
    counted = Counter(r.evaluation_fingerprint for r in every)
    newest = {r.evaluation_fingerprint: r.created for r in sorted(every, key=lambda r: r.created)}
    chosen = max(counted, key=lambda print_: (counted[print_], newest[print_]))
    kept = {}
    for line, records in found.items():
        own = sorted((r for r in records if r.evaluation_fingerprint == chosen), key=lambda r: r.created)
        kept[line] = list({r.config["seed"]: r for r in own}.values())
    return kept, len(every) - sum(map(len, kept.values()))


def _fill_from_suite(table: PaperTable, scale: Scale, ledger: RecordIndex) -> FilledTable:
    keys = suites.variant_keys(table.suite, scale)
    lines = table.cells.get(scale, {})
    found, left_out = _select_one_evaluation({line: ledger.by_key.get(keys[cell], []) for line, cell in lines.items()})
    compare = scale == "paper" and not table.order_only
    rows = []
    for line, values in values_by_line(table).items():
        for value in values:
            more: dict[str, Any] = dict(verdict="reference")
            if line in lines:
                more = _measured_fields(value, found.get(line, []), trained=True, compare=compare)
                more["cell"] = lines[line]
            rows.append(_table_row(line, value, **more))
    seeds = suites.SUITES[table.suite].seeds[scale]
    done = [line for line in lines if len(found.get(line, [])) >= seeds]
    order = _judge_table_order(table, rows, lines) if len(done) == len(lines) else None
    run = f"python -m bench.run --suite {table.suite} --scale {scale}"
    without = len({r.line for r in rows} - set(lines))
    notes = [
        table.note,
        f"{without} lines have no cell at this scale." if without and scale != "paper" else "",
        f"{left_out} records of other protocols of evaluation are left out." if left_out else "",
    ]
    return _filled_table(
        table,
        rows,
        scale=scale,
        order=order,
        cells=len(lines),
        run=len(done),
        commands=(run,) if len(done) < len(lines) else (),
        notes=notes,
        of=found,
    )


def _judge_table_order(table: PaperTable, rows: list[TableRow], lines: Iterable[str]) -> OrderComparison | None:
    """The published order of the measured lines, judged by the first metric."""
    metric = rows[0].metric
    own = {r.line: r for r in rows if r.line in set(lines) and r.metric == metric}
    measured = {
        line: SeedStatistics(mean=r.measured, low=r.low, high=r.high, std=r.deviation, n=r.seeds)
        for line, r in own.items()
        if r.measured is not None
    }
    lower = METRIC_SPECS[METRIC_TYPES[metric]][0] == "lower"
    published = {line: r.published for line, r in own.items() if r.published is not None}
    pairs = [p for p in table.better if set(p) <= set(own)] or verdicts.published_pairs(published, lower=lower)
    no_gain = [p for p in table.no_gain if set(p) <= set(own)]
    return verdicts.judge_order(pairs, measured, lower=lower, no_gain=no_gain) if pairs else None


def _filled_table(
    table: PaperTable,
    rows: Iterable[TableRow],
    *,
    scale: Scale = "paper",
    order: OrderComparison | None = None,
    notes: Iterable[str],
    of: Mapping[str, Iterable[Record]] | None = None,
    **more: Any,
) -> FilledTable:
    """The table with its verdict; `of` are the records of its lines, whose protocol is told."""
    one = next((r for records in (of or {}).values() for r in records), None)
    return FilledTable(
        **{"name": table.name, "title": table.title, "paper": table.paper, "commands": (), **more},
        scale=scale,
        rows=tuple(rows),
        order=order,
        verdict=_table_verdict(rows, order),
        notes=tuple(filter(None, notes)),
        protocol=describe_protocol(one.protocol) if one else "",
    )


def _table_verdict(rows: Iterable[TableRow], order: OrderComparison | None) -> Verdict | Literal["reference"]:
    """The verdict of a table: its numbers where all were held to the paper's, or else its order.

    A table of which cells are missing is `not run`, or `not reproduced` where a number already is not.
    """
    own = [r for r in rows if r.verdict != "reference"]
    if not own:
        return "reference"
    if all(r.verdict == "reproduced" for r in own):
        return "reproduced"
    if order:
        return order.verdict
    return "not reproduced" if any(r.verdict == "not reproduced" for r in own) else "not run"


def _fill_from_runs(table: PaperTable, ledger: RecordIndex) -> FilledTable:
    rows, commands, order = [], [], None
    found = {}
    values = values_by_line(table)
    for line, run in table.runs.items():
        found[line], trained = find_records(run, values[line][0], ledger)
        if not found[line]:
            commands.append(run_command(run, values[line][0]))
        found[line] = list({r.config["seed"]: r for r in sorted(found[line], key=lambda r: r.created)}.values())
        for value in values[line]:
            rows.append(
                _table_row(
                    line,
                    value,
                    cell=f"{run.arch} {run.size}",
                    **_measured_fields(value, found[line], trained=trained, compare=True),
                )
            )
    rows += [_table_row(line, v) for line, own in values.items() if line not in table.runs for v in own]
    order_of = list(values)
    rows.sort(key=lambda r: order_of.index(r.line))
    done = sum(map(bool, found.values()))
    if table.better and done == len(table.runs):
        order = _judge_table_order(table, rows, table.runs)
    weights = any(r.config["track"] == "published" for records in found.values() for r in records)
    return _filled_table(
        table,
        rows,
        order=order,
        cells=len(table.runs),
        run=done,
        commands=tuple(commands),
        notes=[table.note, WEIGHTS_NOTE if weights else ""],
        of=found,
    )


def _fill_from_counts(table: PaperTable) -> FilledTable:
    """A table of sizes and costs: the published definitions against what is counted here."""
    rows = []
    for found in published_networks.select_networks(**table.where):
        words = [_format_key(column, found.columns[column]) for column in table.key]
        for column in table.columns:
            if not (printed := found.columns[column]):
                continue
            ours = published_networks.counted_value(found.id, column)
            allowed = verdicts.COUNT_TOLERANCE * float(printed)
            close = ours is not None and (
                published_networks.matches_printed(ours, printed, found) or abs(ours - float(printed)) <= allowed
            )
            verdict: Any = "reference" if ours is None else "reproduced" if close else "not reproduced"
            rows.append(
                TableRow(
                    line=", ".join(words),
                    metric=COUNT_LABELS[column],
                    direction="",
                    published=float(printed),
                    printed=printed,
                    words="",
                    source=found.source,
                    verified=found.columns["verified"],
                    note=found.columns["note"],
                    cell=found.id if ours is not None else "",
                    measured=ours,
                    low=None,
                    high=None,
                    deviation=None,
                    seeds=0,
                    records=(),
                    difference=None if ours is None else ours - float(printed),
                    verdict=verdict,
                )
            )
    counted = len({r.cell for r in rows if r.cell})
    return _filled_table(table, rows, cells=counted, run=counted, notes=[table.note, COUNTS_NOTE])


WEIGHTS_NOTE = (
    "A record has the hash of the weights it was made with; that they are the file named here is its author's word."
)
COUNTS_NOTE = "Counted here on the networks of architectures/ (python -m bench.cost), without any run."
