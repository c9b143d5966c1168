"""bench.evaluate on a run: its stored features, or its exported images."""

import json

import numpy as np
import pytest
from helpers import evaluation_context, make_run, tiny_config
from image_files import save_folder
from safetensors.torch import load_file, save_file

from bench.evaluation import (
    feature_extraction,
    feature_store,
    run_metrics,
)
from bench.evaluation.extractors import extractor_registry


def stored(run, point, images_NCHW, weights, labels=10):
    """A feature store of these images, as sampling leaves it."""
    layers = extractor_registry.EXTRACTORS["digits-cnn"].layers
    net = extractor_registry.build_network("digits-cnn", weights, layers.values())
    provenance = feature_store.FeatureProvenance(
        extractor="digits-cnn", weights=weights.name, sha256=extractor_registry.hash_weights(weights)
    )

    def extract(numbers, images):
        return feature_extraction.extract_in_batches(net, numbers, images.transpose(0, 3, 1, 2))

    features = feature_store.FeatureStoreWriter(
        run.features_path(point), len(images_NCHW), labels, provenance, layers, extract
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
    result = json.loads(out)
    assert result["protocol"] == "torch-fidelity" and result["samples"]["count"] == 40
    assert result["samples"]["path"].endswith("features/000000000096") and "samples, digits-cnn" not in err
    assert result["metrics"] == metrics_


def test_a_store_needs_no_weights_against_statistics(measured, command, capsys, tmp_path):
    run, _ = measured
    (run.results / "cache").unlink()
    capsys.readouterr()
    statistics = run.features_path(48) / "statistics.npz"
    status, out, _ = command(run.path, "--reference", statistics, "--json", weights=None)
    result = json.loads(out)
    assert status == 0
    assert list(result["metrics"]) == ["fid[digits-cnn]", "is[digits-cnn]", "class_accuracy[digits-cnn]"]
    assert result["extractors"]["digits-cnn"]["file"] == "digits-cnn.safetensors"
    assert not (run.results / "cache").exists()
    np.savez(tmp_path / "narrow.npz", mu=np.zeros(8), sigma=np.eye(8))
    status, _, err = command(run.path, "--reference", tmp_path / "narrow.npz", weights=None)
    assert status == 2 and err.endswith("narrow.npz: mu has 8 features where the other sample set has 64\n")


@pytest.mark.parametrize(("count", "status"), [(700, 0), (400, 2)])
def test_stored_features_are_extrapolated_without_images(results, digits, command, count, status):
    run = make_run(results, tiny_config())
    stored(run, 96, digits.images[:count], extractor_registry.prepare_weights("digits-cnn", "", run.cache)[0])
    words = [run.path, "--reference", run.path, "--fid-infinity", "--metrics", "fid", "--no-intervals"]
    exit_status, out, err = command(*words)
    assert exit_status == status
    assert "N -> inf" in out if status == 0 else "400 samples are too few: with 64 features it needs 640" in err


@pytest.mark.parametrize("exported", ["npz", "png", "nothing"])
def test_other_weights_than_the_stores_need_images(measured, digits, command, capsys, tmp_path, exported):
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
    result = json.loads(out)
    assert result["samples"]["path"] == str(run.export_path(96, exported)) and result["samples"]["count"] == 40
    assert result["metrics"]["fid[digits-cnn]"] != metrics_["fid[digits-cnn]"]
    assert ("class_accuracy[digits-cnn]" in result["metrics"]) == (exported == "npz")
