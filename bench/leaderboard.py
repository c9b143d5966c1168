"""The leaderboard, rebuilt from the records alone: python -m bench.leaderboard

One table a protocol: rows are ranked within a fingerprint only.  Runs that differ in nothing but
their training seed are one row of the Markdown, with mean, deviation and number; the CSV has each.
Reference rows (held-out images, noise) stand beside every table that shares their evaluation,
unranked.  Runs that failed or diverged stand in a list of their own, and in the CSV with that status and no
numbers.  Imports no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd
from tabulate import tabulate

from .command import Parser
from .config import digest
from .files import atomic
from .protocol import describe
from .record import Metric, Record, folder, read_all, unfinished_id

ARROWS = {"lower": "↓", "higher": "↑"}
HEADLINE = "fid"
ROUNDS = 5
"""How often it is rebuilt at most; whoever publishes after that rebuilds it too."""


def rows(records: Iterable[Record]) -> pd.DataFrame:
    """One row a record, metrics in columns of their own, numbers as numbers."""
    table = []
    for r in records:
        row: dict[str, Any] = {
            "fingerprint": r.fingerprint,
            "evaluation": r.evaluation_fingerprint,
            "rank": None,
            "model": r.label,
            "kind": r.kind,
            "status": r.status,
            "seed": r.config.get("seed"),
            "group": group_of(r),
            "images": r.protocol.get("training", {}).get("images"),
            "track": r.protocol.get("training", {}).get("track"),
        }
        for name, metric in r.metrics.items():
            row[name] = metric.value
            row[f"{name} low"] = metric.interval.low if metric.interval else None
            row[f"{name} high"] = metric.interval.high if metric.interval else None
            row["samples"] = metric.samples
        if r.cost:
            row |= {
                "params": r.cost.params,
                "macs": r.cost.macs,
                "training_flops": r.cost.training_flops,
                "images_per_second": r.cost.images_per_second and round(r.cost.images_per_second, 1),
                "accelerator_hours": round(r.cost.accelerator_hours, 4),
            }
        row |= {
            "incidents": len(r.incidents),
            "device": r.environment.get("device"),
            "date": r.created[:10],
            "commit": r.environment.get("commit"),
            "record": r.id,
        }
        table.append(row)
    return rank(pd.DataFrame(table))


def group_of(r: Record) -> str:
    """The same for runs that differ in nothing but their seed."""
    return digest([r.fingerprint, r.label, {k: v for k, v in r.config.items() if k != "seed"}])[:12]


def rank(table: pd.DataFrame) -> pd.DataFrame:
    """Ranks by FID, the mean over seeds, among the finished models of one fingerprint; equal values share a rank.

    Published weights are not ranked: their budgets and recipes differ.
    """
    if table.empty:
        return table
    headline = [c for c in table.columns if c == HEADLINE or (c.startswith(f"{HEADLINE}[") and c.endswith("]"))]
    best = table.reindex(columns=headline or [HEADLINE]).bfill(axis=1).iloc[:, 0].astype(float)
    ranked = (table["kind"] == "model") & (table["status"] == "done") & (table["track"] != "published")
    means = best.where(ranked).groupby(table["group"]).transform("mean")
    table["seeds"] = best.where(ranked).groupby(table["group"]).transform("count").where(ranked).astype("Int64")
    one_a_group = means.where(~table["group"].duplicated())
    ranks = one_a_group.groupby(table["fingerprint"]).rank(method="min")
    table["rank"] = ranks.groupby(table["group"]).transform("first").where(ranked).astype("Int64")
    order = table.assign(_best=means.fillna(best), _last=table["kind"] == "reference")
    order = order.sort_values(["fingerprint", "_last", "_best", "group", "seed", "record"], kind="stable")
    return order.drop(columns=["_best", "_last"]).reset_index(drop=True)


def build(results: Path) -> tuple[str, str]:
    """(CSV, Markdown) of a results folder's records."""
    records = without_overtaken(read_all(results))
    table = rows(records)
    return table.to_csv(index=False, lineterminator="\n"), markdown(records, table)


def without_overtaken(records: Iterable[Record]) -> list[Record]:
    """Records without failures of runs that were finished since."""
    there = list(records)
    finished = {unfinished_id(r) for r in there if r.status == "done"}
    return [r for r in there if r.status == "done" or r.id not in finished]


