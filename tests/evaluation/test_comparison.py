"""bench.evaluate on small folders and files; the digits CNN replaces Inception where possible."""

import json
import subprocess
import sys

import numpy as np
import pytest
from image_files import pictures, spoil_folder

from bench import evalspeed, evaluate
from bench.evaluation import (
    comparison,
    feature_extraction,
    metrics,
)
from bench.evaluation.extractors import extractor_registry


def test_folder_and_npz_of_the_same_images_are_equal(image_pair, tmp_path, command):
    np.savez_compressed(tmp_path / "samples.npz", arr_0=pictures(1, 40))
    results = [
        json.loads(command(p, "--reference", image_pair[1], "--json")[1])
        for p in (image_pair[0], tmp_path / "samples.npz")
    ]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert [f["samples"]["kind"] for f in results] == ["folder", "npz"]
    assert results[0]["samples"]["count"] == 40 and results[0]["reference"]["count"] == 30


def test_a_sample_set_has_distance_zero_to_itself(image_pair, command):
    status, out, _ = command(image_pair[0], "--reference", image_pair[0], "--json", "--no-intervals")
    values = {k.partition("[")[0]: m["value"] for k, m in json.loads(out)["metrics"].items()}
    assert status == 0 and abs(values["fid"]) < 1e-5 and values["precision"] == values["recall"] == 1


def test_table_names_metrics_counts_and_inputs(image_pair, command):
    status, out, err = command(image_pair[0], "--reference", image_pair[1])
    assert status == 0
    for words in ("fid[digits-cnn]", "lower", "40", "samples (40 images)", "protocol: adm", "jackknife", "SHA-256"):
        assert words in out
    assert "not measured: kid" in out
    assert "samples, digits-cnn: 40 images in" in err


def test_statistics_need_no_images_and_no_weights(tmp_path, command):
    rng = np.random.RandomState(0)
    for name, shift in (("a", 0.0), ("b", 2.0)):
        x = rng.standard_normal((500, 6)) + shift
        np.savez(tmp_path / f"{name}.npz", mu=x.mean(0), sigma=np.cov(x, rowvar=False))
    words = [tmp_path / "a.npz", "--reference", tmp_path / "b.npz", "--json"]
    status, out, _ = command(*words, extractor="inception-v3-compat")
    result = json.loads(out)
    assert status == 0 and list(result["metrics"]) == ["fid"] and result["extractors"] == {}
    assert 24 < result["metrics"]["fid"]["value"] < 25 and result["samples"]["count"] is None
    assert set(result["not_measured"]) >= {"sfid", "is", "kid", "precision", "recall", "fd_dinov2"}


def test_impossible_metrics_are_refused_before_the_work(image_pair, tmp_path, command, monkeypatch):
    np.savez(tmp_path / "s.npz", mu=np.zeros(64), sigma=np.eye(64))
    monkeypatch.setattr(comparison, "collect_features", lambda *a, **k: pytest.fail("the work has begun"))
    status, _, err = command(image_pair[0], "--reference", tmp_path / "s.npz", "--metrics", "fid", "recall")
    assert status == 2 and "recall cannot be measured: no images in the reference" in err


def test_few_samples_are_measured_without_intervals(image_pair, tmp_path, command):
    np.savez(tmp_path / "few.npz", arr_0=pictures(3, 6))
    status, out, _ = command(tmp_path / "few.npz", "--reference", image_pair[1])
    assert status == 0 and "no intervals: they need 20 samples" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{empty}", "--reference", "{real}"], "holds no .png, .jpg, .jpeg, .webp, .bmp files"),
        (["{none}", "--reference", "{real}"], "is no file and no folder"),
        (["{samples}", "--reference", "{large}"], "the samples are 8x8 and the reference is 9x9"),
        (["{samples}"], "two sample sets are needed"),
        (["{samples}", "--reference", "{real}", "--metrics", "fit"], "fit is no metric; choose from fid, sfid"),
        (["{samples}", "--reference", "{real}", "--metrics", "sfid"], "sfid cannot be measured: the extractor has no"),
        (["{samples}", "--reference", "{real}", "--batch", "0"], "--batch is 0"),
        (["{samples}", "--reference", "{real}", "--kid-subset", "31"], "--kid-subset is 31; it must be 2 to 30"),
        (["{samples}", "--reference", "{real}", "--self-test", "a", "b"], "--self-test names both files itself"),
        (
            ["{samples}", "--reference", "{real}", "--out", "{real}/x.json"],
            "real.npz is no folder that can be",
        ),
        (["{samples}", "--reference", "{real}", "--out", "{samples}"], "is a folder; name a file"),
    ],
)
def test_impossible_requests_are_refused_in_one_sentence(words, sentence, image_pair, tmp_path, command):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "large.npz", arr_0=pictures(2, 30, 9))
    names = {
        "samples": image_pair[0],
        "real": image_pair[1],
        "empty": tmp_path / "empty",
        "large": tmp_path / "large.npz",
    }
    status, _, err = command(*(w.format(none=tmp_path / "none", **names) for w in words))
    assert status == 2 and sentence in err.splitlines()[-1]


def test_result_file_lists_left_out_images(image_pair, tmp_path, command):
    spoil_folder(image_pair[0], "truncated")
    out = tmp_path / "deep" / "result.json"
    assert command(image_pair[0], "--reference", image_pair[1], "--out", out)[0] == 2
    assert not out.exists()
    status, text, _ = command(image_pair[0], "--reference", image_pair[1], "--out", out, "--skip-bad")
    result = json.loads(out.read_text())
    assert status == 0 and result["samples"]["count"] == 39 and len(result["samples"]["left_out"]) == 1
    assert "left out: " in text and [p.name for p in out.parent.iterdir()] == ["result.json"]


def test_rows_are_kept_only_if_a_metric_needs_them():
    layers = extractor_registry.EXTRACTORS["inception-v3-compat"].layers
    wanted = lambda **more: feature_extraction.required_layers(layers, set(layers), **more)  # noqa: E731
    assert wanted(sampled=True, intervals=True) == ({"2048", "spatial", "logits_unbiased"}, set())
    assert wanted(sampled=True, intervals=False) == ({"2048", "logits_unbiased"}, {"spatial"})
    assert wanted(sampled=False, intervals=True) == ({"2048"}, {"spatial"})


def test_kid_subsets_larger_than_a_side_are_refused():
    side = metrics.SampleSet(features={"f": np.zeros((30, 4), np.float32)}, count=30)
    with pytest.raises(ValueError, match="must have 2 to 30"):
        metrics.compute_metrics(
            metrics.MetricInputs(samples=side, reference=side, layers={"kid": "f"}, kid_size=31), wanted=["kid"]
        )


@pytest.mark.parametrize(
    ("words", "whose"),
    [
        (["frechet", "--width", "64", "--fit", "300"], "scipy sqrtm"),
        (["manifold", "--width", "64", "--samples", "300", "--reference", "200", "--intervals"], "torch-fidelity"),
    ],
)
def test_evalspeed_compares_with_the_other_implementation(words, whose, capsys):
    assert evalspeed.main(words) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if whose in line]
    assert rows and all(float(line.split()[-1]) < 1e-6 for line in rows) and "peak memory" in out


@pytest.mark.slow
def test_fifty_thousand_images_are_evaluated_in_four_gibibytes():
    """A feature store made as sampling makes it, and all metrics without intervals; minutes on two cores."""
    words = [sys.executable, "-m", "bench.evalspeed", "evaluation"]
    out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert float(out.split("peak memory ")[1].split()[0]) < 4


def test_a_mistake_in_the_flags_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["--self-test", "x.npz"])
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1
