"""Request for a comparison of two sample sets, and its construction from flags.  Imports no torch."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from bench.config.metric_specs import METRIC_SPECS, DistanceDtype
from bench.config.schema import ProtocolName
from bench.evaluation import adm_selftest
from bench.evaluation.flags import check_batch, use_cuda


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest:
    """Settings of a comparison."""

    samples: Path
    reference: Path
    wanted: tuple[str, ...] = ()
    """Metrics that are required; () computes those that are available and reports why others are not."""
    protocol: ProtocolName | None = None
    """None: the run's protocol, else that of the stored statistics, else adm."""
    extractor: str = ""
    """"": the run's extractor, else that of the stored statistics, else Inception."""
    weights: str = ""
    dinov2_weights: str = ""
    pr_dtype: DistanceDtype = "float32"
    """Data type of the distances of precision and recall."""
    kid_size: int | None = None
    """Images of a KID subset; None: `MetricInputs.kid_size`'s default."""
    intervals: bool = True
    fid_infinity: bool = False
    """Whether Frechet distances are also extrapolated to infinitely many samples."""
    skip_bad: bool = False
    """Whether unusable images are left out and listed instead of being an error."""
    batch: int = 64
    cuda: bool = False
    threads: int = 0
    """CPU threads; 0: torch's own number."""
    self_test: bool = False
    """Whether the result is also compared with ADM's published values (adm_selftest.py)."""

    @property
    def requested_metrics(self) -> tuple[str, ...]:
        """Metrics to compute if they are available."""
        return self.wanted or tuple(METRIC_SPECS)


def request_from_flags(flags: argparse.Namespace) -> ComparisonRequest:
    """Build the request of a command line; ValueError for flags that are wrong or contradict each other."""
    samples, reference = _paths(flags)
    wanted = tuple(adm_selftest.TARGET) if flags.self_test else tuple(m.replace("-", "_") for m in flags.metrics)
    for name in wanted:
        if name not in METRIC_SPECS:
            raise ValueError(f"{name} is no metric; choose from {', '.join(METRIC_SPECS)}")
    check_batch(flags.batch)
    if flags.threads < 0:
        raise ValueError(f"--threads is {flags.threads}; it must be at least 0")
    if flags.out:
        check_writable(Path(flags.out))
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
        fid_infinity=flags.fid_infinity,
        skip_bad=flags.skip_bad,
        batch=flags.batch,
        cuda=use_cuda(flags.device),
        threads=flags.threads,
        self_test=bool(flags.self_test),
    )


def _paths(flags: argparse.Namespace) -> tuple[str, str]:
    """Return (samples, reference)."""
    if flags.self_test:
        if flags.samples or flags.reference:
            raise ValueError("--self-test names both files itself: --self-test REF.npz SAMPLES.npz")
        return flags.self_test[1], flags.self_test[0]
    if not flags.samples or not flags.reference:
        raise ValueError("two sample sets are needed: python -m bench.evaluate SAMPLES --reference REF")
    return flags.samples, flags.reference


def check_writable(path: Path) -> None:
    """ValueError if a file could not be written to this path; checked before hours of work."""
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder; name a file")
    above = next(p for p in path.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"--out {path}: {above} is no folder that can be written to")
