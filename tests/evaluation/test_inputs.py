"""Images, files and runs that bench.evaluate opens."""

import numpy as np
import pytest
from helpers import make_run, tiny_config
from image_files import pictures, save_folder, spoil_folder
from mean_extractor import Mean

from bench import evaluate
from bench.evaluation import (
    feature_extraction,
    image_io,
    inputs,
)
from bench.storage import run_folder

SPOILT = {
    "L": "is grey; it must be RGB",
    "RGBA": "is RGBA; it must be RGB",
    "P": "is of a palette; it must be RGB",
    "other size": "is 9x9 with 3 channels, where most are 8x8",
    "no image": "cannot be read as an image (no known format)",
    "truncated": "is damaged or truncated",
}


@pytest.mark.parametrize("kind", SPOILT)
def test_unusable_images_are_named_or_left_out(kind, tmp_path):
    folder = spoil_folder(save_folder(tmp_path / "samples", pictures(1, 8) // 2), kind)
    with pytest.raises(ValueError) as caught:
        gather(image_io.FolderImages(folder))
    assert f"{folder / '004.png'} {SPOILT[kind]}" in str(caught.value) and "--skip-bad" in str(caught.value)
    images = image_io.FolderImages(folder, skip_bad=True)
    side = gather(images, skip_bad=True)
    assert side.count == 7 and [bad["file"] for bad in images.left_out] == [str(folder / "004.png")]
    assert SPOILT[kind] in images.left_out[0]["reason"]


def gather(source, **more):
    return feature_extraction.collect_features(
        Mean(), source, row_layers={"mean"}, moment_layers=set(), batch=3, **more
    )


def test_nonfinite_features_are_named_or_left_out(tmp_path):
    pixels = pictures(1, 8) // 2
    pixels[5, 0, 0, 0] = 255
    np.savez(tmp_path / "s.npz", arr_0=pixels)
    with pytest.raises(ValueError, match=r"image 5 of .*s.npz has features with NaN"):
        gather(image_io.NpzImages(tmp_path / "s.npz"))
    images = image_io.NpzImages(tmp_path / "s.npz")
    side = gather(images, skip_bad=True)
    good = np.delete(pixels, 5, axis=0).mean((1, 2))
    assert side.count == 7 and len(images.left_out) == 1 and np.allclose(side.features["mean"], good, atol=1e-4)


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
    "cut short": "damaged or truncated",
    "a byte changed": "is damaged at image 0",
    "no zip": "is not an .npz, or is damaged or truncated",
    "npy": "is not an .npz",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_unusable_files_are_refused_in_one_sentence(kind, tmp_path, command, monkeypatch, inception_of_means):
    bad_npz(tmp_path / "bad.npz", kind)
    status, out, err = command(tmp_path / "bad.npz", "--reference", tmp_path / "bad.npz", extractor=inception_of_means)
    assert status == 2 and out == "" and BAD_FILES[kind] in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("bench.evaluate: ") and "Traceback" not in err


def test_run_without_samples_or_config_is_refused(results):
    run = make_run(results, tiny_config())
    with pytest.raises(ValueError, match="has no samples yet"):
        inputs.open_input(run.path, "samples", channels=(1, 3))
    run_folder.write_json(run.path / "config.json", {"track": "fast"})
    with pytest.raises(ValueError, match="no config of a run"):
        inputs.open_input(run.path, "reference")


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


def test_images_of_another_size_are_refused(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", arr_0=np.zeros((5, 16, 16, 1), np.uint8))
    path = str(tmp_path / "x.npz")
    assert evaluate.main([path, "--reference", path, "--extractor", "digits-cnn"]) == 2
    assert "has images of 16x16; digits-cnn takes 8x8" in capsys.readouterr().err


def test_a_damaged_config_of_a_run_is_named(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{")
    assert evaluate.main([str(tmp_path), "--reference", str(tmp_path)]) == 2
    assert "config.json is no config of a run" in capsys.readouterr().err
