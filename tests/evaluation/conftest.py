"""Fixtures of the tests of evaluation: bench.evaluate as a function, and a stand-in for Inception."""

import numpy as np
import pytest
from image_files import pictures, save_folder
from mean_extractor import Mean

from bench import evaluate
from bench.evaluation.extractors import extractor_registry


@pytest.fixture
def command(cache, capsys):
    """Runs bench.evaluate with the digits CNN: (exit status, what it printed, what it said on stderr)."""

    def run(*words, extractor="digits-cnn", weights=cache / "digits-cnn.safetensors"):
        weights = ["--weights", weights] if weights and extractor == "digits-cnn" else []
        status = evaluate.main([str(w) for w in (*words, "--extractor", extractor, *weights, "--device", "cpu")])
        done = capsys.readouterr()
        return status, done.out, done.err

    return run


@pytest.fixture
def inception_of_means(monkeypatch, tmp_path):
    """The name of an extractor of RGB images that needs no weights."""
    (tmp_path / "none.pth").write_text("")
    entry = extractor_registry.Extractor(
        layers={"fid": "mean", "prc": "mean"},
        build=lambda *a, **k: Mean(),
        find_weights=lambda *_: tmp_path / "none.pth",
    )
    monkeypatch.setitem(extractor_registry.EXTRACTORS, "inception-v3-compat", entry)
    return "inception-v3-compat"


@pytest.fixture
def image_pair(tmp_path):
    """A folder of 40 samples and an .npz of 30 real images."""
    np.savez(tmp_path / "real.npz", arr_0=pictures(2, 30))
    return save_folder(tmp_path / "samples", pictures(1, 40)), tmp_path / "real.npz"
