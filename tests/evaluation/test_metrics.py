import json
import platform
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from extractor_helpers import ImageDataset, features_of_images
from helpers import evaluation_context, make_run, tiny_config

from bench.config.metric_specs import METRIC_SPECS
from bench.evaluation import image_io, metrics, run_metrics, uncertainty
from bench.evaluation.evaluator import Evaluator, PreparedExtractor
from bench.evaluation.extractors import extractor_registry, small_cnn, weight_hashes


@pytest.fixture(scope="module")
def evaluator(cache, digits):
    extractor = PreparedExtractor.prepare("digits-cnn", "", cache)
    return Evaluator(tiny_config(), extractor, digits)


def test_metrics_agree_with_torch_fidelity(evaluator, digits, cache):
    images = digits.held_out
    ours = evaluator.measure(images, None, intervals=False)
    theirs = torch_fidelity.calculate_metrics(
        input1=ImageDataset(images),
        input2=ImageDataset(digits.reference),
        feature_extractor="digits-cnn",
        feature_extractor_weights_path=str(cache / "digits-cnn.safetensors"),
        fid=True,
        isc=True,
        prc=True,
        cuda=False,
        save_cpu_ram=True,
        verbose=False,
    )
    pairs = {"fid": "frechet_inception_distance", "is": "inception_score_mean"}
    for metric, name in {**pairs, "precision": "precision", "recall": "recall"}.items():
        assert ours[f"{metric}[digits-cnn]"]["value"] == pytest.approx(theirs[name], rel=1e-5)


def test_the_reference_is_at_distance_zero_from_itself(evaluator, digits):
    measured = evaluator.measure(digits.reference, digits.labels, intervals=False)
    assert measured["fid[digits-cnn]"]["value"] == pytest.approx(0, abs=1e-4)
    assert measured["precision[digits-cnn]"]["value"] == measured["recall[digits-cnn]"]["value"] == 1
    assert measured["class_accuracy[digits-cnn]"]["value"] > 0.99


def test_real_images_are_the_floor_and_noise_the_ceiling(results, digits):
    run = make_run(results, tiny_config(evaluation__samples=400))
    rows = run_metrics.measure_reference_rows(evaluation_context(run, dataset=digits))
    floor, ceiling = (rows[name][0] for name in ("held-out", "noise"))
    assert floor["fid[digits-cnn]"]["value"] < 0.5 < 20 < ceiling["fid[digits-cnn]"]["value"]
    assert floor["class_accuracy[digits-cnn]"]["value"] > 0.98
    assert ceiling["class_accuracy[digits-cnn]"]["value"] < 0.25


HELD_OUT = sorted((Path(__file__).parents[2] / "results" / "records" / "v1").glob("held_out-*.json"))


@pytest.mark.parametrize("path", HELD_OUT, ids=lambda path: path.stem)
def test_the_committed_rows_of_held_out_digits_are_found_again(path, evaluator, digits, cache):
    """Their numbers were torch-fidelity's own; other ways to them must not move them.

    The digits CNN is trained in float64.  Another processor's sums move its weights by some 1e-13, and the nearest
    weight is 1.7e-9 from where it would round to another multiple of 1/4096, so the hash is the committed one.
    Features then differ by the order of float32 sums of at most 144 terms, sqrt(144) 2^-24 = 7e-7, independently in
    449 images, so means and covariances by less than 1e-7, and the distance by 2.1e-7 as measured.  No share moves:
    the nearest flag of precision or recall is 4e-5 of the norms from its radius, the nearest logit 0.1 from another.
    """
    if platform.machine() != "x86_64":
        pytest.skip("the committed rows are of the digits CNN that x86-64 trains")
    record = json.loads(path.read_text())
    own_hash = weight_hashes.hash_weights(cache / "digits-cnn.safetensors")
    assert record["protocol"]["evaluation"]["extractor_hash"] == own_hash
    measured = evaluator.measure(digits.held_out, digits.held_out_labels, intervals=True)
    assert list(measured) == list(record["metrics"])
    for name, committed in record["metrics"].items():
        assert measured[name]["value"] == pytest.approx(committed["value"], rel=1e-6)
        if measured[name]["interval"]["method"] == committed["interval"]["method"]:
            for end in ("low", "high"):
                assert measured[name]["interval"][end] == pytest.approx(committed["interval"][end], rel=1e-5)


