"""The command bench.evaluate on small folders and files; the digits CNN stands in for Inception where it may."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import evaluation_context, make_run, tiny_config
from image_files import pictures, save_folder
from mean_extractor import Mean
from PIL import Image
from safetensors.torch import load_file, save_file

from bench import evalspeed, evaluate
from bench.evaluation import (
    adm_selftest,
    comparison,
    feature_extraction,
    feature_store,
    image_io,
    inputs,
    metrics,
    run_metrics,
)
from bench.evaluation.extractors import extractor_registry, inception_dinov2
from bench.storage import atomic, run_folder


@pytest.fixture
def pair(tmp_path):
    """A folder of 40 samples and an .npz of 30 real images."""
    np.savez(tmp_path / "real.npz", arr_0=pictures(2, 30))
    return save_folder(tmp_path / "samples", pictures(1, 40)), tmp_path / "real.npz"


def test_a_folder_and_an_npz_of_the_same_images_measure_alike(pair, tmp_path, command):
    np.savez_compressed(tmp_path / "samples.npz", arr_0=pictures(1, 40))
    found = [json.loads(command(p, "--reference", pair[1], "--json")[1]) for p in (pair[0], tmp_path / "samples.npz")]
    assert found[0]["metrics"] == found[1]["metrics"]
    assert [f["samples"]["kind"] for f in found] == ["folder", "npz"]
    assert found[0]["samples"]["count"] == 40 and found[0]["reference"]["count"] == 30


def test_a_set_is_at_distance_zero_from_itself(pair, command):
    status, out, _ = command(pair[0], "--reference", pair[0], "--json", "--no-intervals")
    found = {k.partition("[")[0]: m["value"] for k, m in json.loads(out)["metrics"].items()}
    assert status == 0 and abs(found["fid"]) < 1e-5 and found["precision"] == found["recall"] == 1


def test_the_table_names_metrics_counts_intervals_and_sides(pair, command):
    status, out, err = command(pair[0], "--reference", pair[1])
    assert status == 0
    for words in ("fid[digits-cnn]", "lower", "40", "samples (40 images)", "protocol: adm", "jackknife", "SHA-256"):
        assert words in out
    assert "not measured: kid" in out
    assert "samples, digits-cnn: 40 images in" in err


def stored(run, point, images_NCHW, weights, labels=10):
    """A feature store of these images, as sampling leaves it."""
    layers = extractor_registry.EXTRACTORS["digits-cnn"].layers
    net = extractor_registry.build_network("digits-cnn", weights, layers.values())
    made = feature_store.FeatureProvenance(
        extractor="digits-cnn", weights=weights.name, sha256=extractor_registry.hash_weights(weights)
    )

    def extract(numbers, images):
        return feature_extraction.extract_in_batches(net, numbers, images.transpose(0, 3, 1, 2))

    features = feature_store.FeatureStoreWriter(
        run.features_path(point), len(images_NCHW), labels, made, layers, extract
    )
    features.add(np.arange(len(images_NCHW)), images_NCHW.transpose(0, 2, 3, 1))
    features.finish()


@pytest.fixture
def measured(results, digits):
    """A run whose samples are real images, the last ones 40, and its metrics by its own evaluation."""
    config = tiny_config()
    run = make_run(results, config)
    weights = extractor_registry.prepare_weights("digits-cnn", "", run.cache)[0]
    for point, count in ((48, 30), (96, 40)):
        stored(run, point, digits.held_out[:count], weights)
    return run, run_metrics.evaluate(evaluation_context(run, config, digits)).metrics


def test_a_run_measures_as_its_own_evaluation_did(measured, command, capsys):
    """Both sides may name the run: its newest features, and its data's reference."""
    run, metrics_ = measured
    capsys.readouterr()
    _, out, err = command(run.path, "--reference", run.path, "--json")
    found = json.loads(out)
    assert found["protocol"] == "torch-fidelity" and found["samples"]["count"] == 40
    assert found["samples"]["path"].endswith("features/000000000096") and "samples, digits-cnn" not in err
    assert found["metrics"] == metrics_


def test_a_store_needs_no_weights_against_statistics(measured, command, capsys, tmp_path):
    run, _ = measured
    (run.results / "cache").unlink()
    capsys.readouterr()
    statistics = run.features_path(48) / "statistics.npz"
    status, out, _ = command(run.path, "--reference", statistics, "--json", weights=None)
    found = json.loads(out)
    assert status == 0 and list(found["metrics"]) == ["fid[digits-cnn]", "is[digits-cnn]", "class_accuracy[digits-cnn]"]
    assert found["extractors"]["digits-cnn"]["file"] == "digits-cnn.safetensors"
    assert not (run.results / "cache").exists()
    np.savez(tmp_path / "narrow.npz", mu=np.zeros(8), sigma=np.eye(8))
    status, _, err = command(run.path, "--reference", tmp_path / "narrow.npz", weights=None)
    assert status == 2 and err.endswith("narrow.npz: mu has 8 features where the other sample set has 64\n")


