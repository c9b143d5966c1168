"""The throughput of the loader alone."""

import pytest

from bench.benchmarks import loading
from bench.experiments import presets


def test_loader_throughput_is_that_of_its_draws(digits, monkeypatch):
    """On a clock that only the draws advance: the first batches are the warm-up's."""
    config = presets.compose_config(presets.RunRequest(data="digits"))
    clock = [0.0]

    def draw(*_):
        clock[0] += 1.0 if clock[0] < loading.WARM_UP_SECONDS else 0.01
        return ()

    monkeypatch.setattr(loading.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(loading, "draw_batch", draw)
    measured = loading.loader_throughput(config, digits, seconds=0.2, workers=0)
    assert measured == pytest.approx(config.recipe.batch / 0.01)
