"""Fixtures every test may use."""

import pytest
import torch

from architectures import IOSpec
from bench import data

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits():
    return data.load("digits")


@pytest.fixture
def io():
    return IOSpec(channels=1, size=8, num_classes=10)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A results folder whose cache holds the digits CNN, trained once a session."""
    from bench import extractors

    results = tmp_path_factory.mktemp("results")
    extractors.prepare("digits-cnn", "", results / "cache")
    return results / "cache"


@pytest.fixture
def results(tmp_path, cache):
    """An empty results folder with the digits CNN at hand."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "cache").symlink_to(cache)
    return tmp_path / "results"
