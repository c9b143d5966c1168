"""The published evaluators' values on seeded features (goldens/metrics/README.md says whose), and resamples."""

import metric_cases as cases
import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from bench.evaluation import frechet, metrics, precision_recall, uncertainty

RADII = {"radii_ref": "real_radii", "radii_sample": "fake_radii"}


def close(value, golden, relative, absolute):
    return abs(value - golden) <= relative * abs(golden) + absolute


@pytest.mark.parametrize("name", cases.names("frechet"))
def test_frechet_distances_match_the_published_evaluator(name):
    case, golden = cases.CASES[name], cases.golden(name)
    a, b = (frechet.fit_gaussian(cases.features(case[side])) for side in "ab")
    assert close(frechet.frechet_distance(a, b), golden["fid"], 1e-6, 1e-6)
    assert close(frechet.frechet_distance(b, a), golden["fid_swapped"], 1e-6, 1e-6)
    for side, fitted in {"a": a, "b": b}.items():
        if f"mu_{side}" in golden:  # to the bit: rows are added one after the other, each a single float32 sum
            assert np.array_equal(fitted.mu, golden[f"mu_{side}"]) or len(fitted.mu) == 1
        if f"sigma_{side}" in golden:
            assert np.abs(fitted.sigma - golden[f"sigma_{side}"]).max() < 1e-12


@pytest.mark.parametrize("name", cases.names("inception_score", "inception_score_logits"))
def test_inception_scores_match_the_published_evaluator(name):
    case, golden = cases.CASES[name], cases.golden(name)["score"]
    if "logits" in case:
        p = torch.from_numpy(cases.logits(case["logits"]).astype(np.float32)).softmax(1).numpy()
    else:
        p = cases.predictions(case["predictions"])
    score = cases.inception_score(p, case["split_size"])
    assert np.isnan(score) if golden is None else close(score, golden, 1e-5, 0)


def measured(name, **options):
    case = cases.CASES[name]
    real, fake = (torch.from_numpy(cases.features(case[side])) for side in ("ref", "sample"))
    return precision_recall.compute_precision_recall(real, fake, **options)


def bits(packed, count):
    return np.unpackbits(packed, count=count).astype(bool)


def undecided(name):
    """(flags of samples, flags of reference images): bool, those that the rounding of float32 may turn.

    |a|^2 - 2 ab + |b|^2 sums terms of 2 (|a|^2 + |b|^2) in all.  The order of the sums depends on the processor.
    F roundings of 2^-24 add up as a random walk to sqrt(F) 2^-24 of the terms (Higham and Mary 2019,
    doi:10.1137/18M1226312); four times that covers the distance and the radius it is compared with.
    """
    case = cases.CASES[name]
    real, fake = (cases.features(case[side]).astype(np.float64) for side in ("ref", "sample"))
    real, fake = real - real.mean(0), fake - real.mean(0)
    slack = 8 * np.sqrt(real.shape[1]) * 2**-24 * ((fake**2).sum(1)[:, None] + (real**2).sum(1))
    distance, masks = cdist(fake, real, "sqeuclidean"), []
    real_radii, fake_radii = (np.sort(cdist(x, x, "sqeuclidean"))[:, 3] for x in (real, fake))
    for radii, axis in ((real_radii, 1), (fake_radii[:, None], 0)):
        inside = (distance + slack < radii).any(axis)
        masks.append(~inside & (distance - slack < radii).any(axis))
    return masks


@pytest.mark.parametrize("name", cases.names("precision_recall"))
def test_precision_and_recall_are_exact_in_float32(name):
    """But for one flag of pr_nonnegative_2048, whose distance is 3e-7 of the norms from the radius."""
    golden = cases.golden(name)
    if "raised" in golden:
        with pytest.raises(ValueError, match="need at least 4"):
            measured(name)
        return
    result = measured(name)
    masks = undecided(name)
    assert sum(map(np.count_nonzero, masks)) == (name == "pr_nonnegative_2048")
    flags_of_sides = (result.inside, result.covered)
    for kind, flags, mask in zip(("sample_in_ref", "ref_in_sample"), flags_of_sides, masks, strict=True):
        assert np.array_equal(flags.numpy()[~mask], bits(golden[f"{kind}_float64"], len(flags))[~mask])
    assert result.precision == pytest.approx(golden["precision_float32"], abs=masks[0].mean() + 1e-9)
    assert result.recall == pytest.approx(golden["recall_float32"], abs=masks[1].mean() + 1e-9)
    for key, attribute in RADII.items():
        exact = golden[f"{key}_float64"]
        assert np.abs(getattr(result, attribute).numpy() - exact).max() <= 1e-5 * exact.max() + 1e-4


@pytest.mark.parametrize("name", [n for n in cases.names("precision_recall") if n != "pr_too_few"])
def test_half_precision_is_near_the_published_evaluator(name):
    """Radii to 2e-3 and two units of the norms' last place; shares to the flags that half precision moved and 2 %."""
    case, golden, result = cases.CASES[name], cases.golden(name), measured(name, dtype="float16")
    for key, attribute in RADII.items():
        x = cases.features(case["ref" if key == "radii_ref" else "sample"]).astype(np.float64)
        norms = np.square(x).sum(1).clip(max=60000).astype(np.float16)
        slack = 2e-3 * golden[key] + 2 * np.spacing(norms).astype(np.float64)
        assert (np.abs(getattr(result, attribute).numpy() - golden[key]) <= slack).all()
    moved = case["flags_differing_from_float64"]
    for value, share, count in (
        (result.precision, golden["precision"], case["sample"]["n"]),
        (result.recall, golden["recall"], case["ref"]["n"]),
    ):
        assert abs(value - share) * count <= moved + 0.02 * count


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_gpu_finds_the_same_precision_and_recall(dtype):
    real, fake = (torch.from_numpy(np.abs(cases.noise(seed, (3000, 256)))) for seed in (1, 2))
    one = precision_recall.compute_precision_recall(real, fake, dtype=dtype, resamples=20)
    two = precision_recall.compute_precision_recall(real.cuda(), fake.cuda(), dtype=dtype, resamples=20)
    results = [(m.precision, m.recall, m.recall_error) for m in (one, two)]
    assert np.abs(np.subtract(*results)).max() <= (1e-3 if dtype == "float32" else 0.02)


