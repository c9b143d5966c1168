"""Frechet distances extrapolated to infinitely many samples, on Gaussians whose distance is known."""

import json

import numpy as np
import pytest
from image_files import pictures

from bench.evaluation import fid_infinity, frechet, uncertainty


def problem(seed, count=1280, width=64, scale=1.1):
    """(samples, the reference's own Gaussian, its true distance to theirs)."""
    spread = np.exp(-np.arange(width) / (width / 3)) + 0.02
    x = np.random.RandomState(seed).standard_normal((count, width)) * spread * scale
    reference = frechet.Gaussian(mu=np.zeros(width, np.float32), sigma=np.diag(spread**2))
    return x.astype(np.float32), reference, float(((scale - 1) ** 2 * spread**2).sum())


def extrapolated(x, reference):
    groups = np.random.RandomState(1).permutation(len(x)) % 20
    return fid_infinity.extrapolate_fid(
        x, reference, uncertainty.jackknife_standard_error(frechet.leave_group_out_distances(x, groups, reference))
    )


def test_extrapolated_distance_is_nearer_to_the_truth():
    held, errors = 0, []
    for seed in range(12):
        x, reference, truth = problem(seed)
        extrapolation = extrapolated(x, reference)
        errors.append((abs(extrapolation["value"] - truth), abs(extrapolation["distances"][0] - truth)))
        held += extrapolation["interval"]["low"] <= truth <= extrapolation["interval"]["high"]
    assert all(ours < plain for ours, plain in errors)
    assert np.mean(errors, axis=0)[0] < np.mean(errors, axis=0)[1] / 5
    assert held >= 10 and extrapolation["sizes"] == [1280, 640, 426, 320, 256]


def test_points_are_plain_distances_and_reproducible():
    x, reference, _ = problem(0)
    extrapolation = extrapolated(x, reference)
    assert extrapolation["distances"][0] == pytest.approx(
        frechet.frechet_distance(frechet.fit_gaussian(x), reference), rel=1e-6
    )
    assert extrapolation["distances"] == sorted(extrapolation["distances"])
    assert extrapolation == extrapolated(x, reference)
    line = np.polyfit([1 / n for n in (1280, 640, 1280 / 3, 320, 256)], extrapolation["distances"], 1)
    assert extrapolation["value"] == pytest.approx(line[1], rel=1e-9)
    assert fid_infinity.extrapolate_fid(x, reference, None)["interval"] is None


@pytest.mark.slow
@pytest.mark.parametrize(("count", "scale"), [(640, 1.0), (640, 1.1), (1280, 1.1), (2000, 1.1)])
def test_its_interval_holds_the_true_distance(count, scale):
    held = 0
    for seed in range(100):
        x, reference, truth = problem(seed, count, scale=scale)
        interval = extrapolated(x, reference)["interval"]
        held += interval["low"] <= truth <= interval["high"]
    print(f"N {count} of 64 features, scale {scale}: {held} of 100")
    assert held >= 87


def files(tmp_path, count):
    for seed, name in enumerate(("real", "fake")):
        np.savez(tmp_path / f"{name}.npz", arr_0=pictures(seed, count))
    return [tmp_path / "fake.npz", "--reference", tmp_path / "real.npz", "--fid-infinity"]


def test_the_command_shows_value_interval_and_sizes(tmp_path, command):
    words = [*files(tmp_path, 700), "--metrics", "fid"]
    status, out, _ = command(*words, "--json")
    fid = json.loads(out)["metrics"]["fid[digits-cnn]"]
    assert status == 0 and fid["infinity"]["value"] < fid["value"]
    assert fid["infinity"]["sizes"] == [700, 350, 233, 175, 140]
    status, out, _ = command(*words)
    assert "fid[digits-cnn], N -> inf" in out and "line through N = 700, 350, 233, 175, 140" in out
    status, out, _ = command(*words, "--json", "--no-intervals")
    assert json.loads(out)["metrics"]["fid[digits-cnn]"]["infinity"]["interval"] is None


def test_what_cannot_be_extrapolated_is_one_sentence(tmp_path, command):
    words = files(tmp_path, 100)
    status, _, err = command(*words)
    assert status == 2 and "100 samples are too few: with 64 features it needs 640" in err.splitlines()[-1]
    status, _, err = command(*words, "--metrics", "is")
    assert status == 2 and "--metrics names none of them" in err
    np.savez(tmp_path / "s.npz", mu=np.zeros(64), sigma=np.eye(64))
    status, _, err = command(tmp_path / "s.npz", *words[1:])
    assert status == 2 and "the samples are only statistics, which cannot be split into subsets" in err
