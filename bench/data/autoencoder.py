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
"""Pixels decoded at a time, 32 images of 256 x 256: a whole batch of samples would not fit into a GPU's memory."""


def to_uint8(x_BCHW: Tensor) -> np.ndarray:
    """Convert (B, C, H, W) floats in [-1, 1] to uint8; values outside are clipped."""
    return ((x_BCHW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def load_autoencoder(folder: str, expected: str = "") -> Any:
    """Load diffusers' AutoencoderKL or VQModel from a local folder; ValueError says what is missing.

    `expected`, unless empty, is the SHA-256 (`hash_autoencoder`) that the autoencoder must have.
    """
    if not folder or not (Path(folder) / "config.json").is_file():
        raise ValueError(
            f"latents need an autoencoder, and evaluation.decoder is {folder or 'not set'}: name a folder with "
            "diffusers' AutoencoderKL (config.json and its weights; VQModel for LDM) with --set evaluation.decoder=PATH"
        )
    vae = read_autoencoder(folder)
    if expected and hash_autoencoder(folder, vae) != expected:
        raise ValueError(
            f"{folder} holds another autoencoder than the one that these latents, or this run, began with; "
            "put that one back, or name it with --set evaluation.decoder=PATH"
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
    """Return the SHA-256 of an autoencoder's configuration and tensors; the format of their files does not matter."""
    config = json.loads((Path(folder) / "config.json").read_text())
    settings = {k: v for k, v in config.items() if k == "_class_name" or not k.startswith("_")}  # no versions or paths
    return tensors_sha256(vae.state_dict(), prefix=json.dumps(settings, sort_keys=True).encode())


def is_vq(vae: Any) -> bool:
    return type(vae).__name__ == "VQModel"


def latent_scaling(vae: Any) -> tuple[float, float]:
    """Return (factor, shift): networks see (latent - shift) * factor.  Latents of a VQModel (LDM) are not scaled."""
    if is_vq(vae):
        return 1.0, 0.0
    return float(vae.config.scaling_factor), float(vae.config.get("shift_factor") or 0.0)


def make_decoder(latent: bool, folder: str, device: torch.device, expected: str = "") -> Decoder:
    """Return the map from samples to pixels in [-1, 1]; `expected` as for `load_autoencoder`."""
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
    """Return the ratio of the edge lengths of image and latent."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def latent_shape(vae: Any, resolution: int) -> tuple[int, int, int]:
    """Return (C, h, w) of an image's latent; ValueError for a resolution that the autoencoder would crop."""
    downsampling = downsampling_of(vae)
    if resolution % downsampling:
        raise ValueError(
            f"images have {resolution} pixels, which this autoencoder needs to be a multiple of {downsampling}"
        )
    channels = (vae.config.vq_embed_dim if is_vq(vae) else None) or vae.config.latent_channels
    return int(channels), resolution // downsampling, resolution // downsampling


def make_encoder(vae: Any, device: torch.device, precision: Precision) -> Encoder:
    """Return the map from images (B, 3, H, W) uint8 to the posterior's moments (B, M, C, h, w) float16, not scaled.

    The moments are mean and standard deviation; a VQModel has the encoder's output alone, before quantization.
    The map raises ValueError for latents that are not finite in float16.
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
            raise ValueError("this autoencoder gives latents that are not finite in 16 bits; is it damaged?")
        return half.cpu().numpy()

    return encode
