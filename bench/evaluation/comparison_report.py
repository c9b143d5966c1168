"""Show the metrics of a comparison as text."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from bench.evaluation import reference_manifest


def format_comparison(result: dict[str, Any]) -> str:
    """The result as a table and the facts it rests on."""
    rows = []
    for name, m in result["metrics"].items():
        samples = f"{m['samples']:,}" if m["samples"] else "?"
        rows.append([name, f"{m['value']:.4f}", format_interval(m["interval"]), m["direction"], samples])
        if "infinity" in m:
            i = m["infinity"]
            rows.append(
                [f"{name}, N -> inf", f"{i['value']:.4f}", format_interval(i["interval"]), m["direction"], "inf"]
            )
    lines = [tabulate(rows, headers=["metric", "value", "95 % interval", "better", "N"], disable_numparse=True), ""]
    for role in ("samples", "reference"):
        side = result[role]
        count = f"{side['count']:,} images" if side["count"] else "statistics"
        stored = f", statistics for {' and '.join(side['stored_statistics'])} from the file"
        lines.append(f"{role}: {side['path']} ({count}{stored if side['stored_statistics'] else ''})")
        lines += [f"  manifest: {reference_manifest.summarize_manifest(side['manifest'])}"] if side["manifest"] else []
        lines += [f"  left out: {bad['file']} {bad['reason']}" for bad in side["left_out"][:10]]
        if len(side["left_out"]) > 10:
            lines.append(f"  and {len(side['left_out']) - 10:,} more left out")
    lines.append(f"protocol: {result['protocol']}, distances of precision and recall in {result['pr_dtype']}")
    lines += [f"{name}: {w['file']}, SHA-256 {w['sha256'][:16]}..." for name, w in result["extractors"].items()]
    methods = {m["interval"]["method"] for m in result["metrics"].values() if m["interval"]}
    lines += [f"intervals: {method}" for method in sorted(methods)]
    for name, found in ((name, m["infinity"]) for name, m in result["metrics"].items() if "infinity" in m):
        sizes = ", ".join(f"{n:,}" for n in found["sizes"])
        lines.append(f"{name}, N -> inf: line through N = {sizes}; its standard error {found['standard_error']:.4f}")
    lines += [f"not measured: {name}: {why}" for name, why in result["not_measured"].items()]
    lines += [f"note: {note}" for note in result["notes"]]
    lines += [format_selftest_row(row) for row in result.get("self_test", [])]
    return "\n".join(lines)


def format_interval(interval: dict[str, Any] | None) -> str:
    """An interval in the table."""
    return f"{interval['low']:.4f} to {interval['high']:.4f}" if interval else "-"


def format_selftest_row(row: dict[str, Any]) -> str:
    """A line of the self-test."""
    found = "not measured" if row["found"] is None else f"{row['found']:.4f}"
    word = "ok" if row["ok"] else "FAILED"
    return f"self-test {row['metric']}: {word}, {found}; published {row['target']:.4f} -+ {row['tolerance']}"
