"""Format the result of a comparison as text."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from bench.evaluation import reference_manifest

HEADERS = ["metric", "value", "95 % interval", "better", "N"]
MAX_LEFT_OUT = 10
"""Maximum number of left-out images that are listed for each input."""


def format_comparison(result: dict[str, Any]) -> str:
    """Format a result of `compare_sample_sets` as a table and the facts that it depends on."""
    rows, infinity_lines = [], []
    for name, m in result["metrics"].items():
        count = f"{m['samples']:,}" if m["samples"] else "?"
        rows.append([name, f"{m['value']:.4f}", format_interval(m["interval"]), m["direction"], count])
        if i := m.get("infinity"):
            title, sizes = f"{name}, N -> inf", ", ".join(f"{n:,}" for n in i["sizes"])
            rows.append([title, f"{i['value']:.4f}", format_interval(i["interval"]), m["direction"], "inf"])
            error = f"{i['standard_error']:.4f}"
            infinity_lines.append(f"{title}: line through N = {sizes}; standard error of the line {error}")
    lines = [tabulate(rows, headers=HEADERS, disable_numparse=True), ""]
    for role in ("samples", "reference"):
        lines += _input_lines(role, result[role])
    lines.append(f"protocol: {result['protocol']}, distances of precision and recall in {result['pr_dtype']}")
    lines += [f"{name}: {w['file']}, SHA-256 {w['sha256'][:16]}..." for name, w in result["extractors"].items()]
    methods = {m["interval"]["method"] for m in result["metrics"].values() if m["interval"]}
    lines += [f"intervals: {method}" for method in sorted(methods)]
    lines += infinity_lines
    lines += [f"not measured: {name}: {reason}" for name, reason in result["not_measured"].items()]
    lines += [f"note: {note}" for note in result["notes"]]
    lines += [format_selftest_row(row) for row in result.get("self_test", [])]
    return "\n".join(lines)


def _input_lines(role: str, described: dict[str, Any]) -> list[str]:
    """Describe one input: path, count, manifest, and the images that were left out."""
    count = f"{described['count']:,} images" if described["count"] else "statistics"
    if described["stored_statistics"]:
        count += f", statistics for {' and '.join(described['stored_statistics'])} from the file"
    lines, left_out = [f"{role}: {described['path']} ({count})"], described["left_out"]
    if described["manifest"]:
        lines.append(f"  manifest: {reference_manifest.summarize_manifest(described['manifest'])}")
    lines += [f"  left out: {image['file']} {image['reason']}" for image in left_out[:MAX_LEFT_OUT]]
    if len(left_out) > MAX_LEFT_OUT:
        lines.append(f"  and {len(left_out) - MAX_LEFT_OUT:,} more left out")
    return lines


def format_interval(interval: dict[str, Any] | None) -> str:
    """Format an interval {low, high}; "-" for None."""
    return f"{interval['low']:.4f} to {interval['high']:.4f}" if interval else "-"


def format_selftest_row(row: dict[str, Any]) -> str:
    """Format a row of `adm_selftest.check_against_target`."""
    value = "not measured" if row["found"] is None else f"{row['found']:.4f}"
    verdict = "ok" if row["ok"] else "FAILED"
    return f"self-test {row['metric']}: {verdict}, {value}; published {row['target']:.4f} ± {row['tolerance']}"
