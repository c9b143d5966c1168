"""Intervals against the real spread: many fresh sets of samples of a known distribution, one reference."""

import numpy as np
import pytest

from bench.evaluation import metrics, uncertainty

LAYERS = {"fid": "f", "is": "logits", "kid": "f", "prc": "f"}
SMALL = {"fid": (400, 16, 1.0), "is": (400, 16, 1.0), "kid": (200, 16, 1.2), "prc": (300, 6, 0.9)}
"""Metric -> samples, features, and the samples' scale where the reference's is 1."""
LARGER = [
    ("fid", 500, 32, 1.0),
    ("fid", 2000, 64, 1.1),
    ("fid", 100, 64, 1.1),
    ("is", 300, 100, 2.0),
    ("is", 2000, 20, 1.0),
    ("is", 1000, 1000, 3.0),
    ("is, torch-fidelity", 450, 10, 4.0),
    ("is, torch-fidelity", 5000, 300, 3.0),
    ("kid", 300, 16, 1.3),
    ("kid", 300, 16, 1.0),
    ("kid", 600, 64, 1.1),
    ("prc", 500, 8, 1.0),
    ("prc", 500, 32, 0.8),
    ("prc", 200, 4, 1.0),
    ("prc", 1000, 16, 0.9),
]


def draws(purpose, count, width, scale, repeats, real_count=600):
    """{metric: (repeats, 2)} values and deviations, deviations being half of the intervals over 1.96."""
    rng = np.random.RandomState(1)
    real = metrics.SampleSet(
        features={"f": rng.standard_normal((real_count, width)).astype(np.float32)}, count=real_count
    )
    purpose, _, protocol = purpose.partition(", ")
    protocol, measured = protocol or "adm", {}
    for _ in range(repeats):
        x = (scale * rng.standard_normal((count, width))).astype(np.float32)
        one = metrics.SampleSet(features={"f": x, "logits": x}, count=count)
        inputs = metrics.MetricInputs(samples=one, reference=real, layers=LAYERS, protocol=protocol)
        for name, m in metrics.compute_metrics(inputs, wanted=metrics.METRICS_OF_PURPOSE[purpose]).items():
            reach = max(m["interval"]["high"] - m["value"], m["value"] - m["interval"]["low"])
            measured.setdefault(name, []).append((m["value"], reach / uncertainty.Z_95))
    return {name: np.array(rows) for name, rows in measured.items()}


def judged(rows):
    """(Share of the intervals that hold the mean, root mean square deviation over the real one)."""
    value, deviation = rows.T
    held = np.abs(value - value.mean()) <= uncertainty.Z_95 * deviation
    return held.mean(), np.sqrt(np.square(deviation).mean()) / value.std()


@pytest.mark.parametrize("purpose", SMALL)
def test_the_deviation_is_about_the_real_spread(purpose, monkeypatch):
    monkeypatch.setattr(uncertainty, "RESAMPLES", 80)
    for name, rows in draws(purpose, *SMALL[purpose], repeats=50, real_count=300).items():
        covered, ratio = judged(rows)
        assert covered >= 0.87, name
        assert 0.75 < ratio < (1.8 if name == "fid" else 1.45), name


@pytest.mark.slow
@pytest.mark.parametrize(("purpose", "count", "width", "scale"), LARGER)
def test_intervals_cover_the_mean_of_fresh_sample_sets(purpose, count, width, scale):
    for name, rows in draws(purpose, count, width, scale, repeats=200).items():
        covered, ratio = judged(rows)
        print(
            f"{purpose}, {name}: {count} of {width} features, scale {scale}: covered {covered:.3f}, ratio {ratio:.2f}"
        )
        assert covered >= 0.88, name
        assert 0.85 < ratio < (1.7 if name == "fid" else 1.4), name
