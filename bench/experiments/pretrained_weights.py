"""Read published checkpoint files and detect the network inside, without running code from them.

.pt, .pth, .ckpt and .bin files through torch's weights-only reader, .safetensors files, diffusers
folders, and the snapshots of our own runs.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

import architectures
from architectures import NetSpec, registry
from architectures.official import check_finite, check_layout, shapes_of
from bench.config.schema import DiffusionConfig
from bench.storage import tensor_files
from bench.storage.tensor_files import tensors_sha256

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
FAMILIES = {
    # family -> (its architecture, a key that only it has)
    "dit": ("dit", "x_embedder.proj.weight"),
    "uvit_t2i": ("uvit", "context_embed.weight"),
    "uvit": ("uvit", "patch_embed.proj.weight"),
    "ldm": ("unet", "transformer_blocks"),
    "adm": ("unet", "input_blocks.0.0.weight"),
}
WEIGHT_KEYS = ("ema", "state_dict", "model")
"""Where training checkpoints keep the weights; the average first."""


@dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """A checkpoint file's network, weights hash and process."""

    net: nn.Module
    """In eval mode; `net.spec` says what it is."""
    family: str
    """dit, uvit, uvit_t2i, adm or ldm; "bench" for our own snapshots."""
    sha256: str
    """Of the weights alone, by name, whatever the file's format."""
    diffusion: DiffusionConfig | None = None
    """The process it was trained with, where the file says so (our own snapshots)."""

    @property
    def spec(self) -> NetSpec:
        spec: NetSpec = self.net.spec  # type: ignore[assignment]
        return spec

    def size(self) -> str:
        """The registered size that is the same network; "" where there is none."""
        spec, description = self.spec, _described(self.net)
        for name in registry.sizes(spec.arch) if spec.arch in registry.names() else []:
            try:
                with torch.device("meta"):
                    twin = architectures.build(spec.arch, name, io=spec.io).eval()
            except ValueError:
                continue  # a patch or a level that does not divide these images
            if _described(twin) == description:
                return name
        return ""


def _described(net: nn.Module) -> list[Any]:
    """A network's modules, and what they were told that their printed form does not show."""
    shown = [
        {name: value for name, value in vars(module).items() if isinstance(value, bool | int | float | str)}
        for module in net.modules()
    ]
    return [str(net), *shown]


def write_snapshot(checkpoint: LoadedCheckpoint, target: Path) -> None:
    """Write the weights as a snapshot that sampling reads; nothing is left where that is interrupted."""
    tensor_files.save_tensors(target, checkpoint.net.state_dict(), spec=checkpoint.spec.to_dict(), images=0)


def read_checkpoint(path: Path, arch: str = "", ctor: Mapping[str, Any] | None = None) -> LoadedCheckpoint:
    """The network in a file or folder; nothing is built from a file that is not whole and right.

    `arch` (dit, uvit, unet) says what it must hold; `ctor` are arguments of the published constructor
    that keys and shapes do not show (architectures.from_official).  Raises ValueError for what cannot
    be read without unpickling, is truncated, or does not fit, with the first keys that are wrong.
    """
    kind = _kind(path)
    if kind == "folder":
        return _diffusers(path)
    if path.suffix == ".safetensors":
        tensors, metadata = _safetensors(path)
        if "spec" in metadata:
            return _own(path, metadata, arch)
    elif path.suffix in TORCH_SUFFIXES:
        tensors = _torch(path)
    else:
        endings = ", ".join((*TORCH_SUFFIXES, ".safetensors"))
        raise ValueError(
            f"{path} has the ending {path.suffix or '(none)'}; checkpoints end in {endings}, or are folders"
        )
    tensors = _weights(tensors)
    family = detect_family(path, tensors, arch)
    try:
        net = architectures.from_official(family, tensors, **dict(ctor or {}))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return LoadedCheckpoint(net=_solid(path, net), family=family, sha256=tensors_sha256(net.state_dict()))


def _kind(path: Path) -> str:
    """ "file" or "folder"; ValueError for what is neither or cannot be read."""
    try:
        if path.is_dir():
            return "folder"
        with path.open("rb"):
            return "file"
    except FileNotFoundError:
        raise ValueError(f"{path} is no file and no folder; name a checkpoint") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error.strerror}") from None


def _solid(path: Path, net: nn.Module) -> nn.Module:
    """The network; ValueError where its weights are names without values."""
    empty = next((name for name, value in net.state_dict().items() if value.is_meta), None)
    if empty:
        raise ValueError(f"{path} holds names and shapes but no values ({empty} is on the meta device)")
    return net


def detect_family(path: Path, tensors: Mapping[str, Any], arch: str = "") -> str:
    """The family whose telltale key is there, among those of an architecture; ValueError if it is none's."""
    if arch and arch not in {a for a, _ in FAMILIES.values()}:
        raise ValueError(f"{arch} has no published checkpoints; leave --arch out, or name dit, uvit or unet")
    for family, (family_arch, telltale) in FAMILIES.items():
        if arch in ("", family_arch) and any(telltale in key for key in tensors):
            return family
    if arch:
        return next(family for family, (family_arch, _) in reversed(FAMILIES.items()) if family_arch == arch)
    first = ", ".join(list(tensors)[:3]) or "none"
    raise ValueError(f"{path} holds no DiT, U-ViT, ADM or LDM network; its first keys are {first}")


