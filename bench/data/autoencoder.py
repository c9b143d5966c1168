"""Decode samples to pixels and encode images to latents, with diffusers' AutoencoderKL or VQModel.

B images, H W image size, h w latent size, C latent channels, M moments.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.config.schema import Precision
from bench.storage.tensor_files import tensors_sha256

Decoder = Callable[[Tensor], Tensor]
Encoder = Callable[[np.ndarray], np.ndarray]
MAX_DECODED_PIXELS = 2**21
"""Pixels decoded at a time, 32 images of 256 x 256.  A whole batch of samples would not fit into GPU memory."""


def to_uint8(x_BCHW: Tensor) -> np.ndarray:
    """Convert (B, C, H, W) floats in [-1, 1] to uint8; values outside are clipped."""
    return ((x_BCHW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def load_autoencoder(folder: str, expected: str = "") -> Any:
    """Load diffusers' AutoencoderKL or VQModel from a local folder; ValueError if it is missing or the wrong one.

    `expected`, unless empty, is the SHA-256 (`hash_autoencoder`) that the autoencoder must have.
    """
    if not folder or not (Path(folder) / "config.json").is_file():
        raise ValueError(
            f"latents need an autoencoder, and evaluation.decoder is {folder or 'not set'}; pass --set "
            "evaluation.decoder=PATH, a folder of diffusers' AutoencoderKL or, for LDM, VQModel (config.json, weights)"
        )
    vae = read_autoencoder(folder)
    if expected and hash_autoencoder(folder, vae) != expected:
        raise ValueError(
            f"{folder} does not hold the autoencoder that encoded these latents or that this run started with; "
            "restore it, or name its folder with --set evaluation.decoder=PATH"
        )
    return vae


def read_autoencoder(folder: str) -> Any:
    """Read the autoencoder of a folder; ValueError if it cannot be read."""
    from diffusers import AutoencoderKL, VQModel

    try:
        class_name = json.loads((Path(folder) / "config.json").read_text()).get("_class_name")
        cls = VQModel if class_name == "VQModel" else AutoencoderKL
        return cls.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False).eval().requires_grad_(False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder} cannot be read as an AutoencoderKL: {str(error).splitlines()[0]}") from error


def hash_autoencoder(folder: str, vae: Any) -> str:
    """Return the SHA-256 of an autoencoder's configuration and tensors, independent of their file format."""
    config = json.loads((Path(folder) / "config.json").read_text())
    settings = {k: v for k, v in config.items() if k == "_class_name" or not k.startswith("_")}  # no versions or paths
    return tensors_sha256(vae.state_dict(), prefix=json.dumps(settings, sort_keys=True).encode())


def is_vq(vae: Any) -> bool:
    """Return whether an autoencoder is LDM's VQModel, which has no posterior."""
    return type(vae).__name__ == "VQModel"


def latent_scaling(vae: Any) -> tuple[float, float]:
    """Return (factor, shift): a network's input is (latent - shift) * factor.  LDM's VQModel latents are not scaled."""
    if is_vq(vae):
        return 1.0, 0.0
    return float(vae.config.scaling_factor), float(vae.config.get("shift_factor") or 0.0)


def make_decoder(latent: bool, folder: str, device: torch.device, expected: str = "") -> Decoder:
    """Return a function from samples, (B, C, h, w), to pixels in [-1, 1], (B, 3, H, W); the identity unless `latent`.

    `expected` is that of `load_autoencoder`.
    """
    if not latent:
        return lambda x_BCHW: x_BCHW
    vae = load_autoencoder(folder, expected).to(device)
    factor, shift = latent_scaling(vae)
    downsampling = downsampling_of(vae)

    def decode(z_BChw: Tensor) -> Tensor:
        pixels_per_image = z_BChw.shape[-2] * z_BChw.shape[-1] * downsampling**2
        batch = max(1, MAX_DECODED_PIXELS // pixels_per_image)
        return torch.cat([vae.decode(z / factor + shift).sample for z in z_BChw.split(batch)])

    return decode


def downsampling_of(vae: Any) -> int:
    """Return the downsampling factor: image edge length over latent edge length."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def latent_shape(vae: Any, resolution: int) -> tuple[int, int, int]:
    """Return (C, h, w) of an image's latent; ValueError if the downsampling factor does not divide the resolution."""
    downsampling = downsampling_of(vae)
    if resolution % downsampling:
        raise ValueError(f"images have {resolution} pixels; this autoencoder needs a multiple of {downsampling}")
    channels = (vae.config.vq_embed_dim if is_vq(vae) else None) or vae.config.latent_channels
    return int(channels), resolution // downsampling, resolution // downsampling


def make_encoder(vae: Any, device: torch.device, precision: Precision) -> Encoder:
    """Return a function from images, (B, 3, H, W) uint8, to unscaled posterior moments, (B, M, C, h, w) float16.

    The moments are mean and standard deviation.  A VQModel has one: the encoder's output before quantization.
    The function raises ValueError if a latent is not finite in float16.
    """
    vae = vae.to(device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"

    @torch.inference_mode()
    def encode(images_BCHW: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.ascontiguousarray(images_BCHW)).to(device).float() / 127.5 - 1
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            encoded = vae.encode(x)
        moments = [encoded.latents] if is_vq(vae) else [encoded.latent_dist.mean, encoded.latent_dist.std]
        half = torch.stack([m.float() for m in moments], 1).half()
        if not torch.isfinite(half).all():
            raise ValueError("the latents of this autoencoder are not finite in float16; is it damaged?")
        return half.cpu().numpy()

    return encode
