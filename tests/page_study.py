"""A small results folder for tests of the page: matched networks, references, a diverged run, and hostile names."""

import dataclasses
import json

import numpy as np
from factories import config_of, full_record, metric
from PIL import Image

from bench.records import record
from bench.records.protocol import fingerprint

ARCHS = ("dit", "uvit", "unet")
HOSTILE = "</script><img src=x onerror='document.title=1'>&amp; \"quoted\" \u2028"
COSTS = {"dit": 8_000_000, "uvit": 16_000_000, "unet": 24_000_000}


def run(arch, seed, images):
    config = config_of(arch, seed, budget__images=images, budget__points=3)
    one = full_record(config, fid=1 + ARCHS.index(arch) + 0.1 * seed, macs=COSTS[arch])
    fields = {
        "incidents": [{"kind": "restart", "images": 20_000}] if seed else [],
        "created": f"2026-11-2{seed}T00:00:00",
    }
    return renamed(one, arch, **fields)


def renamed(one, label, **more):
    """The record with another label, and the id that follows from it."""
    id_ = record.record_id(label, one.config, one.fingerprint)
    return dataclasses.replace(one, id=id_, label=label, **more)


def reference(label, fid):
    """A reference record with the evaluation protocol of the runs."""
    one = run("dit", 0, 60_000)
    halves = {"evaluation": one.protocol["evaluation"]}
    identity = {"protocol": halves, "fingerprint": fingerprint(halves), "config": {}, "kind": "reference"}
    metrics = {"fid[digits-cnn]": metric(fid, reach=0.1)}
    more = {"metrics": metrics, "cost": None, "curve": [], "losses": [], "checkpoint": None, "incidents": []}
    return dataclasses.replace(
        one, **identity, **more, label=label, id=record.record_id(label, {}, identity["fingerprint"])
    )


def page_study():
    """Two budgets of three networks and three seeds, references, a run that diverged, and hostile words."""
    runs = [run(arch, seed, images) for images in (60_000, 120_000) for arch in ARCHS for seed in range(3)]
    none = {"metrics": {}, "cost": None, "checkpoint": None, "curve": [], "losses": []}
    broken = renamed(runs[0], "dit broken", status="diverged", error=f"the loss is nan {HOSTILE}", **none)
    hostile = renamed(full_record(config_of("dit", 7, budget__images=60_000, budget__points=3), fid=9.0), HOSTILE)
    return [*runs, reference("held-out", 0.2), reference("noise", 33.0), broken, hostile]


def publish(folder, records, pictures=True):
    for i, r in enumerate(records):
        path = record.records_folder(folder) / f"{r.id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record.record_to_dict(r)))
        if pictures and r.kind == "model" and r.status == "done":
            sheet = np.random.default_rng(i).integers(0, 255, (80, 80), dtype=np.uint8)
            (folder / "samples").mkdir(exist_ok=True)
            Image.fromarray(sheet).save(folder / "samples" / f"{r.id}.webp", quality=60)
    return folder
