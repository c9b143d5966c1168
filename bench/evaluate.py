"""Evaluation of any two sets of images: python -m bench.evaluate SAMPLES --reference REF

Each side is a folder of images, an .npz with arr_0 (ADM's layout), stored statistics (mu, sigma, mu_s,
sigma_s) or a run's folder.  Also the stage of a run: features of sampled images -> metrics, one JSON
file an evaluation point.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from tabulate import tabulate

from bench import manifest, metrics, selftest
from bench.collect import collect
from bench.config.schema import RunConfig
from bench.data.sources import Arrays, source
from bench.extractors import EXTRACTORS, network, weights_hash
from bench.images import ArrayImages, Images
from bench.manifold import Precision
from bench.measure import Request, measure, named, wanted_layers
from bench.storage.atomic import write_json
from bench.storage.run_folder import RunFolder
from bench.store import FeatureStore, Made
from bench.terminal.cli import Parser
from bench.training.tensorboard import Scalars

Metrics = dict[str, dict[str, Any]]
PICTURED = 100
"""Images of a reference row that its picture shows."""


class Evaluator:
    """An extractor and the features of the reference, computed once."""

    def __init__(self, config: RunConfig, weights: Path, arrays: Arrays, cuda: bool = False) -> None:
        name, self.protocol = config.evaluation.extractor, config.evaluation.protocol
        self.entry, self.device = EXTRACTORS[name], "cuda" if cuda else "cpu"
        self.classifies = self.entry.knows(config.data.title)
        self.net = network(name, weights, self.entry.layers.values(), cuda)
        self.made = Made(extractor=name, weights=weights.name, sha256=weights_hash(weights))
        self.real = self.collect(ArrayImages(arrays.reference, "the reference"), sampled=False, intervals=False)

    def collect(self, images: Images, *, sampled: bool, intervals: bool) -> metrics.Side:
        layers = self.entry.layers
        keep, fit = wanted_layers(layers, set(layers), sampled=sampled, intervals=intervals)
        return collect(self.net, images, keep=keep, fit=fit)

    def __call__(self, images: Images | np.ndarray, labels: np.ndarray | None, *, intervals: bool) -> Metrics:
        """Metrics of uint8 images (N, C, H, W), their names ending as the extractor's must.

        Class accuracy is only measured by an extractor whose classes are the data's.
        """
        source = ArrayImages(images, "the samples") if isinstance(images, np.ndarray) else images
        return self.compare(self.collect(source, sampled=True, intervals=intervals), labels, intervals=intervals)

    def stored(self, store: FeatureStore, *, intervals: bool) -> Metrics:
        """Metrics of samples whose features are stored; ValueError where they are another extractor's."""
        store.check(self.made)
        side = metrics.Side(rows=store.rows(), fitted=store.fitted(self.entry.layers), count=store.count)
        return self.compare(side, store.labels, intervals=intervals)

    def compare(self, samples: metrics.Side, labels: np.ndarray | None, *, intervals: bool) -> Metrics:
        """Metrics of the samples' features against the reference's."""
        sides = metrics.Sides(
            samples=samples,
            reference=self.real,
            layers=self.entry.layers,
            labels=np.asarray(labels) if labels is not None and self.classifies else None,
            protocol=self.protocol,
            device=self.device,
        )
        return named(metrics.compute(sides, intervals=intervals), self.entry)


def evaluate(run: RunFolder, config: RunConfig, make: Callable[[], Evaluator], check: Callable[[], None]) -> None:
    """Measure every evaluation point that has no metrics yet; intervals at the last point only."""
    points = config.budget.evaluation_points
    evaluator = None
    for i, point in enumerate(points):
        target = run.file("evaluation", point, "json")
        if target.is_file():
            continue
        evaluator = evaluator or make()
        found = evaluator.stored(FeatureStore(run.features(point)), intervals=point == points[-1])
        write_json(target, {"images": point, "metrics": found})
        Scalars(run).add(point, {k: v["value"] for k, v in found.items()})
        run.log("evaluate", images=i + 1, of=len(points), point=point, **{k: v["value"] for k, v in found.items()})
        check()


def read_curve(run: RunFolder, config: RunConfig) -> list[dict[str, Any]]:
    """[{images, metrics}] of all evaluation points."""
    points = config.budget.evaluation_points
    return [json.loads(run.file("evaluation", p, "json").read_text()) for p in points]


class Noise:
    """Gaussian pixels (N, C, H, W) uint8, made batch by batch in their order."""

    def __init__(self, count: int, size: tuple[int, int, int], seed: int) -> None:
        self.name, self.count, self.size, self.seed = "noise", count, size, seed
        self.left_out: list[dict[str, str]] = []

    def batches(self, size: int) -> Iterator[tuple[list[str], np.ndarray]]:
        rng = np.random.RandomState(self.seed)
        for start in range(0, self.count, size):
            n = min(size, self.count - start)
            values = rng.standard_normal((n, *self.size)) * 127.5 + 127.5
            yield [f"noise {start + i}" for i in range(n)], np.clip(values, 0, 255).astype(np.uint8)


