"""The leaderboard, rebuilt from the records alone: python -m bench.leaderboard

One table a protocol: rows are ranked within a fingerprint only.  Reference rows (held-out images,
noise) stand beside every table that shares their evaluation, unranked.  Imports no torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from .protocol import describe
from .record import Metric, Record, read_all
from .runfolder import atomic

ARROWS = {"lower": "↓", "higher": "↑"}
HEADLINE = "fid"


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


def rank(table: pd.DataFrame) -> pd.DataFrame:
    """Ranks by FID among the finished models of one fingerprint; equal values share a rank.

    Published weights are not ranked: their budgets and recipes differ.
    """
    if table.empty:
        return table
    headline = [c for c in table.columns if c == HEADLINE or (c.startswith(f"{HEADLINE}[") and c.endswith("]"))]
    best = table[headline].bfill(axis=1).iloc[:, 0].astype(float)
    ranked = (table["kind"] == "model") & (table["status"] == "done") & (table["track"] != "published")
    table["rank"] = best.where(ranked).groupby(table["fingerprint"]).rank(method="min").astype("Int64")
    order = table.assign(_best=best, _last=table["kind"] == "reference")
    order = order.sort_values(["fingerprint", "_last", "_best", "record"], kind="stable")
    return order.drop(columns=["_best", "_last"]).reset_index(drop=True)


def build(results: Path) -> tuple[str, str]:
    """(CSV, Markdown) of a results folder's records."""
    records = list(read_all(results))
    table = rows(records)
    return table.to_csv(index=False, lineterminator="\n"), markdown(records, table)


def markdown(records: list[Record], table: pd.DataFrame) -> str:
    """A table a protocol, with its caption."""
    parts = ["# Leaderboard\n\nMade by `python -m bench.leaderboard` from the records; do not edit.\n"]
    references = [r for r in records if r.kind == "reference"]
    for print_ in sorted({r.fingerprint for r in records if r.kind == "model"}):
        models = {r.id: r for r in records if r.fingerprint == print_ and r.kind == "model"}
        one = next(iter(models.values()))
        beside = [r for r in references if r.evaluation_fingerprint == one.evaluation_fingerprint]
        ranks = table.set_index("record")["rank"]
        order = [models[i] for i in table["record"] if i in models]
        lines = [_line(r, ranks.get(r.id)) for r in [*order, *sorted(beside, key=lambda r: r.label)]]
        parts.append(f"## Protocol {print_}\n\n{describe(one.protocol)}.\n")
        parts.append(tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True) + "\n")
    parts.append("Values are shown with the half-width of their 95 % interval; arrows say which way is better.\n")
    return "\n".join(parts)


def _line(r: Record, rank_: Any) -> dict[str, str]:
    line = {"rank": "–" if rank_ is None or pd.isna(rank_) else str(rank_), "model": r.label}
    for name, metric in r.metrics.items():
        short = name if name.startswith(HEADLINE) else name.partition("[")[0]  # the caption says whose features
        line[f"{short} {ARROWS[metric.direction]}"] = show(metric)
    line["N"] = f"{next(iter(r.metrics.values())).samples:,}"
    line["params"] = human(r.cost.params) if r.cost else ""
    line["MACs"] = human(r.cost.macs) if r.cost else ""
    line["training FLOPs"] = f"{r.cost.training_flops:.2e}" if r.cost and r.cost.training_flops else ""
    line["seed"] = str(r.config.get("seed", "")) if r.kind == "model" else ""
    line["record"] = f"[{r.id[-12:]}](records/v1/{r.id}.json)"
    return line


def show(metric: Metric) -> str:
    """A value and the half-width of its interval: 0.873 ± 0.021."""
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
    """Rebuild leaderboard.csv and leaderboard.md; the Markdown is returned."""
    csv, text = build(results)
    for name, content in (("leaderboard.csv", csv), ("leaderboard.md", text)):
        with atomic(results / name) as partial:
            partial.write_text(content)
    return text


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.leaderboard", description=__doc__.splitlines()[0])
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
