"""Losses that a refactor must not change: tests/golden_losses.py writes them anew where a change is meant."""

import json

import golden_losses
import pytest
import torch

RELATIVE = 1e-5
"""Tolerance for another order of sums.

A unit of float32's rounding (2^-24) in every weight at every step moves these losses by at most 4.6e-7.
Sums have about 1,000 terms (16 images of 64 pixels, or 3x3 filters of 128 channels) in four lanes or more.
Their roundings add up as a random walk to sqrt(1000 / 4) = 16 units, which is 7e-6.
Measured: at most 3.3e-7 between one and two threads, AVX-512, AVX2 and SSE, in torch, oneDNN and MKL.
"""


def compare(name, device):
    goldens = json.loads(golden_losses.path(device).read_text())
    assert golden_losses.losses(name, device) == pytest.approx(goldens[name], rel=RELATIVE)


@pytest.mark.parametrize("name", golden_losses.CASES)
def test_ten_training_steps_have_the_losses_they_had(name):
    compare(name, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("name", golden_losses.CASES)
def test_ten_training_steps_on_a_gpu_have_the_losses_they_had(name):
    device = torch.device("cuda")
    if not golden_losses.path(device).is_file():
        pytest.skip("no goldens of a GPU yet: python tests/golden_losses.py writes them there")
    compare(name, device)


@pytest.mark.parametrize("change", [{"recipe__beta2": 0.98}, {"recipe__ema": 0.9, "recipe__ema_ramp": "false"}])
def test_a_small_change_of_the_recipe_shows(change):
    device = torch.device("cpu")
    with pytest.raises(AssertionError):
        goldens = json.loads(golden_losses.path(device).read_text())
        assert golden_losses.losses("dit", device, **change) == pytest.approx(goldens["dit"], rel=RELATIVE)
