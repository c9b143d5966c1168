"""Command-line entry point: compare two sets of images (python -m bench.evaluate SAMPLES --reference REF)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import get_args

from bench.config.metric_specs import METRIC_SPECS, DistanceDtype
from bench.evaluation.comparison_request import request_from_flags
from bench.evaluation.flags import add_extraction_flags
from bench.storage.atomic import write_json
from bench.terminal.cli import CommandParser, command


@command("bench.evaluate", stopped="stopped; nothing was written")
def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    from bench.evaluation.comparison import compare_sample_sets  # --help needs no torch
    from bench.evaluation.comparison_report import format_comparison

    result = compare_sample_sets(request_from_flags(flags))
    if flags.out:
        write_json(Path(flags.out), result)
    print(json.dumps(result, indent=2, allow_nan=False) if flags.json else format_comparison(result))
    return int(not all(row["ok"] for row in result.get("self_test", [])))


def parser() -> CommandParser:
    p = CommandParser(
        prog="python -m bench.evaluate",
        description="Compute FID, sFID, IS, KID, precision, recall and FD-DINOv2 of one set of images against another.",
        epilog="SAMPLES and REF: a folder of PNG or JPEG files, an .npz with arr_0 (N, H, W, 3), an .npz of statistics "
        "(mu, sigma, mu_s, sigma_s), or results/runs/NAME (its newest samples; as reference, the images of its data).",
    )
    p.add_argument("samples", nargs="?", metavar="SAMPLES", help="the generated images")
    p.add_argument("--reference", metavar="REF", help="the real images")
    p.add_argument("--self-test", nargs=2, metavar=("REF.npz", "SAMPLES.npz"), help="reproduce ADM's published values")
    names = ", ".join(name for name in METRIC_SPECS if name != "class_accuracy")
    p.add_argument("--metrics", nargs="+", default=[], metavar="NAME", help=f"metrics (default: all): {names}")
    add_extraction_flags(p)
    p.add_argument("--dinov2-weights", default="", metavar="PATH", help="DINOv2's weights (default: torch's cache)")
    dtype = "data type of the distances in precision and recall (default: float32; published tables: float16)"
    p.add_argument("--pr-dtype", choices=get_args(DistanceDtype), help=dtype)
    p.add_argument("--kid-subset", type=int, metavar="N", help="images per KID subset (default: 1000)")
    p.add_argument("--fid-infinity", action="store_true", help="also extrapolate Frechet distances to N -> infinity")
    p.add_argument("--no-intervals", action="store_true", help="omit the 95 %% intervals, which is faster")
    p.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: torch's)")
    p.add_argument("--out", metavar="FILE", help="also write the JSON to this file")
    return p


if __name__ == "__main__":
    sys.exit(main())
