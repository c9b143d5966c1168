"""Peak TFLOP/s by device name, and MFU."""

import pytest
import torch

from bench.training import hardware

NAMES = {
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA H100 PCIe": 756.5,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H200": 989.4,
    "NVIDIA GH200 480GB": 989.4,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA A100-PCIE-40GB": 312.0,
    "NVIDIA L40S": 362.0,
    "NVIDIA L4": 121.0,
    "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA RTX A6000": 154.8,
    "NVIDIA A10G": None,
    "NVIDIA H100 80GB HBM3 MIG 1g.10gb": None,
    "Tesla V100-SXM2-32GB": None,
    "CPU": None,
}


@pytest.mark.parametrize(("name", "peak"), NAMES.items())
def test_a_peak_is_known_by_the_devices_name_or_not_at_all(name, peak):
    assert hardware.known_peak(name) == peak


def test_every_entry_is_faster_at_lower_precision():
    for name, peak in hardware.PEAK_TFLOPS.items():
        assert peak["bf16"] > peak["tf32"] >= peak["fp32"] > 0, name


def test_half_of_an_h100_is_695_images_of_dit_xl_2_a_second():
    assert hardware.mfu(695, 6 * 118.64e9, hardware.known_peak("NVIDIA H100 80GB HBM3")) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_unknown_device_is_measured(precision):
    assert 0 < hardware.measure_peak(torch.device("cpu"), precision, size=128, rounds=2) < 100
