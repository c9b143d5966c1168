"""ADM's published values as a test of the evaluator."""

import dataclasses
import json

import numpy as np
from image_files import pictures

from bench.evaluation import (
    adm_selftest,
)
from bench.evaluation.extractors import extractor_registry


def test_selftest_passes_only_near_its_target(image_pair, tmp_path, command, monkeypatch):
    np.savez(tmp_path / "samples.npz", arr_0=pictures(1, 40))
    sides_ = ["--self-test", image_pair[1], tmp_path / "samples.npz"]
    monkeypatch.setattr(adm_selftest, "TARGET", {"fid": 1.0, "is": 1.0, "precision": 0.5, "recall": 0.5})
    entry = extractor_registry.EXTRACTORS["digits-cnn"]
    monkeypatch.setitem(extractor_registry.EXTRACTORS, "digits-cnn", dataclasses.replace(entry, suffix=""))
    status, out, _ = command(*sides_, "--json")
    assert status == 1
    result = json.loads(out)
    assert (
        result["pr_dtype"] == "float16"
        and result["protocol"] == "adm"
        and result["reference"]["path"] == str(image_pair[1])
    )
    target = {name: result["metrics"][name]["value"] for name in adm_selftest.TARGET}
    monkeypatch.setattr(adm_selftest, "TARGET", target)
    status, out, _ = command(*sides_)
    assert status == 0 and out.count(": ok, ") == 4
    monkeypatch.setattr(adm_selftest, "TARGET", {**target, "fid": target["fid"] + 0.02})
    status, out, _ = command(*sides_)
    assert status == 1 and out.count(": ok, ") == 3 and "self-test fid: FAILED" in out


def test_target_is_that_of_the_evaluators_readme():
    assert {k: round(v, 4) for k, v in adm_selftest.TARGET.items()} == {
        **{"fid": 3.9426, "sfid": 6.1404, "is": 215.837, "precision": 0.8265, "recall": 0.5309}
    }
    rows = adm_selftest.check_against_target({k: {"value": v} for k, v in adm_selftest.TARGET.items() if k != "sfid"})
    assert [row["metric"] for row in rows if not row["ok"]] == ["sfid"]
