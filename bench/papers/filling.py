"""Fill the papers' tables: published values, measured values from records, and verdicts.

Published and measured values have separate fields, and neither is ever computed from the other.  Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from architectures.suggestions import did_you_mean
from bench.config.metric_specs import METRIC_SPECS, metric_type
from bench.experiments import suites
from bench.experiments.suites import Scale
from bench.papers import catalog, published_networks, published_results, verdicts
from bench.papers.published_networks import PublishedNetwork
from bench.papers.published_results import PublishedValue
from bench.papers.run_matching import RecordIndex, find_records, run_command
from bench.papers.schema import PaperTable
from bench.papers.verdicts import OrderComparison, Verdict
from bench.records.protocol import describe_protocol
from bench.records.ranking import SeedStatistics, metric_statistics
from bench.records.record import Metric, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """One value of a paper's table, published and measured.  Field names are columns of the CSV."""

    line: str
    """Row of the table, as the paper names it."""
    metric: str
    direction: str
    """The better direction, lower or higher; "" if there is none."""
    published: float | None
    printed: str
    """The published number as printed; "" if there is none."""
    words: str
    """The outcome in words, if the paper has no number."""
    source: str
    verified: str
    note: str
    cell: str
    """The variant of the suite, or the network, that measures the line at this scale; "" if none does."""
    measured: float | None
    """Mean over the seeds."""
    low: float | None
    """Lower end of the 95 % interval."""
    high: float | None
    deviation: float | None
    """Standard deviation over the seeds; None for one seed."""
    seeds: int
    records: tuple[str, ...]
    """Ids of the records."""
    difference: float | None
    """Measured minus published, in the paper's own setting; otherwise None."""
    verdict: Verdict | Literal["", "reference"]
    """Verdict on the number; "reference" if nothing here can be run; "" if only the order can be judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilledTable:
    """A paper's table at one scale."""

    name: str
    title: str
    paper: str
    scale: Scale
    rows: tuple[TableRow, ...]
    order: OrderComparison | None
    """Order of the variants; None if not all are measured, or the table has no order."""
    verdict: Verdict | Literal["reference"]
    """Verdict on the whole table."""
    cells: int
    """Number of lines that can be measured at this scale."""
    run: int
    """Number of lines that are measured, with all seeds of their suite."""
    commands: tuple[str, ...]
    """Commands that run the missing lines."""
    notes: tuple[str, ...]
    protocol: str = ""
    """Protocol of the measurements in words; "" if there are none."""


METRIC_TYPES: Mapping[str, str] = {
    **dict.fromkeys(("FID", "FID-50K", "FID-30K", "FID-10K", "FID-5K"), "fid"),
    **{"sFID": "sfid", "IS": "is", "precision": "precision", "recall": "recall"},
}
"""Metric of a paper -> metric type of records."""
COUNT_LABELS = {
    "param_m": "parameters (M)",
    "gflops": "MACs (G)",
    "depth": "layers",
    "hidden": "width",
    "heads": "heads",
}
"""Columns of models.csv that are compared -> their labels."""


def values_by_line(table: PaperTable) -> dict[str, list[PublishedValue]]:
    """Group published values by line, in the file's order, for a table of results.csv or ablations.csv."""
    assert table.file != "models"
    by_line: dict[str, list[PublishedValue]] = {}
    for value in published_results.select_values(table.file, **table.where):
        words = [_format_key(column, value.columns[column]) for column in table.key]
        by_line.setdefault(", ".join(filter(None, words)), []).append(value)
    return by_line


def _format_key(column: str, text: str) -> str:
    if column == "guidance" and text == "none":
        return "unguided"
    if column == "steps" and text:
        return f"{int(text) // 1000}K steps"
    if column == "n_samples" and text:
        return f"{int(text):,} samples"
    return f"{text} px" if column == "resolution" and text else text


def fill_table(name: str, scale: Scale, index: RecordIndex) -> FilledTable:
    """Fill a table at a scale from records; ValueError for an unknown table or scale."""
    tables = catalog.tables()
    if name not in tables:
        raise ValueError(f"there is no table {name!r}; {did_you_mean(name, tables)}")
    table = tables[name]
    if scale not in available_scales(table):
        raise ValueError(f"{name} has no scale {scale}; it has {' and '.join(available_scales(table))}")
    if table.file == "models":
        return _fill_from_counts(table)
    return _fill_from_suite(table, scale, index) if table.suite else _fill_from_runs(table, index)


def fill_all_tables(records: Iterable[Record]) -> list[FilledTable]:
    """Fill every table at every scale it has."""
    index = RecordIndex(records)
    return [
        fill_table(name, scale, index) for name, table in catalog.tables().items() for scale in available_scales(table)
    ]


