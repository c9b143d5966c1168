"""Peak dense TFLOP/s of accelerators, by name or measured, and model FLOPs utilisation (MFU).

The table has the vendors' values for dense matrix products.  NVIDIA's datasheets print bf16 and TF32 with sparsity,
which doubles the values.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

PEAK_TFLOPS: Mapping[str, Mapping[str, float]] = {
    # NVIDIA's datasheets of H100, H200 and GH200; SXM boards and superchips have one peak, PCIe and NVL a lower one
    "H100 PCIe": {"bf16": 756.5, "tf32": 378.0, "fp32": 51.2},
    "H100 NVL": {"bf16": 835.5, "tf32": 417.5, "fp32": 60.0},
    "H100": {"bf16": 989.4, "tf32": 494.7, "fp32": 66.9},
    "H200 NVL": {"bf16": 835.5, "tf32": 417.5, "fp32": 60.0},
    "H200": {"bf16": 989.4, "tf32": 494.7, "fp32": 66.9},
    "GH200": {"bf16": 989.4, "tf32": 494.7, "fp32": 66.9},
    "H800": {"bf16": 989.4, "tf32": 494.7, "fp32": 66.9},
    # A100 and A800, A30, A10, A40 and RTX A6000: Ampere datasheets
    "A100": {"bf16": 312.0, "tf32": 156.0, "fp32": 19.5},
    "A800": {"bf16": 312.0, "tf32": 156.0, "fp32": 19.5},
    "A30": {"bf16": 165.0, "tf32": 82.0, "fp32": 10.3},
    "A40": {"bf16": 149.7, "tf32": 74.8, "fp32": 37.4},
    "A10": {"bf16": 125.0, "tf32": 62.5, "fp32": 31.2},
    "RTX A6000": {"bf16": 154.8, "tf32": 77.4, "fp32": 38.7},
    # L4 and L40S: Ada datasheets; GeForce: the architectures' white papers, with float32 accumulation
    "L4": {"bf16": 121.0, "tf32": 60.0, "fp32": 30.3},
    "L40S": {"bf16": 362.0, "tf32": 183.0, "fp32": 91.6},
    "RTX 4090": {"bf16": 165.2, "tf32": 82.6, "fp32": 82.6},
    "RTX 3090": {"bf16": 71.0, "tf32": 35.6, "fp32": 35.6},
    # B200: datasheet of HGX B200
    "B200": {"bf16": 2250.0, "tf32": 1100.0, "fp32": 75.0},
}
"""Words in a device's name (the longest match wins) -> precision -> dense TFLOP/s."""


def known_peak(device: str, precision: str = "bf16") -> float | None:
    """Peak dense TFLOP/s of a device by name; None if it is not in the table or is a MIG slice."""
    words = device.replace("-", " ").split()
    if "MIG" in words:
        return None
    matches = [name for name in PEAK_TFLOPS if _contains_words(name.split(), words)]
    return PEAK_TFLOPS[max(matches, key=len)].get(precision) if matches else None


def _contains_words(name: list[str], words: list[str]) -> bool:
    """Whether `name` is a run of consecutive words."""
    return any(words[i : i + len(name)] == name for i in range(len(words)))


def accelerator_name(device: torch.device) -> str:
    """Name of the GPU, or "CPU"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def mfu(throughput: float, flops: float, peak: float) -> float:
    """Fraction of `peak` (TFLOP/s) that is used at `throughput` images per second of `flops` each."""
    return throughput * flops / (peak * 1e12)


@torch.no_grad()
def measure_peak(device: torch.device, precision: str = "bf16", size: int = 0, rounds: int = 10) -> float:
    """Measure the TFLOP/s of a square matrix product, the best of `rounds`; for devices without a table entry.

    `size` is the edge length; 0 selects 8192 on a GPU and 2048 on a CPU.
    """
    size = size or (8192 if device.type == "cuda" else 2048)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" and device.type == "cuda" else "highest")
    try:
        seconds = [_time_matmul(a, b, device) for _ in range(rounds + 1)][1:]
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * size**3 / min(seconds) / 1e12


def _time_matmul(a: torch.Tensor, b: torch.Tensor, device: torch.device) -> float:
    """Seconds of one matrix product."""
    began = time.perf_counter()
    a @ b
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
