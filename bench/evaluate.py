"""Measure one set of images against another: python -m bench.evaluate SAMPLES --reference REF"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from bench.config.metric_specs import FID_EXTRACTORS, METRIC_SPECS, DistanceDtype
from bench.config.schema import ProtocolName
from bench.evaluation import adm_selftest
from bench.storage.atomic import write_json
from bench.terminal.cli import CommandParser, command

if TYPE_CHECKING:
    from bench.evaluation.comparison import ComparisonRequest


@command("bench.evaluate", stopped="stopped; nothing was written")
def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    import torch

    from bench.evaluation.comparison import compare_sample_sets
    from bench.evaluation.comparison_report import format_comparison

    request = request_of(flags)
    if flags.threads:
        torch.set_num_threads(flags.threads)
    result = compare_sample_sets(request)
    if flags.self_test:
        result["self_test"] = adm_selftest.check_against_target(result["metrics"])
    if flags.out:
        write_json(Path(flags.out), result)
    print(json.dumps(result, indent=2, allow_nan=False) if flags.json else format_comparison(result))
    return int(not all(row["ok"] for row in result.get("self_test", [])))


def parser() -> argparse.ArgumentParser:
    p = CommandParser(
        prog="python -m bench.evaluate",
        description="FID, sFID, IS, KID, precision, recall and FD-DINOv2 of one set of images against another.",
        epilog="Each side: a folder of PNG or JPEG files, an .npz with arr_0 (N, H, W, 3), an .npz of statistics "
        "(mu, sigma, mu_s, sigma_s), or results/runs/NAME (its newest samples; as reference, its data's).",
    )
    p.add_argument("samples", nargs="?", metavar="SAMPLES", help="the generated side")
    p.add_argument("--reference", metavar="REF", help="the real side")
    p.add_argument("--self-test", nargs=2, metavar=("REF.npz", "SAMPLES.npz"), help="check ADM's published target")
    p.add_argument("--protocol", choices=get_args(ProtocolName), help="whose inception score (default: adm)")
    names = [name for name in METRIC_SPECS if name != "class_accuracy"]
    p.add_argument("--metrics", nargs="+", default=[], metavar="NAME", help=f"some of: {', '.join(names)}")
    p.add_argument("--extractor", choices=FID_EXTRACTORS, default="")
    p.add_argument("--weights", default="", metavar="PATH", help="the extractor's weights (default: torch's cache)")
    p.add_argument("--dinov2-weights", default="", metavar="PATH", help="DINOv2's weights (default: torch's cache)")
    p.add_argument("--pr-dtype", choices=get_args(DistanceDtype), help="float16 repeats published tables' distances")
    p.add_argument("--kid-subset", type=int, metavar="N", help="images of a KID subset (default: 1000)")
    p.add_argument("--fid-infinity", action="store_true", help="also extrapolate Frechet distances to N -> infinity")
    p.add_argument("--no-intervals", action="store_true", help="leave the 95 %% intervals out, which is faster")
    p.add_argument("--skip-bad", action="store_true", help="leave unusable images out, and list them")
    p.add_argument("--batch", type=int, default=64, metavar="N", help="images at a time (default: 64)")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: torch's)")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    p.add_argument("--out", metavar="FILE", help="also write the JSON there")
    return p


def request_of(flags: argparse.Namespace) -> ComparisonRequest:
    """The request of a command line; ValueError for what does not fit together."""
    import torch

    from bench.evaluation.comparison import ComparisonRequest

    if flags.self_test:
        if flags.samples or flags.reference:
            raise ValueError("--self-test names both files itself: --self-test REF.npz SAMPLES.npz")
        reference, samples = flags.self_test
    else:
        samples, reference = flags.samples, flags.reference
        if not samples or not reference:
            raise ValueError("two sides are needed: python -m bench.evaluate SAMPLES --reference REF")
    wanted = tuple(adm_selftest.TARGET) if flags.self_test else tuple(m.replace("-", "_") for m in flags.metrics)
    for name in wanted:
        if name not in METRIC_SPECS:
            raise ValueError(f"{name} is no metric; choose of {', '.join(METRIC_SPECS)}")
    if flags.batch < 1 or flags.threads < 0:
        raise ValueError(f"--batch is {flags.batch} and --threads {flags.threads}; they must be at least 1 and 0")
    if flags.out:
        check_writable(Path(flags.out))
    if flags.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch sees no CUDA device; use --device cpu")
    return ComparisonRequest(
        samples=Path(samples),
        reference=Path(reference),
        wanted=wanted,
        protocol="adm" if flags.self_test else flags.protocol,
        extractor=flags.extractor,
        weights=flags.weights,
        dinov2_weights=flags.dinov2_weights,
        pr_dtype=flags.pr_dtype or ("float16" if flags.self_test else "float32"),
        kid_size=flags.kid_subset,
        intervals=not (flags.no_intervals or flags.self_test),
        infinity=flags.fid_infinity,
        skip_bad=flags.skip_bad,
        batch=flags.batch,
        cuda=flags.device != "cpu" and torch.cuda.is_available(),
    )


def check_writable(path: Path) -> None:
    """ValueError, before hours of work, where a file could not be written at their end."""
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder; name a file")
    above = next(p for p in path.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"--out {path}: {above} is no folder that can be written to")


if __name__ == "__main__":
    sys.exit(main())
