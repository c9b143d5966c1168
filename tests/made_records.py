"""Records for tests: `made`, as short as a record can be, and `whole`, which nothing tells from a real one's form."""

import dataclasses
import json
import random

from bench.config import schema
from bench.config.metric_specs import METRIC_SPECS, metric_type
from bench.experiments import presets
from bench.records import protocol, record
from bench.records.protocol import fingerprint

EVALUATION = {
    "data": "digits",
    "extractor": "digits-cnn",
    "samples": 100,
    "reference_count": 1348,
    "sampler": "ddim",
    "steps": 20,
    "guidance": 1.5,
    "guidance_channels": "all",
}
COST = record.RunCost(
    params=10,
    macs=20,
    flops=40,
    training_flops=120_000,
    guidance_multiplier=2,
    sampling_flops_per_image=80,
    images_per_second=5.0,
    mfu=None,
    peak_memory_bytes=1,
    accelerator_hours=0.1,
)
NAMES = tuple(f"{kind}[digits-cnn]" for kind in ("fid", "is", "precision", "recall", "class_accuracy"))


def metric(value, interval=True, reach=0.1, direction="lower", samples=100):
    own = record.Interval(low=value - reach, high=value + reach, method="test") if interval else None
    return record.Metric(value=value, direction=direction, samples=samples, interval=own)


def made(label="dit", fid=1.0, kind="model", seed=0, reach=0.1, curve=(), training=(), **evaluation):
    """`curve` is [(images, fid)]; `training` are fields of the protocol's training half."""
    protocol = {"evaluation": {**EVALUATION, **evaluation}}
    if kind == "model":
        protocol["training"] = {"track": "shared", "images": 1000, "match": {"by": "none"}, **dict(training)}
    config = {"seed": seed} if kind == "model" else {}
    print_ = fingerprint(protocol)
    return record.Record(
        id=record.record_id(label, config, print_),
        kind=kind,
        label=label,
        created="2026-11-22T00:00:00+00:00",
        config=config,
        protocol=protocol,
        fingerprint=print_,
        evaluation_fingerprint=fingerprint(protocol["evaluation"]),
        metrics={"fid[digits-cnn]": metric(fid, reach=reach)},
        cost=COST if kind == "model" else None,
        curve=[{"images": images, "metrics": {"fid[digits-cnn]": value}} for images, value in curve],
        checkpoint={"crc32": "0", "images": 1000, "weights": "ema"} if kind == "model" else None,
    )


def plain(data):
    """As JSON gives it back."""
    return json.loads(json.dumps(data))


def config_of(arch="dit", seed=0, **settings):
    """A config of --set's words, dots written as two underscores."""
    own = {k.replace("__", "."): str(v) for k, v in settings.items()}
    return presets.compose_config(presets.RunRequest(arch=arch, data="digits", seed=seed, settings=own))


def whole(config=None, fid=1.0, macs=1_000_000, spread=0.05, more=None):
    """A finished record of a config, whose FID falls to `fid`; `more` are metrics that replace the made ones."""
    config = config or config_of()
    e, images = config.evaluation, config.budget.images
    parts = {
        "evaluation": protocol.evaluation_protocol(
            config, extractor_hash="a" * 64, reference_hash="b" * 64, reference_count=1348
        ),
        "training": protocol.training_protocol(
            config, native=presets.native_preset(config), match_target=macs if config.model.match else None
        ),
    }
    identity, parts = plain(config.identity()), plain(parts)
    print_ = fingerprint(parts)
    values = {**dict(zip(NAMES, (fid, 7.0, 0.8, 0.7, 0.9), strict=True)), **(more or {})}
    metrics = {
        name: metric(value, reach=spread * value, direction=METRIC_SPECS[metric_type(name)][0], samples=e.samples)
        for name, value in values.items()
    }
    points = [images * (i + 1) // config.budget.points for i in range(config.budget.points)]
    curve = [
        {"images": at, "metrics": {k: (v if at == images else 0.9 * v) for k, v in values.items()}} for at in points
    ]
    for p in curve:
        p["metrics"]["fid[digits-cnn]"] = fid * images / p["images"]
    return record.Record(
        id=record.record_id(config.model.label, identity, print_),
        kind="model",
        label=config.model.label,
        created="2026-11-22T00:00:00+00:00",
        config=identity,
        protocol=parts,
        fingerprint=print_,
        evaluation_fingerprint=fingerprint(parts["evaluation"]),
        metrics=metrics,
        cost=record.RunCost(
            params=100_000,
            macs=macs,
            flops=2 * macs,
            training_flops=6 * macs * images,
            guidance_multiplier=1 if e.guidance == 1 else 2,
            sampling_flops_per_image=2 * macs * e.forward_passes,
            images_per_second=500.0,
            mfu=None,
            peak_memory_bytes=10**9,
            accelerator_hours=images / 500 / 3600,
        ),
        curve=curve,
        losses=[(images * (i + 1) // 64, 1 / (i + 1)) for i in range(64)],
        environment={"commit": "0123456789ab", "dirty": False, "device": "a CPU", "packages": {"torch": "2.7"}},
        checkpoint={"crc32": "01234567", "images": images, "weights": "ema"},
    )


def many(count, seeds=3, boards=40):
    """That many whole records: runs of so many seeds each, on so many boards."""
    rng, one = random.Random(0), config_of(budget__points="4")
    for i in range(count):
        variant, seed = divmod(i, seeds)
        config = dataclasses.replace(
            one,
            seed=seed,
            model=dataclasses.replace(one.model, args={"depth": 1 + variant}),
            budget=schema.BudgetConfig(images=10_000 * (1 + variant % boards), points=4),
        )
        yield whole(config, fid=rng.uniform(0.5, 5), macs=1_000_000 + variant)
