"""Parts and other orders of the leaderboard, printed and never written.

Ranks are those of the whole board, whatever is shown of it; at equal compute they are made anew.  Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.records import equal_compute, text_tables
from bench.records.leaderboard import LeaderboardEntry, LeaderboardTable, build_tables
from bench.records.record import Record
from bench.terminal.formatting import format_count


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordFilter:
    """What a flag chooses runs by."""

    help: str
    of: Callable[[Record], str]
    read: Callable[[str], str] = str


def _parse_budget(text: str) -> str:
    """60000, 60_000 and 6e4 are one budget."""
    try:
        return f"{float(text):.0f}"
    except (ValueError, OverflowError):
        raise ValueError(f"--budget is {text}; it must be a number of training images, as 60000 or 6e4") from None


FILTERS = {
    "data": RecordFilter(help="only these data sets (a,b)", of=lambda r: str(r.protocol["evaluation"]["data"])),
    "track": RecordFilter(help="only these tracks", of=lambda r: str(r.protocol["training"]["track"])),
    "budget": RecordFilter(
        help="only these budgets, in training images",
        of=lambda r: str(r.protocol["training"].get("images") or 0),
        read=_parse_budget,
    ),
    "arch": RecordFilter(help="only these architectures", of=lambda r: str(r.config.get("model", {}).get("arch", ""))),
}
QUERY_FLAGS = (*FILTERS, "sort", "at_compute", "target")

SORT_COLUMNS: Mapping[str, tuple[Callable[[LeaderboardEntry], Any], int]] = {
    "rank": (lambda line: line.place and line.place.best, 1),
    "model": (lambda line: line.label, 1),
    "params": (lambda line: line.counted("params"), 1),
    "macs": (lambda line: line.counted("macs"), 1),
    "training_flops": (lambda line: line.counted("training_flops"), 1),
    "hours": (lambda line: line.measured("accelerator_hours"), 1),
    "images_per_second": (lambda line: line.measured("images_per_second"), -1),
    "incidents": (lambda line: line.incidents, 1),
    "date": (lambda line: int(line.date.replace("-", "")), -1),
}
"""What --sort takes besides metrics: (value of a line, 1 for the smallest first)."""


def render_view(records: Sequence[Record], asked: Mapping[str, str]) -> str:
    """The tables that were asked for; ValueError for what no record has."""
    models = [r for r in records if r.kind == "model"]
    chosen = {name: _parse_filter(name, asked[name], models) for name in FILTERS if name in asked}
    whole = build_tables(records)
    if "at_compute" in asked:
        parts = render_at_compute(whole, asked["at_compute"], chosen, asked.get("sort", ""))
    elif "target" in asked:
        parts = render_cost_to_target(whole, asked["target"], chosen)
    else:
        parts = [text_tables.table_section(b) for b in filter_tables(whole, chosen, asked.get("sort", ""))]
        failed = [r for r in models if r.status != "done" and matches_filters(r, chosen)]
        parts += [text_tables.LEGEND] + ([text_tables.unfinished_section(failed)] if failed else [])
    return "\n".join(parts)


def _parse_filter(name: str, text: str, models: Sequence[Record]) -> set[str]:
    """The values of a filter; ValueError names those that there are."""
    asked = {FILTERS[name].read(word.strip()) for word in text.split(",")}
    there = {FILTERS[name].of(r) for r in models}
    if unknown := sorted(asked - there):
        raise ValueError(f"--{name} is {', '.join(unknown)}, which no record has; there are {', '.join(sorted(there))}")
    return asked


def matches_filters(r: Record, chosen: Mapping[str, set[str]]) -> bool:
    return all(FILTERS[name].of(r) in values for name, values in chosen.items())


def filter_tables(whole: Sequence[LeaderboardTable], chosen: Mapping[str, set[str]], by: str) -> list[LeaderboardTable]:
    """Boards with the lines that fit, in the order asked for; ValueError where none is left."""
    found = [replace(b, lines=tuple(line for line in b.lines if matches_filters(line.runs[0], chosen))) for b in whole]
    found = [sort_entries(b, by) if by else b for b in found if b.lines]
    if not found:
        words = " and ".join(f"--{name} {','.join(sorted(values))}" for name, values in chosen.items())
        raise ValueError(f"no finished run fits {words or 'this'}")
    known = {name for b in found for name in SORT_COLUMNS} | {name for b in found for name in b.metrics}
    if by and by not in known and not any(equal_compute.find_metric(b, by) for b in found):
        raise ValueError(f"--sort is {by}; choose one of {', '.join(sorted(known))}")
    return found


def sort_entries(board: LeaderboardTable, by: str) -> LeaderboardTable:
    """A board with the best first by a metric, or by a column; lines without it come last."""
    if name := equal_compute.find_metric(board, by):
        sign = -1 if board.direction(name) == "higher" else 1
        values = {line.group: line.metrics[name].mean for line in board.lines if name in line.metrics}
    elif by in SORT_COLUMNS:
        of, sign = SORT_COLUMNS[by]
        values = {line.group: value for line in board.lines if (value := of(line)) is not None}
    else:
        return board
    known = [line for line in board.lines if line.group in values]
    known.sort(key=lambda line: values[line.group], reverse=sign < 0)
    return replace(board, lines=(*known, *(line for line in board.lines if line.group not in values)))


def render_at_compute(
    whole: Sequence[LeaderboardTable], text: str, chosen: Mapping[str, set[str]], by: str
) -> list[str]:
    """A table a board of each line at its evaluation point nearest to so many training FLOPs."""
    flops = parse_positive(text, "--at-compute", "4e12")
    nearest: list[LeaderboardTable] = []
    images: dict[str, int] = {}
    for board in whole:
        at, there = equal_compute.table_at_compute(board, flops)
        nearest.append(at)
        images |= there
    parts = []
    for board in filter_tables(nearest, chosen, by):
        rows = []
        for line in board.lines:
            seen = images[line.group]
            cost = equal_compute.training_flops_at(line.runs[0], seen)
            rows.append(
                {
                    **text_tables.rank_columns(line),
                    "at images": f"{seen:,}",
                    "training FLOPs": f"{cost:.2e}",
                    "of those asked": f"x {cost / flops:.2g}",
                    **text_tables.metric_columns(board, line),
                    "MACs": format_count(line.counted("macs")),
                    "seeds": str(len(line.runs)),
                    "record": text_tables.record_links(line.runs),
                }
            )
        parts.append(
            text_tables.table_section(board, rows, f" At the evaluation points nearest to {flops:.3g} training FLOPs.")
        )
    return [*parts, COMPUTE_LEGEND]


COMPUTE_LEGEND = (
    "Ranks are of these points. An evaluation point before the end has no interval of its own: one seed is not ranked "
    "there. Weights that others trained are left out."
)


def render_cost_to_target(whole: Sequence[LeaderboardTable], text: str, chosen: Mapping[str, set[str]]) -> list[str]:
    """A table a board of what each line took to reach a metric's value."""
    name, equals, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not equals or not math.isfinite(value) or value <= 0:
        raise ValueError(f"--target is {text}; write METRIC=VALUE with a positive value, for example fid=1")
    parts = []
    for board in filter_tables(whole, chosen, ""):
        if not (metric := equal_compute.find_metric(board, name)):
            continue
        rows = [_target_row(found) for found in equal_compute.costs_to_target(board, metric, value)]
        sign = {"lower": "≤", "higher": "≥"}[board.direction(metric)]
        parts.append(text_tables.table_section(board, rows, f" To reach {metric} {sign} {value:g}."))
    if not parts:
        known = sorted({m for b in whole for m in b.metrics})
        raise ValueError(f"--target is {text}, a metric that no run here has; choose one of {', '.join(known)}")
    return [*parts, TARGET_LEGEND]


TARGET_LEGEND = (
    "Between two evaluation points a metric is taken as linear in the logarithm of the compute; ≤: the first point is "
    "there already. Of several seeds the median, one that did not reach it being the last. Hours are accelerator-hours "
    "of training, in proportion."
)


def _target_row(found: equal_compute.CostToTarget) -> dict[str, str]:
    most = "≤ " if found.at_most else ""
    return {
        "model": found.line.label,
        "training FLOPs": "not reached" if found.flops is None else f"{most}{found.flops:.2e}",
        "hours": "" if found.hours is None else f"{most}{found.hours:.3g}",
        "seeds": f"{found.reached} of {len(found.line.runs)}",
        "MACs": format_count(found.line.counted("macs")),
        "record": text_tables.record_links(found.line.runs),
    }


def parse_positive(text: str, flag: str, example: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{flag} is {text}; it must be a number above 0, as {example}")
    return value
