"""Filtered and re-sorted views of the leaderboard, printed and never written.

A filter keeps the ranks of the whole table; at equal compute ranks are computed anew.  Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.records import equal_compute, text_tables
from bench.records.leaderboard import LeaderboardEntry, LeaderboardTable, build_tables
from bench.records.record import Record
from bench.terminal.formatting import format_count

Filters = Mapping[str, set[str]]
"""Flag -> accepted values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordFilter:
    """A flag that selects runs by one value."""

    help: str
    value_of: Callable[[Record], str]
    parse: Callable[[str], str] = str


def _parse_budget(text: str) -> str:
    """Normalize a number of images: 60000, 60_000 and 6e4 are one budget."""
    try:
        return f"{float(text):.0f}"
    except (ValueError, OverflowError):
        raise ValueError(f"--budget is {text}; it must be a number of training images, as 60000 or 6e4") from None


FILTERS = {
    "data": RecordFilter(help="only these data sets (a,b)", value_of=lambda r: r.data),
    "track": RecordFilter(help="only these tracks", value_of=lambda r: str(r.track)),
    "budget": RecordFilter(
        help="only these budgets, in training images", value_of=lambda r: str(r.budget or 0), parse=_parse_budget
    ),
    "arch": RecordFilter(help="only these architectures", value_of=lambda r: r.arch),
}
QUERY_FLAGS = (*FILTERS, "sort", "at_compute", "target")

SORT_COLUMNS: Mapping[str, tuple[Callable[[LeaderboardEntry], Any], int]] = {
    "rank": (lambda entry: entry.rank and entry.rank.best, 1),
    "model": (lambda entry: entry.label, 1),
    "params": (lambda entry: entry.counted_cost("params"), 1),
    "macs": (lambda entry: entry.counted_cost("macs"), 1),
    "training_flops": (lambda entry: entry.counted_cost("training_flops"), 1),
    "hours": (lambda entry: entry.mean_cost("accelerator_hours"), 1),
    "images_per_second": (lambda entry: entry.mean_cost("images_per_second"), -1),
    "incidents": (lambda entry: entry.incidents, 1),
    "date": (lambda entry: int(entry.date.replace("-", "")), -1),
}
"""Columns that --sort takes besides metrics: (value of an entry, 1 for smallest first)."""


def render_view(records: Sequence[Record], flags: Mapping[str, str]) -> str:
    """Render the tables that `flags` of QUERY_FLAGS ask for, as Markdown; ValueError for values that no record has."""
    models = [r for r in records if r.kind == "model"]
    filters = {name: _parse_filter(name, flags[name], models) for name in FILTERS if name in flags}
    tables, sort = build_tables(records), flags.get("sort", "")
    if "at_compute" in flags:
        parts = render_at_compute(tables, flags["at_compute"], filters, sort)
    elif "target" in flags:
        parts = render_cost_to_target(tables, flags["target"], filters)
    else:
        parts = [text_tables.table_section(table) for table in filter_tables(tables, filters, sort)]
        failed = [r for r in models if r.status != "done" and matches_filters(r, filters)]
        parts += [text_tables.LEGEND] + ([text_tables.unfinished_section(failed)] if failed else [])
    return "\n".join(parts)


def _parse_filter(name: str, text: str, models: Sequence[Record]) -> set[str]:
    """Read the values of a filter; ValueError lists the possible values."""
    accepted = {FILTERS[name].parse(word.strip()) for word in text.split(",")}
    known = {FILTERS[name].value_of(r) for r in models}
    if unknown := sorted(accepted - known):
        raise ValueError(f"--{name} is {', '.join(unknown)}, which no record has; there are {', '.join(sorted(known))}")
    return accepted


def matches_filters(r: Record, filters: Filters) -> bool:
    """Whether a record has an accepted value for every filter."""
    return all(FILTERS[name].value_of(r) in values for name, values in filters.items())


def filter_tables(tables: Sequence[LeaderboardTable], filters: Filters, sort: str) -> list[LeaderboardTable]:
    """Keep the entries that match, sorted by a column unless `sort` is ""; ValueError if none is left."""
    matching = [
        replace(table, entries=tuple(e for e in table.entries if matches_filters(e.runs[0], filters)))
        for table in tables
    ]
    matching = [sort_entries(table, sort) if sort else table for table in matching if table.entries]
    if not matching:
        words = " and ".join(f"--{name} {','.join(sorted(values))}" for name, values in filters.items())
        raise ValueError(f"no finished run fits {words or 'this'}")
    known = {*SORT_COLUMNS, *(name for table in matching for name in table.metrics)}
    if sort and sort not in known and not any(equal_compute.find_metric(table, sort) for table in matching):
        raise ValueError(f"--sort is {sort}; choose one of {', '.join(sorted(known))}")
    return matching


