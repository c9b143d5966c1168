"""From what a network makes to images: pixels as they are, latents through an autoencoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Decoder = Callable[[Tensor], Tensor]


def to_uint8(x_BCHW: Tensor) -> np.ndarray:
    """(B, C, H, W) float in [-1, 1] to uint8, values outside clipped."""
    return ((x_BCHW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def load_autoencoder(folder: str) -> Any:
    """diffusers' AutoencoderKL or VQModel from a local folder; ValueError says what is missing."""
    if not folder or not (Path(folder) / "config.json").is_file():
        raise ValueError(
            f"latents need a decoder, and evaluation.decoder is {folder or 'not set'}: name a folder with diffusers' "
            "AutoencoderKL (config.json and its weights; VQModel for LDM) with --set evaluation.decoder=PATH"
        )
    from diffusers import AutoencoderKL, VQModel

    try:
        kind = json.loads((Path(folder) / "config.json").read_text()).get("_class_name")
        cls = VQModel if kind == "VQModel" else AutoencoderKL
        return cls.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder} cannot be read as an AutoencoderKL: {str(error).splitlines()[0]}") from error


def decoder(latent: bool, folder: str, device: torch.device) -> Decoder:
    """The map from samples to pixels in [-1, 1].

    AutoencoderKL's latents are divided by its scaling factor; a VQModel's (LDM) are not scaled.
    """
    if not latent:
        return lambda x_BCHW: x_BCHW
    vae = load_autoencoder(folder).to(device)
    scale = 1.0 if type(vae).__name__ == "VQModel" else float(vae.config.scaling_factor)

    def decode(z_BCHW: Tensor) -> Tensor:
        pixels: Tensor = vae.decode(z_BCHW / scale).sample
        return pixels

    return decode