def test_wrong_labels_have_no_accuracy(evaluator, digits):
    measured = evaluator.measure(digits.held_out, (digits.held_out_labels + 1) % 10, intervals=False)
    assert measured["class_accuracy[digits-cnn]"]["value"] < 0.02


def test_intervals_hold_their_value_and_stay_possible(evaluator, digits):
    measured = evaluator.measure(digits.held_out[:100], digits.held_out_labels[:100], intervals=True)
    for name, m in measured.items():
        low, high = m["interval"]["low"], m["interval"]["high"]
        assert low <= m["value"] <= high and m["samples"] == 100
        assert low >= 0 and (high <= 1 or name.startswith(("fid", "is"))), name
    assert measured["fid[digits-cnn]"]["direction"] == "lower"


def test_intervals_do_not_depend_on_the_order_of_the_labels(evaluator, digits):
    """Samples come with labels 0, 1, .. 9, 0, 1, ..; groups of one class each would blow the interval up."""
    rank = np.zeros(len(digits.labels), int)
    for c in range(10):
        rank[digits.labels == c] = np.arange((digits.labels == c).sum())
    cyclic = np.lexsort((digits.labels, rank))[:1000]
    mixed = np.random.RandomState(1).permutation(cyclic)
    widths = []
    for order in (cyclic, mixed):
        interval = evaluator.measure(digits.images[order], None, intervals=True)["fid[digits-cnn]"]["interval"]
        widths.append(interval["high"] - interval["low"])
    assert 0.5 < widths[0] / widths[1] < 2


def test_the_jackknife_covers_the_mean_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        x = rng.standard_normal(200)
        left_out = [np.delete(x, slice(g * 10, g * 10 + 10)).mean() for g in range(20)]
        hits += abs(x.mean()) <= uncertainty.Z_95 * uncertainty.jackknife_standard_error(left_out)
    assert 0.91 <= hits / 400 <= 0.98


def sides(samples, real=None, **more):
    real = samples if real is None else real
    layers = {"fid": "f", "is": "f", "kid": "f", "prc": "f"}
    one, two = (metrics.SampleSet(features={"f": x}, count=len(x)) for x in (samples, real))
    return metrics.MetricInputs(samples=one, reference=two, layers=layers, **more)


def test_damaged_features_are_refused():
    good = np.zeros((30, 4), np.float32)
    bad = good.copy()
    bad[3, 1] = np.nan
    for one, two in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match="NaN"):
            metrics.compute_metrics(sides(one, two))
    with pytest.raises(ValueError, match="at least 20"):
        metrics.compute_metrics(sides(good[:5], good))


def test_a_value_that_is_no_number_is_refused():
    """The published score of probabilities that are exactly zero; here from logits 2,000 apart."""
    logits = np.zeros((40, 4), np.float32)
    logits[:, 0] = -2000
    with pytest.raises(ValueError, match="is is nan"):
        metrics.compute_metrics(sides(logits), wanted=["is"])


def test_the_extractor_is_trained_to_the_same_weights_every_time(tmp_path):
    one, two = (small_cnn.train_small_cnn("digits-cnn", epochs=2) for _ in range(2))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert all(
        torch.equal(v * small_cnn.WEIGHT_RESOLUTION, (v * small_cnn.WEIGHT_RESOLUTION).round()) for v in one.values()
    )


def test_the_extractor_classifies_digits_it_has_not_seen(cache, digits):
    weights, _ = extractor_registry.prepare_weights("digits-cnn", "", cache)
    logits = features_of_images("digits-cnn", weights, digits.held_out)["logits"]
    assert (logits.argmax(1).numpy() == digits.held_out_labels).mean() > 0.98


def test_missing_inception_weights_say_where_to_put_them(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=r"weights-inception-2015-12-05-6726825d.pth.*evaluation.weights=PATH"):
        extractor_registry.check_extractor("inception-v3-compat", "")


def test_images_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="must be uint8"):
        image_io.ArrayImages(np.zeros((2, 3, 8, 8), np.float32))


def test_every_metric_is_in_every_table():
    computed = {name for names in metrics.METRICS_OF_PURPOSE.values() for name in names}
    assert computed == set(METRIC_SPECS) == set(metrics.INTERVAL_METHODS)
    assert set(metrics.METRICS_OF_PURPOSE) == set(metrics.METRIC_FUNCTIONS)