def sort_entries(table: LeaderboardTable, by: str) -> LeaderboardTable:
    """Sort a table by a metric, best first, or by a column; entries without a value come last."""
    if name := equal_compute.find_metric(table, by):
        sign = -1 if table.direction(name) == "higher" else 1
        values = {e.group: e.metrics[name].mean for e in table.entries if name in e.metrics}
    elif by in SORT_COLUMNS:
        value_of, sign = SORT_COLUMNS[by]
        values = {e.group: value for e in table.entries if (value := value_of(e)) is not None}
    else:
        return table
    known = [e for e in table.entries if e.group in values]
    known.sort(key=lambda e: values[e.group], reverse=sign < 0)
    return replace(table, entries=(*known, *(e for e in table.entries if e.group not in values)))


def render_at_compute(tables: Sequence[LeaderboardTable], text: str, filters: Filters, sort: str) -> list[str]:
    """Render each table with its entries at the evaluation point nearest to `text` training FLOPs."""
    flops = equal_compute.parse_flops(text)
    at_points, images = equal_compute.tables_at_compute(tables, flops)
    about = f" At the evaluation points nearest to {flops:.3g} training FLOPs."
    parts = []
    for table in filter_tables(at_points, filters, sort):
        rows = [_compute_row(table, entry, images[entry.group], flops) for entry in table.entries]
        parts.append(text_tables.table_section(table, rows, about))
    return [*parts, COMPUTE_LEGEND]


def _compute_row(table: LeaderboardTable, entry: LeaderboardEntry, images: int, flops: float) -> dict[str, str]:
    spent = equal_compute.training_flops_at(entry.runs[0], images)
    return {
        **text_tables.rank_columns(entry),
        "at images": f"{images:,}",
        "training FLOPs": f"{spent:.2e}",
        "of those asked": f"x {spent / flops:.2g}",
        **text_tables.metric_columns(table, entry),
        "MACs": format_count(entry.counted_cost("macs")),
        "seeds": str(len(entry.runs)),
        "record": text_tables.record_links(entry.runs),
    }


COMPUTE_LEGEND = (
    "Ranks are those of these points. An evaluation point before the end has no interval over the samples, so a single "
    "seed has no rank there. Published weights are left out."
)


def render_cost_to_target(tables: Sequence[LeaderboardTable], text: str, filters: Filters) -> list[str]:
    """Render the cost at which each entry reached the METRIC=VALUE of `text`, one table per protocol."""
    name, value = equal_compute.parse_target(text)
    parts = []
    for table in filter_tables(tables, filters, ""):
        if not (metric := equal_compute.find_metric(table, name)):
            continue
        rows = [_target_row(cost) for cost in equal_compute.costs_to_target(table, metric, value)]
        sign = {"lower": "≤", "higher": "≥"}[table.direction(metric)]
        parts.append(text_tables.table_section(table, rows, f" To reach {metric} {sign} {value:g}."))
    if not parts:
        known = sorted({m for table in tables for m in table.metrics})
        raise ValueError(f"--target is {text}, a metric that no run here has; choose one of {', '.join(known)}")
    return [*parts, TARGET_LEGEND]


TARGET_LEGEND = (
    "Between two evaluation points the metric is interpolated linearly in the logarithm of the compute; ≤: the first "
    "point had reached it. Several seeds: the median, where a seed that did not reach it counts as the largest. Hours "
    "are accelerator-hours of training, in proportion to the images."
)


def _target_row(cost: equal_compute.CostToTarget) -> dict[str, str]:
    bound = "≤ " if cost.at_most else ""
    return {
        "model": cost.entry.label,
        "training FLOPs": "not reached" if cost.flops is None else f"{bound}{cost.flops:.2e}",
        "hours": "" if cost.hours is None else f"{bound}{cost.hours:.3g}",
        "seeds": f"{cost.seeds_reached} of {len(cost.entry.runs)}",
        "MACs": format_count(cost.entry.counted_cost("macs")),
        "record": text_tables.record_links(cost.entry.runs),
    }
