"""Compute reference statistics of real images once: python -m bench.reference DATA

DATA is a data set as for bench.run --data (its reference images are used), or a reference as for bench.evaluate: a
folder of images, an .npz file with arr_0, or a run.

The output has ADM's layout (mu, sigma, mu_s, sigma_s), so other evaluators can read it.  bench.evaluate also checks its
manifest and refuses samples that do not match.  The file is stored in results/cache/references/, under a hash of
everything that determines its values.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from bench.data import sources
from bench.evaluation.flags import add_extraction_flags
from bench.evaluation.reference_manifest import summarize_manifest
from bench.terminal.cli import CommandParser, PlainHelp, command


@command("bench.reference", stopped="stopped; nothing was written")
def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    from bench.evaluation.reference_statistics import build_reference, request_from_flags  # --help needs no torch

    path, manifest, new = build_reference(request_from_flags(flags))
    fields = asdict(manifest)
    if flags.json:
        print(json.dumps({"path": str(path), "new": new, "manifest": fields}, indent=2))
    else:
        print(f"{path} {'written' if new else 'exists already'}: {summarize_manifest(fields)}")
    return 0


def parser() -> CommandParser:
    p = CommandParser(
        prog="python -m bench.reference",
        description=__doc__,
        formatter_class=PlainHelp,
    )
    p.add_argument("data", metavar="DATA", help=f"{', '.join(sources.KNOWN_SOURCES)}; or a path")
    p.add_argument(
        "--features", action="store_true", help="also store the features that precision, recall and KID need"
    )
    add_extraction_flags(p)
    p.add_argument("--root", default="data", metavar="DIR", help="folder of the known data sets (default: data)")
    p.add_argument("--cache", default="results/cache", metavar="DIR", help="cache folder (default: results/cache)")
    return p


if __name__ == "__main__":
    sys.exit(main())