def table_to_dict(table: FilledTable) -> dict[str, Any]:
    """Convert a table to plain data for JSON, with a sentence about the order as `order_words`."""
    return {**asdict(table), "order_words": table.order.describe() if table.order else ""}


def available_scales(table: PaperTable) -> tuple[Scale, ...]:
    """Return the scales of a table; a table without a suite has only the paper's."""
    return ("paper", "digits", "shapes") if table.suite else ("paper",)


def _table_row(line: str, value: PublishedValue, **measured: Any) -> TableRow:
    """Build a row with the published value; `measured` are the other fields, if the line can be measured."""
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
        **{**empty, "difference": None, "verdict": "reference", **measured},
    )


def _matching_metrics(value: PublishedValue, records: Iterable[Record]) -> list[tuple[str, Metric]]:
    """Return (record id, metric) for each metric of the same type as the published one."""
    if value.metric not in METRIC_TYPES:
        return []
    type_ = METRIC_TYPES[value.metric]
    return [(r.id, m) for r in records for name, m in r.metrics.items() if metric_type(name) == type_]


def _measured_fields(
    value: PublishedValue, records: Iterable[Record], *, trained: bool, compare: bool
) -> dict[str, Any]:
    """Return the measured fields of a row; `compare` judges the number, for records in the paper's setting."""
    matching = _matching_metrics(value, records)
    if not matching:
        return dict(verdict="not run")
    m = metric_statistics([metric for _, metric in matching])
    fields: dict[str, Any] = dict(measured=m.mean, low=m.low, high=m.high, deviation=m.std, seeds=m.n)
    fields |= dict(records=tuple(id_ for id_, _ in matching), verdict="")
    if compare and value.number is not None and value.certain:
        fields["difference"] = m.mean - value.number
        fields["verdict"] = verdicts.judge_number(value.metric, value.number, m.mean, trained=trained)
    return fields


def _newest_of_each_seed(records: Iterable[Record]) -> list[Record]:
    return list({r.seed: r for r in sorted(records, key=lambda r: r.created)}.values())


def _select_one_evaluation(by_line: Mapping[str, list[Record]]) -> tuple[dict[str, list[Record]], int]:
    """Select the records of the most frequent evaluation protocol, one per seed; return (records, number left out)."""
    everything = [r for records in by_line.values() for r in records]
    if not everything:
        return {}, 0
    counts = Counter(r.evaluation_fingerprint for r in everything)
    newest = {r.evaluation_fingerprint: r.created for r in sorted(everything, key=lambda r: r.created)}
    chosen = max(counts, key=lambda fingerprint: (counts[fingerprint], newest[fingerprint]))
    selected = {
        line: _newest_of_each_seed(r for r in records if r.evaluation_fingerprint == chosen)
        for line, records in by_line.items()
    }
    return selected, len(everything) - sum(map(len, selected.values()))


def _fill_from_suite(table: PaperTable, scale: Scale, index: RecordIndex) -> FilledTable:
    keys = suites.variant_keys(table.suite, scale)
    variants = table.cells.get(scale, {})
    by_line, left_out = _select_one_evaluation(
        {line: index.by_variant.get(keys[variant], []) for line, variant in variants.items()}
    )
    compare = scale == "paper" and not table.order_only
    rows = []
    for line, values in values_by_line(table).items():
        for value in values:
            fields: dict[str, Any] = dict(verdict="reference")
            if line in variants:
                fields = _measured_fields(value, by_line.get(line, []), trained=True, compare=compare)
                fields["cell"] = variants[line]
            rows.append(_table_row(line, value, **fields))
    seeds = suites.SUITES[table.suite].seeds[scale]
    done = [line for line in variants if len(by_line.get(line, [])) >= seeds]
    missing = len({r.line for r in rows} - set(variants))
    notes = [
        table.note,
        f"{missing} lines have no variant at this scale." if missing and scale != "paper" else "",
        f"{left_out} records of other evaluation protocols are left out." if left_out else "",
    ]
    return _filled_table(
        table,
        rows,
        scale=scale,
        order=_judge_table_order(table, rows, variants) if len(done) == len(variants) else None,
        cells=len(variants),
        run=len(done),
        commands=[f"python -m bench.run --suite {table.suite} --scale {scale}"] if len(done) < len(variants) else [],
        notes=notes,
        records=[r for records in by_line.values() for r in records],
    )


