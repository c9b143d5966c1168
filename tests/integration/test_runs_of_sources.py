"""Whole runs, from the command to the record, on data that are drawn and on data of one's own."""

import json

import pytest
from helpers import SMALLEST, TINY, few_shapes, words_of
from image_files import write_images

from bench import run
from bench.data import synthetic_shapes
from bench.evaluation.extractors import small_cnn
from bench.records.record import read_records

SHORT = {**TINY, "budget.points": "1", "budget.images": "48"}


def door(results, arch, name, **more):
    settings = {**SHORT, **SMALLEST[arch], **{k.replace("__", "."): v for k, v in more.items()}}
    words = ["--arch", arch, "--data", name, "--cluster", "debug", "--results", str(results), *words_of(settings)]
    return run.main(words)


@pytest.mark.parametrize("arch", ["dit", pytest.param("unet", marks=pytest.mark.slow)])
def test_shapes_run_at_once(arch, tmp_path, monkeypatch):
    monkeypatch.setitem(small_cnn.DESIGNS, "shapes-cnn", few_shapes())
    monkeypatch.setattr(synthetic_shapes, "REFERENCE_IMAGES", {32: 100})
    smallest = {"unet": {"model__args__channel_mult": "[1,1]", "model__args__attention": "[]"}}.get(arch, {})
    assert door(tmp_path / "results", arch, "shapes", **smallest) == 0
    records = {r.kind: r for r in read_records(tmp_path / "results")}
    one = records["model"]
    assert one.protocol["evaluation"]["reference_count"] == 100 and "fid[shapes-cnn]" in one.metrics
    assert "class_accuracy[shapes-cnn]" in one.metrics
    assert one.protocol["training"]["data"] == {"hash": "", "flip": "never"}
    assert {r.label for r in read_records(tmp_path / "results")} >= {"held-out", "noise"}


@pytest.mark.parametrize("classes", [True, False], ids=["class folders", "no classes"])
def test_records_of_own_images_hold_no_paths(results, tmp_path, classes):
    folder = tmp_path / "secret" / "cats"
    for i, name in enumerate("ab" if classes else [""]):
        write_images(folder / name, 12, first=12 * i)
    settings = dict(evaluation__extractor="digits-cnn", evaluation__guidance="2" if classes else "1")
    assert door(results, "dit", f"{folder}@8", **settings) == 0
    record = next(r for r in read_records(results) if r.kind == "model")
    assert record.config["data"]["name"] == record.protocol["evaluation"]["data"] == "cats@8"
    assert record.protocol["training"]["data"]["flip"] == "always"
    assert not any(name.startswith("class_accuracy") for name in record.metrics), "cats are no digits"
    assert len(record.protocol["training"]["data"]["hash"]) == 16
    for file in results.rglob("records/**/*.json"):
        assert "secret" not in file.read_text()
    assert json.loads(next(results.glob("runs/*/config.json")).read_text())["data"]["name"] == f"{folder}@8"


def test_a_bad_image_ends_a_run_with_its_name(results, tmp_path, capsys):
    write_images(tmp_path / "cats", 24)
    (tmp_path / "cats" / "011.png").write_bytes(b"no image")
    settings = dict(evaluation__extractor="digits-cnn", evaluation__guidance="1")
    assert door(results, "dit", f"{tmp_path / 'cats'}@8", **settings) == 2
    err = capsys.readouterr().err
    assert "cats/011.png cannot be read as an image (unknown format); replace or remove it" in err
    assert len(err.splitlines()) == 1
