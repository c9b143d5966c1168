"""Records of whole suites as if they had been run: costs and FIDs by formulas, protocols and configurations real."""

import math
from dataclasses import replace

from bench.experiments import suites
from bench.experiments.presets import compose_config
from bench.records import protocol, record

POINTS = 3


def run(name, wish, macs, fid, seed=0, points=POINTS, losses=16):
    """The record of a wish; `fid` is a function of training FLOPs."""
    config = compose_config(replace(wish, seed=seed))
    seen = dict(extractor_hash="e", reference_hash="r", reference_count=1348)
    evaluation = protocol.evaluation_protocol(config, **seen)
    training = protocol.training_protocol(config, native={}, match_target=1000 if config.model.match else None)
    whole = {"evaluation": evaluation, "training": training}
    images = [config.budget.images * (i + 1) // points for i in range(points)]
    metric = f"fid[{config.evaluation.extractor}]"
    values = [fid(6 * macs * i) for i in images]
    print_ = protocol.fingerprint(whole)
    identity = config.identity()
    return record.Record(
        id=record.record_id(config.model.label, identity, print_),
        kind="model",
        label=config.model.label,
        created="2026-11-22T00:00:00+00:00",
        config=identity,
        protocol=whole,
        fingerprint=print_,
        evaluation_fingerprint=protocol.fingerprint(evaluation),
        metrics={
            metric: record.Metric(
                value=values[-1],
                direction="lower",
                samples=1000,
                interval=record.Interval(low=values[-1] * 0.9, high=values[-1] * 1.1, method="made"),
            )
        },
        cost=record.RunCost(
            params=macs // 10,
            macs=macs,
            flops=2 * macs,
            training_flops=6 * macs * images[-1],
            guidance_multiplier=1,
            sampling_flops_per_image=2 * macs * config.evaluation.steps,
            images_per_second=5.0,
            mfu=None,
            peak_memory_bytes=1,
            accelerator_hours=0.1,
        ),
        curve=[{"images": i, "metrics": {metric: v}} for i, v in zip(images, values, strict=True)],
        losses=[[images[-1] * (k + 1) // losses, (k + 1) ** -0.3] for k in range(losses)],
        checkpoint={"crc32": "0", "images": images[-1], "weights": "ema"},
    )


def costs(cells):
    """MACs that make a sweep: a fifth decade a cell, and equal for what is matched to one reference."""
    references = sorted({c.request.match for c in cells}, key=lambda m: [c.request.match for c in cells].index(m))
    if references != [""]:
        return [int(9e6 * 2 ** references.index(c.request.match)) for c in cells]
    return [int(1e6 * 10 ** (i / 5)) for i in range(len(cells))]


def noise(k, seed):
    """Some per cent, always the same."""
    return 1 + 0.06 * math.sin(12.9898 * k + 78.233 * seed)


def study(suite, scale="digits", seeds=3, law=lambda c, k: 0.3 + 2 * (c / 1e12) ** -0.5, **more):
    """All runs of a suite; `law` gives the FID at so many training FLOPs of the k-th cell."""
    cells = suites.SUITES[suite].at(scale)
    return [
        run(c.name, c.request, macs, lambda flops, k=k, s=seed: law(flops, k) * noise(k, s), seed, **more)
        for k, (c, macs) in enumerate(zip(cells, costs(cells), strict=True))
        for seed in range(seeds)
    ]