@pytest.mark.parametrize(("count", "status"), [(700, 0), (400, 2)])
def test_stored_features_are_extrapolated_without_images(results, digits, command, count, status):
    run = make_run(results, tiny_config())
    stored(run, 96, digits.images[:count], extractor_registry.prepare_weights("digits-cnn", "", run.cache)[0])
    words = [run.path, "--reference", run.path, "--fid-infinity", "--metrics", "fid", "--no-intervals"]
    found, out, err = command(*words)
    assert found == status
    assert "N -> inf" in out if status == 0 else "400 samples are too few: with 64 features it needs 640" in err


@pytest.mark.parametrize("exported", ["npz", "png", "nothing"])
def test_other_weights_than_the_stores_need_the_images(measured, digits, command, capsys, tmp_path, exported):
    run, metrics_ = measured
    other, images_ = tmp_path / "other.safetensors", digits.held_out[:40].transpose(0, 2, 3, 1)
    save_file({k: 2 * v for k, v in load_file(run.cache / "digits-cnn.safetensors").items()}, other)
    if exported == "npz":
        run.export_path(96, "npz").parent.mkdir()
        np.savez(run.export_path(96, "npz"), arr_0=images_, labels=np.arange(40) % 10)
    if exported == "png":
        save_folder(run.export_path(96, "png"), images_)
    capsys.readouterr()
    status, out, err = command(run.path, "--reference", run.path, "--json", weights=other)
    if exported == "nothing":
        assert status == 2 and err.count("\n") == 1 and "run it again with --export npz, which writes them" in err
        return
    found = json.loads(out)
    assert found["samples"]["path"] == str(run.export_path(96, exported)) and found["samples"]["count"] == 40
    assert found["metrics"]["fid[digits-cnn]"] != metrics_["fid[digits-cnn]"]
    assert ("class_accuracy[digits-cnn]" in found["metrics"]) == (exported == "npz")


def test_statistics_need_no_images_and_no_weights(tmp_path, command):
    rng = np.random.RandomState(0)
    for name, shift in (("a", 0.0), ("b", 2.0)):
        x = rng.standard_normal((500, 6)) + shift
        np.savez(tmp_path / f"{name}.npz", mu=x.mean(0), sigma=np.cov(x, rowvar=False))
    words = [tmp_path / "a.npz", "--reference", tmp_path / "b.npz", "--json"]
    status, out, _ = command(*words, extractor="inception-v3-compat")
    found = json.loads(out)
    assert status == 0 and list(found["metrics"]) == ["fid"] and found["extractors"] == {}
    assert 24 < found["metrics"]["fid"]["value"] < 25 and found["samples"]["count"] is None
    assert set(found["not_measured"]) >= {"sfid", "is", "kid", "precision", "recall", "fd_dinov2"}


def test_what_is_asked_for_and_impossible_is_known_before_the_work(pair, tmp_path, command, monkeypatch):
    np.savez(tmp_path / "s.npz", mu=np.zeros(64), sigma=np.eye(64))
    monkeypatch.setattr(comparison, "collect_features", lambda *a, **k: pytest.fail("the work has begun"))
    status, _, err = command(pair[0], "--reference", tmp_path / "s.npz", "--metrics", "fid", "recall")
    assert status == 2 and "recall cannot be measured: no images in the reference" in err


def test_few_samples_are_measured_without_intervals(pair, tmp_path, command):
    np.savez(tmp_path / "few.npz", arr_0=pictures(3, 6))
    status, out, _ = command(tmp_path / "few.npz", "--reference", pair[1])
    assert status == 0 and "no intervals: they need 20 samples" in out


def spoil(path, kind):
    """Make a bad side of the folder or the file; its path."""
    if kind == "empty":
        for f in path.iterdir():
            f.unlink()
    elif kind in ("L", "RGBA", "P"):
        Image.open(path / "004.png").convert(kind).save(path / "004.png")
    elif kind == "other size":
        Image.fromarray(pictures(1, 1, 9)[0]).save(path / "004.png")
    elif kind == "no image":
        (path / "004.png").write_text("no picture")
    elif kind == "truncated":
        noise = Image.fromarray(pictures(1, 1, 8)[0])
        noise.save(path / "004.png")
        data = (path / "004.png").read_bytes()
        (path / "004.png").write_bytes(data[: len(data) - 60])
    return path


