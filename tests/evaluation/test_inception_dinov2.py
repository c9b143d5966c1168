"""Inception metrics against the installed torch-fidelity, with seeded weights in its own file format."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch_fidelity
from extractor_helpers import ImageDataset
from metric_cases import inception_score
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from bench import evaluate
from bench.config.metric_specs import METRIC_SPECS
from bench.evaluation import feature_extraction, metrics
from bench.evaluation.extractors import extractor_registry
from bench.storage import atomic

SAMPLES, REAL, KID = 20, 8, 4


def pictures(seed, count, size=24):
    """(N, H, W, 3) uint8: coarse noise of varying contrast, which varies less for seed 2."""
    rng = np.random.RandomState(seed)
    coarse = rng.randint(0, 256, (count, size // 4, size // 4, 3)).repeat(4, 1).repeat(4, 2)
    contrast = rng.uniform(0.2 if seed == 1 else 0.6, 1, (count, 1, 1, 1))
    return ((0.7 * coarse + 0.3 * rng.randint(0, 256, (count, size, size, 3))) * contrast).astype(np.uint8)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder of PNG samples and a reference .npz."""
    root = tmp_path_factory.mktemp("sets")
    (root / "samples").mkdir()
    for i, image in enumerate(pictures(1, SAMPLES)):
        Image.fromarray(image).save(root / "samples" / f"{i:05d}.png")
    np.savez(root / "reference.npz", arr_0=pictures(2, REAL))
    return root


@pytest.mark.parametrize("size", [1, 5])
def test_features_do_not_depend_on_the_images_beside_them(inception, size):
    """On a CPU all but the logits of a batch of one were equal to the last bit."""
    net = extractor_registry.build_network("inception-v3-compat", inception, ("2048", "spatial", "logits_unbiased"))
    images, numbers = pictures(1, 6).transpose(0, 3, 1, 2), np.arange(6)
    together, apart = (feature_extraction.extract_in_batches(net, numbers, images, n) for n in (6, size))
    for layer, x in together.items():
        np.testing.assert_allclose(apart[layer], x, rtol=0, atol=1e-5 * np.abs(x).max())


def run(*words):
    assert evaluate.main([str(w) for w in words]) == 0


@pytest.fixture(scope="module")
def evaluated(sets, inception):
    """(result of the command under the torch-fidelity protocol, the sides it was found from)."""
    inputs, compute = [], metrics.compute_metrics
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "compute_metrics", lambda sides, **more: inputs.append(sides) or compute(sides, **more))
        patch.setattr(torch.hub, "get_dir", lambda: str(sets / "empty"))
        words = [sets / "samples", "--reference", sets / "reference.npz", "--weights", inception, "--device", "cpu"]
        words += ["--protocol", "torch-fidelity", "--kid-subset", KID, "--out", sets / "result.json"]
        assert evaluate.main([str(w) for w in words]) == 0
    return json.loads((sets / "result.json").read_text()), inputs[0]


def test_torch_fidelity_protocol_matches_the_library(evaluated, sets, inception):
    theirs = torch_fidelity.calculate_metrics(
        input1=str(sets / "samples"),
        input2=ImageDataset(pictures(2, REAL).transpose(0, 3, 1, 2)),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception),
        kid_subset_size=KID,
        **dict(fid=True, isc=True, kid=True, prc=True, cuda=False, cache=False, save_cpu_ram=True, verbose=False),
    )
    pairs = {
        "fid": "frechet_inception_distance",
        "is": "inception_score_mean",
        "kid": "kernel_inception_distance_mean",
        "precision": "precision",
        "recall": "recall",
    }
    for metric, name in pairs.items():
        assert evaluated[0]["metrics"][metric]["value"] == pytest.approx(theirs[name], rel=1e-5), metric
    assert 0 < theirs["precision"] < 1 and 0 < theirs["recall"] < 1 and theirs["inception_score_mean"] > 1.0002


def test_adm_protocol_differs_only_in_the_inception_score(evaluated):
    result, sides = evaluated
    adm = metrics.compute_metrics(dataclasses.replace(sides, protocol="adm"), intervals=False)
    logits = torch.from_numpy(sides.samples.features["logits_unbiased"])
    assert adm["is"]["value"] == pytest.approx(inception_score(logits.softmax(1).numpy(), 5000), rel=1e-6)
    assert adm["is"]["value"] != pytest.approx(result["metrics"]["is"]["value"], rel=1e-6)
    for name in ("fid", "sfid", "kid", "precision", "recall"):
        assert adm[name]["value"] == pytest.approx(result["metrics"][name]["value"], rel=1e-4), name


def test_spatial_features_are_those_of_mixed_6d(inception, evaluated):
    plain = FeatureExtractorInceptionV3("plain", ["768"], feature_extractor_weights_path=str(inception))
    maps = []
    plain.Mixed_6d.branch1x1.register_forward_hook(lambda m, i, output: maps.append(output))
    plain(torch.from_numpy(pictures(1, SAMPLES)[:2]).permute(0, 3, 1, 2))
    spatial = evaluated[1].samples.features["spatial"][:2].reshape(2, 17, 17, 7)
    expected = maps[0][:, :7].permute(0, 2, 3, 1).numpy()
    assert np.abs(spatial - expected).max() < 1e-4 and spatial.min() >= 0 and spatial.max() > 0.1


def test_sfid_is_the_distance_of_the_spatial_features(evaluated):
    result, sides = evaluated
    a = sides.samples.features["spatial"].astype(np.float64)
    real = sides.reference.gaussian("spatial")
    centred = (a - a.mean(0)) / np.sqrt(len(a) - 1)
    values, vectors = np.linalg.eigh(real.sigma)
    root = np.linalg.svd((vectors * np.sqrt(values.clip(0))).T @ centred.T, compute_uv=False).sum()
    distance = np.square(a.mean(0) - real.mu).sum() + np.square(centred).sum() + np.trace(real.sigma) - 2 * root
    assert result["metrics"]["sfid"]["value"] == pytest.approx(distance, rel=1e-5)


def test_every_metric_has_direction_count_and_interval(evaluated):
    assert list(evaluated[0]["metrics"]) == ["fid", "sfid", "is", "kid", "precision", "recall"]
    for name, m in evaluated[0]["metrics"].items():
        assert m["samples"] == SAMPLES and m["direction"] == METRIC_SPECS[name][0]
        assert m["interval"]["low"] <= m["value"] <= m["interval"]["high"] and m["interval"]["method"]


def test_the_result_says_whose_weights_and_what_was_not_measured(evaluated, inception):
    used = evaluated[0]["extractors"]["inception-v3-compat"]
    assert used == {"file": inception.name, "sha256": atomic.file_sha256(inception), "published": False}
    assert "dinov2_vitl14_pretrain.pth" in evaluated[0]["not_measured"]["fd_dinov2"]
    assert any("not the published weights" in note for note in evaluated[0]["notes"])


def test_statistics_of_another_width_are_refused(sets, inception, tmp_path, capsys):
    np.savez(tmp_path / "narrow.npz", mu=np.zeros(64), sigma=np.eye(64))
    words = [sets / "samples", "--reference", tmp_path / "narrow.npz", "--weights", inception]
    assert evaluate.main([str(w) for w in words]) == 2
    assert "narrow.npz: mu has 64 features where the other sample set has 2048" in capsys.readouterr().err
