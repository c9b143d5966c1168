"""Reference statistics of real images, with a manifest: python -m bench.reference DATA

DATA is what bench.run takes as --data, of which those images are taken that a run compares with; or what
bench.evaluate takes as reference: a folder of images, an .npz with arr_0, or a run.  The file has ADM's layout
(mu, sigma, mu_s, sigma_s), so that it works as a reference anywhere; bench.evaluate also reads the manifest and
refuses what does not fit.  Files are kept under results/cache/references/ by a hash of what they depend on.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import get_args

from bench.config.metric_specs import FID_EXTRACTORS
from bench.config.schema import ProtocolName
from bench.data import sources
from bench.evaluation.reference_manifest import summarize_manifest
from bench.terminal.cli import CommandParser, PlainHelp, command


@command("bench.reference", stopped="stopped; nothing was written")
def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    import torch

    from bench.evaluation.reference_statistics import build_reference

    if flags.batch < 1:
        raise ValueError(f"--batch is {flags.batch}; it must be at least 1")
    if flags.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch sees no CUDA device; use --device cpu")
    path, made, new = build_reference(flags)
    if flags.json:
        print(json.dumps({"path": str(path), "new": new, "manifest": asdict(made)}, indent=2))
    else:
        print(f"{path} {'written' if new else 'is there already'}: {summarize_manifest(asdict(made))}")
    return 0


def parser() -> argparse.ArgumentParser:
    p = CommandParser(prog="python -m bench.reference", description=__doc__, formatter_class=PlainHelp)
    p.add_argument("data", metavar="DATA", help=f"{', '.join(sources.KNOWN_SOURCES)}; or a path")
    p.add_argument("--features", action="store_true", help="also what precision, recall and KID need")
    p.add_argument("--extractor", choices=FID_EXTRACTORS, default="")
    p.add_argument("--weights", default="", metavar="PATH", help="the extractor's weights (default: torch's cache)")
    p.add_argument("--protocol", choices=get_args(ProtocolName), help="default: adm; torch-fidelity for digits, shapes")
    p.add_argument("--root", default="data", metavar="DIR", help="where known data sets are (default: data)")
    p.add_argument("--cache", default="results/cache", metavar="DIR", help="default: results/cache")
    p.add_argument("--skip-bad", action="store_true", help="leave unusable images out, and count them")
    p.add_argument("--batch", type=int, default=64, metavar="N", help="images at a time (default: 64)")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--json", action="store_true", help="print the path and the manifest as JSON")
    return p


if __name__ == "__main__":
    sys.exit(main())