SPOILT = {
    "L": "is grey; it must be RGB",
    "RGBA": "is RGBA; it must be RGB",
    "P": "is of a palette; it must be RGB",
    "other size": "is 9x9 with 3 channels, where most are 8x8",
    "no image": "cannot be read as an image (no known format)",
    "truncated": "is damaged or cut short",
}


@pytest.mark.parametrize("kind", SPOILT)
def test_an_image_that_cannot_be_used_is_named_or_left_out(kind, tmp_path):
    folder = spoil(save_folder(tmp_path / "samples", pictures(1, 8) // 2), kind)
    with pytest.raises(ValueError) as caught:
        gather(image_io.FolderImages(folder))
    assert f"{folder / '004.png'} {SPOILT[kind]}" in str(caught.value) and "--skip-bad" in str(caught.value)
    given = image_io.FolderImages(folder, skip_bad=True)
    side = gather(given, skip_bad=True)
    assert side.count == 7 and [bad["file"] for bad in given.left_out] == [str(folder / "004.png")]
    assert SPOILT[kind] in given.left_out[0]["reason"]


def gather(source, **more):
    return feature_extraction.collect_features(
        Mean(), source, row_layers={"mean"}, moment_layers=set(), batch=3, **more
    )


def test_features_that_are_no_numbers_are_named_or_left_out(tmp_path):
    pixels = pictures(1, 8) // 2
    pixels[5, 0, 0, 0] = 255
    np.savez(tmp_path / "s.npz", arr_0=pixels)
    with pytest.raises(ValueError, match=r"image 5 of .*s.npz has features with NaN"):
        gather(image_io.NpzImages(tmp_path / "s.npz"))
    given = image_io.NpzImages(tmp_path / "s.npz")
    side = gather(given, skip_bad=True)
    good = np.delete(pixels, 5, axis=0).mean((1, 2))
    assert side.count == 7 and len(given.left_out) == 1 and np.allclose(side.features["mean"], good, atol=1e-4)


def bad_npz(path, kind):
    good = pictures(1, 40)
    arrays = {
        "no arr_0": {"images": good},
        "pickles": {"arr_0": np.array([{"a": 1}, None], dtype=object)},
        "floats": {"arr_0": good / 255},
        "grey": {"arr_0": good[..., :1]},
        "grey, flat": {"arr_0": good[..., 0]},
        "RGBA": {"arr_0": np.concatenate([good, good[..., :1]], -1)},
        "one image": {"arr_0": good[:1]},
        "columns": {"arr_0": np.asfortranarray(good)},
        "no sigma": {"mu": np.zeros(4)},
        "another sigma": {"mu": np.zeros(4), "sigma": np.eye(5)},
        "nan": {"mu": np.full(4, np.nan), "sigma": np.eye(4)},
    }.get(kind, {"arr_0": good})
    np.savez(path, **arrays)
    if kind == "cut short":
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "a byte changed":
        data = bytearray(path.read_bytes())
        data[2000] ^= 255
        path.write_bytes(bytes(data))
    elif kind == "no zip":
        path.write_text("no archive")
    elif kind == "npy":
        with path.open("wb") as f:
            np.save(f, good)


BAD_FILES = {
    "no arr_0": "has no arr_0, the images (N, H, W, 3) of ADM's layout; it holds images",
    "pickles": "holds pickled objects, which are never read",
    "floats": "is float64 (40, 8, 8, 3); images must be uint8",
    "grey": "grey images",
    "grey, flat": "grey images",
    "RGBA": "RGBA images",
    "one image": "bad.npz has 1 usable image(s); at least 2 are needed",
    "columns": "stored by columns",
    "no sigma": "has mu but no sigma",
    "another sigma": "mu is (4,) and sigma (5, 5)",
    "nan": "hold NaN or infinity",
    "cut short": "damaged or cut short",
    "a byte changed": "is damaged at image 0",
    "no zip": "is no .npz, or is damaged or cut short",
    "npy": "is no .npz",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_cannot_be_a_side_is_one_sentence(kind, tmp_path, command, monkeypatch, inception_of_means):
    bad_npz(tmp_path / "bad.npz", kind)
    status, out, err = command(tmp_path / "bad.npz", "--reference", tmp_path / "bad.npz", extractor=inception_of_means)
    assert status == 2 and out == "" and BAD_FILES[kind] in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("bench.evaluate: ") and "Traceback" not in err


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
def test_what_cannot_be_done_is_one_sentence(words, sentence, pair, tmp_path, command):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "large.npz", arr_0=pictures(2, 30, 9))
    names = {"samples": pair[0], "real": pair[1], "empty": tmp_path / "empty", "large": tmp_path / "large.npz"}
    status, _, err = command(*(w.format(none=tmp_path / "none", **names) for w in words))
    assert status == 2 and sentence in err.splitlines()[-1]


def test_the_result_file_is_whole_and_says_what_was_left_out(pair, tmp_path, command):
    spoil(pair[0], "truncated")
    out = tmp_path / "deep" / "result.json"
    assert command(pair[0], "--reference", pair[1], "--out", out)[0] == 2
    assert not out.exists()
    status, text, _ = command(pair[0], "--reference", pair[1], "--out", out, "--skip-bad")
    found = json.loads(out.read_text())
    assert status == 0 and found["samples"]["count"] == 39 and len(found["samples"]["left_out"]) == 1
    assert "left out: " in text and [p.name for p in out.parent.iterdir()] == ["result.json"]


def test_the_self_test_passes_on_its_target_and_fails_beside_it(pair, tmp_path, command, monkeypatch):
    np.savez(tmp_path / "samples.npz", arr_0=pictures(1, 40))
    sides_ = ["--self-test", pair[1], tmp_path / "samples.npz"]
    monkeypatch.setattr(adm_selftest, "TARGET", {"fid": 1.0, "is": 1.0, "precision": 0.5, "recall": 0.5})
    entry = extractor_registry.EXTRACTORS["digits-cnn"]
    monkeypatch.setitem(extractor_registry.EXTRACTORS, "digits-cnn", dataclasses.replace(entry, suffix=""))
    status, out, _ = command(*sides_, "--json")
    assert status == 1
    found = json.loads(out)
    assert found["pr_dtype"] == "float16" and found["protocol"] == "adm" and found["reference"]["path"] == str(pair[1])
    target = {name: found["metrics"][name]["value"] for name in adm_selftest.TARGET}
    monkeypatch.setattr(adm_selftest, "TARGET", target)
    status, out, _ = command(*sides_)
    assert status == 0 and out.count(": ok, ") == 4
    monkeypatch.setattr(adm_selftest, "TARGET", {**target, "fid": target["fid"] + 0.02})
    status, out, _ = command(*sides_)
    assert status == 1 and out.count(": ok, ") == 3 and "self-test fid: FAILED" in out


def test_the_published_target_is_that_of_the_evaluators_readme():
    assert {k: round(v, 4) for k, v in adm_selftest.TARGET.items()} == {
        **{"fid": 3.9426, "sfid": 6.1404, "is": 215.837, "precision": 0.8265, "recall": 0.5309}
    }
    rows = adm_selftest.check_against_target({k: {"value": v} for k, v in adm_selftest.TARGET.items() if k != "sfid"})
    assert [row["metric"] for row in rows if not row["ok"]] == ["sfid"]


class Code:
    """What a hostile file of weights would hold."""

    def __reduce__(self):
        return (print, ("run by unpickling",))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"short", "has the SHA-256 f9b0078b5df596d2..., and the published Inception weights 6726825d"),
        ({"fc": torch.zeros(1)}, "do not fit torch-fidelity's network"),
        ({"fc": Code()}, "cannot be read as a file of tensors"),
    ],
)
def test_weights_that_are_not_inceptions_are_one_sentence(content, sentence, tmp_path, pair, command, capsys):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
        path = path.rename(tmp_path / f"named-{atomic.file_sha256(path)[:8]}.pth")
    words = [pair[0], "--reference", pair[1], "--weights", path]
    status, out, err = command(*words, extractor="inception-v3-compat")
    assert status == 2 and sentence in err and "run by unpickling" not in out + err


