"""Records for tests: `short_record` has only required keys; the others have the config and protocol of a real run."""

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
CREATED = "2026-11-22T00:00:00+00:00"
DIGITS_METRICS = tuple(f"{name}[digits-cnn]" for name in ("fid", "is", "precision", "recall", "class_accuracy"))


def metric(value, interval=True, reach=0.1, direction="lower", samples=100):
    """A metric whose interval is value -+ reach."""
    ends = record.Interval(low=value - reach, high=value + reach, method="test") if interval else None
    return record.Metric(value=value, direction=direction, samples=samples, interval=ends)


def plain(data):
    """Data after a round trip through JSON."""
    return json.loads(json.dumps(data))


def signed_record(*, label, config, protocol, **fields):
    """A record with the id and fingerprints of its content."""
    print_ = fingerprint(protocol)
    return record.Record(
        id=record.record_id(label, config, print_),
        label=label,
        config=config,
        protocol=protocol,
        fingerprint=print_,
        evaluation_fingerprint=fingerprint(protocol["evaluation"]),
        **{"kind": "model", "created": CREATED, **fields},
    )


def short_record(label="dit", fid=1.0, kind="model", seed=0, reach=0.1, curve=(), training=(), **evaluation):
    """A record with required keys only; `curve` is [(images, fid)], the last two update the protocol."""
    parts = {"evaluation": {**EVALUATION, **evaluation}}
    if kind == "model":
        parts["training"] = {"track": "shared", "images": 1000, "match": {"by": "none"}, **dict(training)}
    return signed_record(
        label=label,
        kind=kind,
        config={"seed": seed} if kind == "model" else {},
        protocol=parts,
        metrics={"fid[digits-cnn]": metric(fid, reach=reach)},
        cost=COST if kind == "model" else None,
        curve=[{"images": images, "metrics": {"fid[digits-cnn]": value}} for images, value in curve],
        checkpoint={"crc32": "0", "images": 1000, "weights": "ema"} if kind == "model" else None,
    )


def record_of_config(config, metrics, *, match_target=None, reference_hash="b" * 64, reference_count=1348, **fields):
    """The record of a run with this config."""
    loaded = dict(extractor_hash="a" * 64, reference_hash=reference_hash, reference_count=reference_count)
    parts = {
        "evaluation": protocol.evaluation_protocol(config, **loaded),
        "training": protocol.training_protocol(
            config, native=presets.native_preset(config), match_target=match_target if config.model.match else None
        ),
    }
    checkpoint = {"crc32": "01234567", "images": config.budget.images, "weights": "ema"}
    return signed_record(
        label=config.model.label,
        config=plain(config.identity()),
        protocol=plain(parts),
        metrics=metrics,
        **{"cost": cost_of(config), "checkpoint": checkpoint, **fields},
    )


def cost_of(config, macs=1_000_000, params=100_000):
    """The cost of a run at 500 images a second."""
    images, e = config.budget.images, config.evaluation
    return record.RunCost(
        params=params,
        macs=macs,
        flops=2 * macs,
        training_flops=6 * macs * images,
        guidance_multiplier=1 if e.guidance == 1 else 2,
        sampling_flops_per_image=2 * macs * e.forward_passes,
        images_per_second=500.0,
        mfu=None,
        peak_memory_bytes=10**9,
        accelerator_hours=images / 500 / 3600,
    )


def config_of(arch="dit", seed=0, **settings):
    """A digits config; a setting evaluation.steps is written evaluation__steps."""
    overrides = {k.replace("__", "."): str(v) for k, v in settings.items()}
    return presets.compose_config(presets.RunRequest(arch=arch, data="digits", seed=seed, settings=overrides))


def full_record(config=None, fid=1.0, macs=1_000_000, spread=0.05, more=None):
    """A record that passes every check; its FID falls to `fid`, and `more` replaces values of other metrics."""
    config = config or config_of()
    images = config.budget.images
    values = {**dict(zip(DIGITS_METRICS, (fid, 7.0, 0.8, 0.7, 0.9), strict=True)), **(more or {})}
    curve = [
        {"images": at, "metrics": {k: (v if at == images else 0.9 * v) for k, v in values.items()}}
        for at in config.budget.evaluation_points
    ]
    for point in curve:
        point["metrics"]["fid[digits-cnn]"] = fid * images / point["images"]
    return record_of_config(
        config,
        {
            name: metric(
                value,
                reach=spread * value,
                direction=METRIC_SPECS[metric_type(name)][0],
                samples=config.evaluation.samples,
            )
            for name, value in values.items()
        },
        match_target=macs,
        cost=cost_of(config, macs),
        curve=curve,
        losses=[(images * (i + 1) // 64, 1 / (i + 1)) for i in range(64)],
        environment={"commit": "0123456789ab", "dirty": False, "device": "a CPU", "packages": {"torch": "2.7"}},
    )


def many_records(count, seeds=3, tables=40):
    """Yield `count` full records, with `seeds` seeds for each configuration, in `tables` leaderboard tables."""
    rng, base = random.Random(0), config_of(budget__points="4")
    for i in range(count):
        variant, seed = divmod(i, seeds)
        config = dataclasses.replace(
            base,
            seed=seed,
            model=dataclasses.replace(base.model, args={"depth": 1 + variant}),
            budget=schema.BudgetConfig(images=10_000 * (1 + variant % tables), points=4),
        )
        yield full_record(config, fid=rng.uniform(0.5, 5), macs=1_000_000 + variant)