def markdown(records: list[Record], table: pd.DataFrame) -> str:
    """A table a protocol, with its caption, and what did not finish."""
    failed = [r for r in records if r.status != "done"]
    records = [r for r in records if r.status == "done"]
    parts = ["# Leaderboard\n\nMade by `python -m bench.leaderboard` from the records; do not edit.\n"]
    references = [r for r in records if r.kind == "reference"]
    for print_ in sorted({r.fingerprint for r in records if r.kind == "model"}):
        models = {r.id: r for r in records if r.fingerprint == print_ and r.kind == "model"}
        one = next(iter(models.values()))
        beside = [r for r in references if r.evaluation_fingerprint == one.evaluation_fingerprint]
        ranks = table.set_index("record")["rank"]
        groups: dict[str, list[Record]] = {}
        for id_ in (i for i in table["record"] if i in models):
            groups.setdefault(group_of(models[id_]), []).append(models[id_])
        lines = [_line(group, ranks.get(group[0].id)) for group in groups.values()]
        lines += [_line([r], None) for r in sorted(beside, key=lambda r: r.label)]
        parts.append(f"## Protocol {print_}\n\n{describe(one.protocol)}.\n")
        parts.append(tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True) + "\n")
    parts.append(
        "One seed: the value with the half-width of its 95 % interval. Several: mean ± standard deviation over the "
        "seeds (their number). Arrows say which way is better.\n"
    )
    if failed:
        lines = [_unfinished(r) for r in failed]
        text = tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)
        parts.append(f"## Did not finish\n\nNeither ranked nor averaged.\n\n{text}\n")
    return "\n".join(parts)


def _line(group: list[Record], rank_: Any) -> dict[str, str]:
    """A row for runs that differ in their seed alone."""
    r = group[0]
    line = {"rank": "–" if rank_ is None or pd.isna(rank_) else str(rank_), "model": r.label}
    for name, metric in r.metrics.items():
        short = name if name.startswith(HEADLINE) else name.partition("[")[0]  # the caption says whose features
        line[f"{short} {ARROWS[metric.direction]}"] = show([run.metrics[name] for run in group if name in run.metrics])
    line["N"] = f"{next(iter(r.metrics.values())).samples:,}"
    line["params"] = human(r.cost.params) if r.cost else ""
    line["MACs"] = human(r.cost.macs) if r.cost else ""
    line["training FLOPs"] = f"{r.cost.training_flops:.2e}" if r.cost and r.cost.training_flops else ""
    line["seed"] = ", ".join(str(run.config.get("seed", "")) for run in group) if r.kind == "model" else ""
    line["record"] = " ".join(f"[{run.id[-12:]}](records/v1/{run.id}.json)" for run in group)
    return line


def _unfinished(r: Record) -> dict[str, str]:
    """A row for a run that failed or diverged."""
    images = r.incidents[-1]["images"] if r.incidents else 0
    return {
        "model": r.label,
        "data": r.protocol["evaluation"]["data"],
        "status": r.status,
        "images": f"{images:,} of {r.protocol['training'].get('images') or 0:,}",
        "error": " ".join((r.error or "").split()).replace("|", "/"),
        "seed": str(r.config.get("seed", "")),
        "date": r.created[:10],
        "record": f"[{r.id[-12:]}](records/v1/{r.id}.json)",
    }


def show(metrics: Sequence[Metric]) -> str:
    """0.873 ± 0.021: a value and the half-width of its interval, or mean and deviation over seeds (3)."""
    metric = metrics[0]
    if len(metrics) > 1:
        values = [m.value for m in metrics]
        return f"{mean(values):.3f} ± {stdev(values):.3f} ({len(values)})"
    if metric.interval is None:
        return f"{metric.value:.3f}"
    return f"{metric.value:.3f} ± {(metric.interval.high - metric.interval.low) / 2:.3f}"


def human(count: float) -> str:
    """1,234,567 as 1.23 M."""
    for unit in ("", " k", " M", " G"):
        if abs(count) < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.4g} T"


def write(results: Path) -> str:
    """Rebuild leaderboard.csv and leaderboard.md; the Markdown is returned.

    Where another process has published meanwhile it is done again, so that the last to write knows all.
    """
    for _ in range(ROUNDS):
        before = ledger(results)
        csv, text = build(results)
        for name, content in (("leaderboard.csv", csv), ("leaderboard.md", text)):
            with atomic(results / name) as partial:
                partial.write_text(content)
        if ledger(results) == before:
            break
    return text


def ledger(results: Path) -> set[tuple[str, int, int]]:
    """What the leaderboard is made of: other records are another set."""
    found = set()
    for path in folder(results).glob("*.json"):
        with suppress(FileNotFoundError):
            stat = path.stat()
            found.add((path.name, stat.st_ino, stat.st_mtime_ns))
    return found


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m bench.leaderboard", description=__doc__.splitlines()[0])
    parser.add_argument("--results", default="results", metavar="DIR", help="results folder (default: results)")
    flags = parser.parse_args(argv)
    try:
        if not Path(flags.results).is_dir():
            raise ValueError(f"{flags.results} is no folder; name a results folder with --results")
        print(write(Path(flags.results)))
    except (ValueError, OSError) as error:
        print(f"bench.leaderboard: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