def _judge_table_order(table: PaperTable, rows: list[TableRow], lines: Iterable[str]) -> OrderComparison | None:
    """Judge the published order of the measured lines by the table's first metric; None if there is no order."""
    metric = rows[0].metric
    by_line = {r.line: r for r in rows if r.line in set(lines) and r.metric == metric}
    measured = {
        line: SeedStatistics(mean=r.measured, low=r.low, high=r.high, std=r.deviation, n=r.seeds)
        for line, r in by_line.items()
        if r.measured is not None
    }
    lower = METRIC_SPECS[METRIC_TYPES[metric]][0] == "lower"
    published = {line: r.published for line, r in by_line.items() if r.published is not None}
    pairs = [p for p in table.better if set(p) <= set(by_line)] or verdicts.published_pairs(published, lower=lower)
    no_gain = [p for p in table.no_gain if set(p) <= set(by_line)]
    return verdicts.judge_order(pairs, measured, lower=lower, no_gain=no_gain) if pairs else None


def _filled_table(
    table: PaperTable,
    rows: Sequence[TableRow],
    *,
    scale: Scale = "paper",
    order: OrderComparison | None = None,
    cells: int,
    run: int,
    commands: Iterable[str] = (),
    notes: Iterable[str],
    records: Sequence[Record] = (),
) -> FilledTable:
    """Build the table with its verdict; the `records` of its lines share a protocol."""
    return FilledTable(
        name=table.name,
        title=table.title,
        paper=table.paper,
        scale=scale,
        rows=tuple(rows),
        order=order,
        verdict=_table_verdict(rows, order),
        cells=cells,
        run=run,
        commands=tuple(commands),
        notes=tuple(filter(None, notes)),
        protocol=describe_protocol(records[0].protocol) if records else "",
    )


def _table_verdict(rows: Iterable[TableRow], order: OrderComparison | None) -> Verdict | Literal["reference"]:
    """Return the verdict on the numbers of a table if all were judged, otherwise on its order.

    A table with missing lines is `not run`, or `not reproduced` if any of its numbers is.
    """
    judged = [r for r in rows if r.verdict != "reference"]
    if not judged:
        return "reference"
    if all(r.verdict == "reproduced" for r in judged):
        return "reproduced"
    if order:
        return order.verdict
    return "not reproduced" if any(r.verdict == "not reproduced" for r in judged) else "not run"


def _fill_from_runs(table: PaperTable, index: RecordIndex) -> FilledTable:
    values = values_by_line(table)
    rows, commands = [], []
    by_line: dict[str, list[Record]] = {}
    for line, run in table.runs.items():
        records, trained = find_records(run, values[line][0], index)
        by_line[line] = _newest_of_each_seed(records)
        if not records:
            commands.append(run_command(run, values[line][0]))
        for value in values[line]:
            fields = _measured_fields(value, by_line[line], trained=trained, compare=True)
            rows.append(_table_row(line, value, cell=f"{run.arch} {run.size}", **fields))
    rows += [_table_row(line, v) for line, others in values.items() if line not in table.runs for v in others]
    position = list(values)
    rows.sort(key=lambda r: position.index(r.line))
    done = sum(map(bool, by_line.values()))
    measured = [r for records in by_line.values() for r in records]
    return _filled_table(
        table,
        rows,
        order=_judge_table_order(table, rows, table.runs) if table.better and done == len(table.runs) else None,
        cells=len(table.runs),
        run=done,
        commands=commands,
        notes=[table.note, WEIGHTS_NOTE if any(r.track == "published" for r in measured) else ""],
        records=measured,
    )


def _fill_from_counts(table: PaperTable) -> FilledTable:
    """Compare the published sizes and costs with those counted here."""
    rows = []
    for network in published_networks.select_networks(**table.where):
        words = [_format_key(column, network.columns[column]) for column in table.key]
        rows += [_count_row(", ".join(words), network, column) for column in table.columns if network.columns[column]]
    counted = len({r.cell for r in rows if r.cell})
    return _filled_table(table, rows, cells=counted, run=counted, notes=[table.note, COUNTS_NOTE])


def _count_row(line: str, network: PublishedNetwork, column: str) -> TableRow:
    printed = network.columns[column]
    published, counted = float(printed), published_networks.counted_value(network.id, column)
    verdict: Verdict | Literal["reference"] = "reference"
    if counted is not None:
        within = abs(counted - published) <= verdicts.COUNT_TOLERANCE * published
        agrees = published_networks.matches_printed(counted, printed, network) or within
        verdict = "reproduced" if agrees else "not reproduced"
    return TableRow(
        line=line,
        metric=COUNT_LABELS[column],
        direction="",
        published=published,
        printed=printed,
        words="",
        source=network.source,
        verified=network.columns["verified"],
        note=network.columns["note"],
        cell=network.id if counted is not None else "",
        measured=counted,
        low=None,
        high=None,
        deviation=None,
        seeds=0,
        records=(),
        difference=None if counted is None else counted - published,
        verdict=verdict,
    )


WEIGHTS_NOTE = (
    "A record has the hash of the weights it was sampled from; only its author knows that they are the file named here."
)
COUNTS_NOTE = "Counted here on the networks of architectures/ (python -m bench.cost), without any run."