def test_half_precision_moves_the_precision_of_2048_features():
    """79 or 80 of 150 samples in float32, as one flag is undecided, and more than 81 in float16."""
    assert round(150 * measured("pr_nonnegative_2048").precision) in (79, 80)
    assert measured("pr_nonnegative_2048", dtype="float16").precision > 0.54


@pytest.mark.parametrize("tile", [7, 64, 10_000])
def test_precision_and_recall_do_not_depend_on_the_blocks(tile, monkeypatch):
    monkeypatch.setattr(precision_recall, "BLOCK_SIZE", tile)
    golden, result = cases.golden("pr_basic"), measured("pr_basic")
    assert (result.precision, result.recall) == (golden["precision_float32"], golden["recall_float32"])


def test_copies_have_precision_one_at_radius_zero():
    """Four copies of each row: a ball of radius 0 still holds its own point, whatever float32 makes of it."""
    rows = np.abs(cases.noise(1, (20, 512))) + 3
    real, fake = np.tile(rows, (4, 1)), np.tile(rows[::-1], (5, 1))
    exact = precision_recall.compute_precision_recall(torch.from_numpy(real), torch.from_numpy(fake))
    assert (exact.precision, exact.recall) == (1, 1)
    near = precision_recall.compute_precision_recall(torch.from_numpy(real), torch.from_numpy(fake + 0.05))
    assert (near.precision, near.recall) == (0, 0)


def test_a_resample_recalls_what_its_samples_alone_would(monkeypatch):
    """Without the resamples' scale, the spread is that of the recalls of the sets that were drawn."""
    real, fake = (torch.from_numpy(cases.noise(seed, (180, 12)) * scale) for seed, scale in ((1, 1), (2, 0.8)))
    monkeypatch.setattr(precision_recall, "BLOCK_SIZE", 50)
    rng, recalls, scale = np.random.default_rng(0), [], []
    for _ in range(30):
        drawn = np.unique(rng.integers(180, size=180))
        recalls.append(precision_recall.compute_precision_recall(real, fake[drawn]).recall)
        scale.append(len(drawn) / (180 - len(drawn)))
    result = precision_recall.compute_precision_recall(real, fake, resamples=30)
    assert result.recall == precision_recall.compute_precision_recall(real, fake).recall
    assert result.recall_error == pytest.approx(np.std(recalls) * np.mean(scale) ** 0.5, rel=1e-6)


@pytest.mark.parametrize(("count", "width"), [(400, 12), (60, 90)])
def test_leave_group_out_distances_match_a_new_fit(count, width):
    real, fake = cases.noise(1, (500, width)), cases.noise(2, (count, width)) * 1.2 + 0.1
    groups = np.random.RandomState(0).permutation(count) % 10
    reference = frechet.fit_gaussian(real)
    for g, distance in enumerate(frechet.leave_group_out_distances(fake, groups, reference)):
        assert distance == pytest.approx(
            frechet.frechet_distance(frechet.fit_gaussian(fake[groups != g]), reference), rel=1e-6
        )


def test_statistics_do_not_depend_on_the_pieces_they_come_in():
    x, moments = cases.noise(3, (5000, 6)) + 1000, frechet.RunningMoments()
    for part in np.split(x, [1, 1, 70, 3333]):
        moments.add(part)
    gaussian = moments.gaussian()
    assert np.array_equal(gaussian.mu, x.mean(0)) and gaussian.count == 5000
    assert np.abs(gaussian.sigma - np.cov(x.astype(np.float64), rowvar=False)).max() < 1e-10


def test_the_intervals_of_kid_hold_the_distance_of_larger_sets():
    """95 % intervals from 300 of 6,000 images each, against the same reference, nearly always hold that of all."""
    real, fake = cases.noise(1, (3000, 16)), cases.noise(2, (6000, 16)) * 1.3
    whole = kid(fake, real, 600)["value"]
    hits = 0
    for start in range(0, 6000, 300):
        estimate = kid(fake[start : start + 300], real, 150)
        hits += estimate["interval"]["low"] <= whole <= estimate["interval"]["high"]
    assert hits >= 17


def test_the_subsets_of_kid_are_the_librarys():
    """The bootstrap's terms belong to the subsets whose mean is the value."""
    real, fake = (torch.from_numpy(cases.noise(seed, (90, 8))).double() for seed in (1, 2))
    values = []
    for a, b in metrics.draw_kid_subsets(90, 90, 40):
        xx, yy = (uncertainty.polynomial_kernel(x, x).fill_diagonal_(0).sum() / (40 * 39) for x in (fake[a], real[b]))
        values.append(float(xx + yy - 2 * uncertainty.polynomial_kernel(fake[a], real[b]).mean()))
    assert kid(fake.float().numpy(), real.float().numpy(), 40)["value"] == pytest.approx(np.mean(values), rel=1e-4)


def kid(fake, real, size):
    one, two = (metrics.SampleSet(features={"f": x}, count=len(x)) for x in (fake, real))
    sides = metrics.MetricInputs(samples=one, reference=two, layers={"kid": "f"}, kid_size=size)
    return metrics.compute_metrics(sides, wanted=["kid"])["kid"]