def _torch(path: Path) -> Any:
    """What torch.save wrote, tensors and plain containers only; DiT's own argparse.Namespace is let through.

    The namespace's class sets attributes and runs nothing.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = str(error).split("GLOBAL ")[-1].split(" ")[0] if "GLOBAL " in str(error) else "more than tensors"
        raise ValueError(
            f"{path} needs unpickling ({what}), which can run any code, and is refused; save its state dict alone, "
            "with torch.save or as .safetensors"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} cannot be read; it is truncated or no file of torch.save") from error


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, and what our own files say of themselves."""
    try:
        with safe_open(path, framework="pt") as f:
            notes = json.loads((f.metadata() or {}).get("metadata", "{}"))
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
            return tensors, notes if isinstance(notes, dict) else {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read; it is truncated or no safetensors file") from error


def _own(path: Path, metadata: Mapping[str, Any], arch: str) -> LoadedCheckpoint:
    """The network of a snapshot of one of our runs.

    A class outside the registry is imported, which runs its module, only if `arch` names the same one.
    """
    tensors, _ = tensor_files.load_tensors(path)
    try:
        spec = NetSpec.from_dict(metadata["spec"])
        diffusion = DiffusionConfig(**metadata["diffusion"]) if metadata.get("diffusion") else None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is a snapshot of another version of this project: {error}") from None
    if arch and spec.arch != arch:
        raise ValueError(f"{path} is a snapshot of {spec.arch}, not of {arch}")
    if not arch and spec.arch not in registry.names():
        raise ValueError(f"{path} is a snapshot of {spec.arch}; to run that code, name it with --arch {spec.arch}")
    try:
        with torch.device("meta"):
            net = architectures.build(spec.arch, io=spec.io, args=dict(spec.args))
        check_layout(f"this {spec.arch}", shapes_of(net.state_dict()), shapes_of(tensors))
        check_finite(tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    net = architectures.build(spec.arch, io=spec.io, args=dict(spec.args))
    net.load_state_dict(tensors)
    return LoadedCheckpoint(
        net=net.eval(), family="bench", sha256=tensors_sha256(net.state_dict()), diffusion=diffusion
    )


def _weights(loaded: Any) -> dict[str, Any]:
    """The state dict inside a training checkpoint, the average where there is one, without DDP's prefix.

    ValueError where it is none.
    """
    while isinstance(loaded, Mapping):
        inner = next((loaded[p] for p in WEIGHT_KEYS if isinstance(loaded.get(p), Mapping) and loaded[p]), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping):
        raise ValueError(f"a checkpoint maps names to tensors; this one holds a {type(loaded).__name__}")
    strange = next((key for key in loaded if not isinstance(key, str)), None)
    if strange is not None:
        raise ValueError(f"a checkpoint maps names to tensors; this one has the key {strange!r}")
    for prefix in ("module.", "_orig_mod."):
        if loaded and all(key.startswith(prefix) for key in loaded):
            loaded = {key.removeprefix(prefix): value for key, value in loaded.items()}
    return _ldm_average(dict(loaded))


def _ldm_average(tensors: dict[str, Any]) -> dict[str, Any]:
    """LDM's U-Net with its moving average, which stands under the same names without their dots."""
    averages = {key.removeprefix("model_ema."): v for key, v in tensors.items() if key.startswith("model_ema.")}
    flat = {key: key.removeprefix("model.").replace(".", "") for key in tensors if key.startswith("model.")}
    return tensors | {key: averages[name] for key, name in flat.items() if name in averages}


def _diffusers(folder: Path) -> LoadedCheckpoint:
    """A DiTTransformer2DModel, or a whole DiT pipeline with one in its folder `transformer`."""
    folder = folder / "transformer" if (folder / "transformer").is_dir() else folder
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        raise ValueError(f"{folder} has no readable config.json, so it is no folder of a diffusers model") from None
    name = config.get("_class_name", "nothing") if isinstance(config, dict) else "no settings"
    if name not in ("DiTTransformer2DModel", "Transformer2DModel"):
        raise ValueError(f"{folder} holds {name}; of diffusers' models DiTTransformer2DModel can be read")
    files = [folder / f"diffusion_pytorch_model{ending}" for ending in (".safetensors", ".bin")]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise ValueError(f"{folder} has no {files[0].name} and no {files[1].name}")
    tensors = _safetensors(path)[0] if path.suffix == ".safetensors" else _torch(path)
    try:
        net = architectures.from_diffusers(tensors, config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return LoadedCheckpoint(net=_solid(path, net), family="dit", sha256=tensors_sha256(net.state_dict()))
