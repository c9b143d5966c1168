"""Records of whole suites with real protocols and configurations; formulas give the costs and FIDs."""

import math
from dataclasses import replace

from factories import cost_of, metric, record_of_config

from bench.experiments import suites
from bench.experiments.presets import compose_config

POINTS = 3


def run(request, macs, fid, seed=0, points=POINTS, losses=16):
    """The record of a request; `fid` is a function of training FLOPs."""
    config = compose_config(replace(request, seed=seed))
    images = [config.budget.images * (i + 1) // points for i in range(points)]
    name = f"fid[{config.evaluation.extractor}]"
    values = [fid(6 * macs * i) for i in images]
    return record_of_config(
        config,
        {name: metric(values[-1], reach=0.1 * values[-1], samples=1000)},
        match_target=1000,
        cost=cost_of(config, macs, params=macs // 10),
        curve=[{"images": i, "metrics": {name: v}} for i, v in zip(images, values, strict=True)],
        losses=[[images[-1] * (k + 1) // losses, (k + 1) ** -0.3] for k in range(losses)],
    )


def costs(cells):
    """MACs that make a sweep: a fifth decade a cell, and equal for what is matched to one reference."""
    references = sorted({c.request.match for c in cells}, key=lambda m: [c.request.match for c in cells].index(m))
    if references != [""]:
        return [int(9e6 * 2 ** references.index(c.request.match)) for c in cells]
    return [int(1e6 * 10 ** (i / 5)) for i in range(len(cells))]


def noise(k, seed):
    """Deterministic factor within 6 % of 1."""
    return 1 + 0.06 * math.sin(12.9898 * k + 78.233 * seed)


def study(suite, scale="digits", seeds=3, law=lambda c, k: 0.3 + 2 * (c / 1e12) ** -0.5, **more):
    """All runs of a suite; `law` gives the FID at so many training FLOPs of the k-th cell."""
    cells = suites.SUITES[suite].at(scale)
    return [
        run(c.request, macs, lambda flops, k=k, s=seed: law(flops, k) * noise(k, s), seed, **more)
        for k, (c, macs) in enumerate(zip(cells, costs(cells), strict=True))
        for seed in range(seeds)
    ]
