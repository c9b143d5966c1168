"""Fixtures every test may use."""

from io import BytesIO

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


@pytest.fixture(scope="session")
def inception(tmp_path_factory):
    """torch-fidelity's Inception with seeded weights, in its own file format, named for its hash."""
    from bench import pretrained

    folder = tmp_path_factory.mktemp("weights")
    torch.save(seeded_inception(), folder / "weights.pth")
    path = folder / f"seeded-{pretrained.sha256(folder / 'weights.pth')[:8]}.pth"
    (folder / "weights.pth").rename(path)
    return path


def seeded_inception():
    """A state dict of torch-fidelity's Inception whose features differ from image to image."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Bare(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict):
            """There are no weights to load yet."""

    empty = BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    state = Bare("bare", ["2048"], feature_extractor_weights_path=empty).state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, value in state.items():
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("conv.weight"):
            state[name] = noise * (2 / value[0].numel()) ** 0.5
        elif name.endswith("bn.bias"):
            state[name] = 0.1 * noise
        elif name == "fc.weight":
            state[name] = 0.05 * noise
    return state