def reference_rows(evaluator: Evaluator, arrays: Arrays, config: RunConfig) -> dict[str, tuple[Metrics, np.ndarray]]:
    """{"held-out": ..., "noise": ...}: metrics of real images never trained on, and of Gaussian noise; some images.

    Noise is the ceiling, real images are the floor.
    """
    e, (channels, height, width) = config.evaluation, arrays.reference.shape[1:]
    noise = Noise(e.samples, (channels, height, width), e.seed)
    classes = max(1, source(config.data.name, config.data.root).num_classes)
    found = evaluator(noise, np.arange(e.samples) % classes, intervals=True)
    rows = {"noise": (found, next(noise.batches(PICTURED))[1])}
    if arrays.held_out is not None:
        found = evaluator(ArrayImages(arrays.held_out, "held-out"), arrays.held_out_labels, intervals=True)
        rows["held-out"] = (found, np.asarray(arrays.held_out[:PICTURED]))
    return rows


def main(argv: list[str] | None = None) -> int:
    flags = parser().parse_args(argv)
    try:
        request = request_of(flags)
        if flags.threads:
            torch.set_num_threads(flags.threads)
        result = measure(request)
        if flags.self_test:
            result["self_test"] = selftest.verdicts(result["metrics"])
        if flags.out:
            write_json(Path(flags.out), result)
    except (ValueError, OSError) as error:
        print(f"bench.evaluate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbench.evaluate: stopped; nothing was written", file=sys.stderr)
        return 130
    print(json.dumps(result, indent=2, allow_nan=False) if flags.json else report(result))
    return int(not all(row["ok"] for row in result.get("self_test", [])))


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m bench.evaluate",
        description="FID, sFID, IS, KID, precision, recall and FD-DINOv2 of one set of images against another.",
        epilog="Each side: a folder of PNG or JPEG files, an .npz with arr_0 (N, H, W, 3), an .npz of statistics "
        "(mu, sigma, mu_s, sigma_s), or results/runs/NAME (its newest samples; as reference, its data's).",
    )
    p.add_argument("samples", nargs="?", metavar="SAMPLES", help="the generated side")
    p.add_argument("--reference", metavar="REF", help="the real side")
    p.add_argument("--self-test", nargs=2, metavar=("REF.npz", "SAMPLES.npz"), help="check ADM's published target")
    p.add_argument("--protocol", choices=get_args(metrics.Protocol), help="whose inception score (default: adm)")
    names = [name for name in metrics.KINDS if name != "class_accuracy"]
    p.add_argument("--metrics", nargs="+", default=[], metavar="NAME", help=f"some of: {', '.join(names)}")
    p.add_argument("--extractor", choices=[n for n, e in EXTRACTORS.items() if "fid" in e.layers], default="")
    p.add_argument("--weights", default="", metavar="PATH", help="the extractor's weights (default: torch's cache)")
    p.add_argument("--dinov2-weights", default="", metavar="PATH", help="DINOv2's weights (default: torch's cache)")
    p.add_argument("--pr-dtype", choices=get_args(Precision), help="float16 repeats published tables' distances")
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


def request_of(flags: argparse.Namespace) -> Request:
    """The request of a command line; ValueError for what does not fit together."""
    if flags.self_test:
        if flags.samples or flags.reference:
            raise ValueError("--self-test names both files itself: --self-test REF.npz SAMPLES.npz")
        reference, samples = flags.self_test
    else:
        samples, reference = flags.samples, flags.reference
        if not samples or not reference:
            raise ValueError("two sides are needed: python -m bench.evaluate SAMPLES --reference REF")
    wanted = tuple(selftest.TARGET) if flags.self_test else tuple(m.replace("-", "_") for m in flags.metrics)
    for name in wanted:
        if name not in metrics.KINDS:
            raise ValueError(f"{name} is no metric; choose of {', '.join(metrics.KINDS)}")
    if flags.batch < 1 or flags.threads < 0:
        raise ValueError(f"--batch is {flags.batch} and --threads {flags.threads}; they must be at least 1 and 0")
    if flags.out:
        check_writable(Path(flags.out))
    if flags.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch sees no CUDA device; use --device cpu")
    return Request(
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


def report(result: dict[str, Any]) -> str:
    """The result as a table and the facts it rests on."""
    rows = []
    for name, m in result["metrics"].items():
        samples = f"{m['samples']:,}" if m["samples"] else "?"
        rows.append([name, f"{m['value']:.4f}", between(m["interval"]), m["direction"], samples])
        if "infinity" in m:
            i = m["infinity"]
            rows.append([f"{name}, N -> inf", f"{i['value']:.4f}", between(i["interval"]), m["direction"], "inf"])
    lines = [tabulate(rows, headers=["metric", "value", "95 % interval", "better", "N"], disable_numparse=True), ""]
    for role in ("samples", "reference"):
        side = result[role]
        count = f"{side['count']:,} images" if side["count"] else "statistics"
        stored = f", statistics for {' and '.join(side['stored_statistics'])} from the file"
        lines.append(f"{role}: {side['path']} ({count}{stored if side['stored_statistics'] else ''})")
        lines += [f"  manifest: {manifest.words(side['manifest'])}"] if side["manifest"] else []
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
    lines += [verdict(row) for row in result.get("self_test", [])]
    return "\n".join(lines)


def between(interval: dict[str, Any] | None) -> str:
    """An interval in the table."""
    return f"{interval['low']:.4f} to {interval['high']:.4f}" if interval else "-"


def verdict(row: dict[str, Any]) -> str:
    """A line of the self-test."""
    found = "not measured" if row["found"] is None else f"{row['found']:.4f}"
    word = "ok" if row["ok"] else "FAILED"
    return f"self-test {row['metric']}: {word}, {found}; published {row['target']:.4f} -+ {row['tolerance']}"


if __name__ == "__main__":
    sys.exit(main())