def test_missing_weights_say_which_file_which_hash_and_where(tmp_path, pair, command, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    status, _, err = command(pair[0], "--reference", pair[1], extractor="inception-v3-compat")
    assert status == 2
    assert "weights-inception-2015-12-05-6726825d.pth" in err and "SHA-256 starts with 6726825d" in err
    assert str(tmp_path / "hub" / "checkpoints") in err and "--weights PATH" in err


HUB = """
import torch
def dinov2_vitl14(*, pretrained=True):
    assert not pretrained, "this would download"
    return torch.nn.Sequential(torch.nn.AvgPool2d(56), torch.nn.Flatten(), torch.nn.Linear(48, 5))
"""


@pytest.fixture
def dinov2(tmp_path, monkeypatch):
    """torch's cache with a small network in place of DINOv2's code, and seeded weights named for their hash."""
    code = tmp_path / "hub" / inception_dinov2.DINOV2_CODE
    code.mkdir(parents=True)
    (code / "hubconf.py").write_text(HUB)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    generator = torch.Generator().manual_seed(0)
    weights = {"2.weight": torch.randn(5, 48, generator=generator), "2.bias": torch.zeros(5)}
    torch.save(weights, tmp_path / "weights.pth")
    name = f"dinov2-{atomic.file_sha256(tmp_path / 'weights.pth')[:8]}.pth"
    yield (tmp_path / "weights.pth").rename(tmp_path / name)
    sys.modules.pop("hubconf", None)


def test_the_distance_on_dinov2_features_needs_nothing_but_local_files(pair, command, dinov2, inception_of_means):
    words = [pair[0], "--reference", pair[1], "--metrics", "fd-dinov2", "fid", "--dinov2-weights", dinov2, "--json"]
    status, out, _ = command(*words, extractor=inception_of_means)
    found = json.loads(out)
    assert status == 0 and set(found["metrics"]) == {"fid", "fd_dinov2"}
    assert found["metrics"]["fd_dinov2"]["value"] > 0 and found["metrics"]["fd_dinov2"]["interval"]
    assert found["extractors"]["dinov2-vit-l-14"]["file"] == dinov2.name


def test_dinov2_that_is_asked_for_and_missing_is_one_sentence(pair, command, dinov2, inception_of_means):
    words = [pair[0], "--reference", pair[1], "--metrics", "fd-dinov2"]
    status, _, err = command(*words, extractor=inception_of_means)
    assert status == 2 and "dinov2_vitl14_pretrain.pth" in err and "d5383ea8f4877b24" in err
    (dinov2.parent / "hub" / inception_dinov2.DINOV2_CODE / "hubconf.py").unlink()
    status, _, err = command(*words, "--dinov2-weights", dinov2, extractor=inception_of_means)
    assert status == 2 and "DINOv2's code is not in" in err


def test_layers_are_kept_as_rows_only_where_a_metric_needs_them():
    layers = extractor_registry.EXTRACTORS["inception-v3-compat"].layers
    wanted = lambda **more: feature_extraction.required_layers(layers, set(layers), **more)  # noqa: E731
    assert wanted(sampled=True, intervals=True) == ({"2048", "spatial", "logits_unbiased"}, set())
    assert wanted(sampled=True, intervals=False) == ({"2048", "logits_unbiased"}, {"spatial"})
    assert wanted(sampled=False, intervals=True) == ({"2048"}, {"spatial"})


def test_a_run_without_samples_and_a_config_that_is_none_are_refused(results):
    run = make_run(results, tiny_config())
    with pytest.raises(ValueError, match="has no samples yet"):
        inputs.open_input(run.path, "samples", channels=(1, 3))
    run_folder.write_json(run.path / "config.json", {"track": "fast"})
    with pytest.raises(ValueError, match="no config of a run"):
        inputs.open_input(run.path, "reference")


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
def test_the_benchmark_compares_with_the_other_way_in_the_same_run(words, whose, capsys):
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


def covariance(kind):
    sigma = {"negative": -np.eye(64), "lopsided": np.eye(64), "complex": np.eye(64) + 0j}[kind]
    if kind == "lopsided":
        sigma[0, 1] = 5
    return sigma


@pytest.mark.parametrize(
    ("kind", "words"),
    [("negative", "is no covariance"), ("lopsided", "is no covariance"), ("complex", "complex; they must be real")],
)
def test_statistics_that_are_none_are_refused(tmp_path, kind, words):
    np.savez(tmp_path / "x.npz", mu=np.zeros(64), sigma=covariance(kind))
    with pytest.raises(ValueError, match=words):
        inputs.open_input(tmp_path / "x.npz", "reference")


def test_images_of_another_size_than_the_extractors_are_refused(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", arr_0=np.zeros((5, 16, 16, 1), np.uint8))
    own = str(tmp_path / "x.npz")
    assert evaluate.main([own, "--reference", own, "--extractor", "digits-cnn"]) == 2
    assert "has images of 16x16; digits-cnn takes 8x8" in capsys.readouterr().err


def test_a_damaged_config_of_a_run_is_named(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{")
    assert evaluate.main([str(tmp_path), "--reference", str(tmp_path)]) == 2
    assert "config.json is no config of a run" in capsys.readouterr().err


def test_a_mistake_in_the_flags_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["--self-test", "x.npz"])
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1
