"""Safetensors files with a checksum, written atomically, and the layout of training checkpoints.

Keys of a checkpoint are model.*, ema.* and optimizer.INDEX.*; the metadata holds the rest of the training state.
No random state is stored: every random draw is a function of (seed, step), and the trainer seeds torch's generators
at each step.  The position in the data is the number of images.  Tensors are stored whole, not sharded, so that a run
can continue with another number of processes.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.storage.atomic import atomic_write

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def tensors_crc32(tensors: Mapping[str, Tensor]) -> str:
    """Return the CRC-32 of names, shapes, dtypes and bytes, in order of name, as eight hexadecimal digits."""
    crc = 0
    for chunk in _hashed_bytes(tensors):
        crc = zlib.crc32(chunk, crc)
    return f"{crc:08x}"


def tensors_sha256(tensors: Mapping[str, Tensor], *, prefix: bytes = b"", dtypes: bool = True) -> str:
    """Return the SHA-256 of `prefix`, then names, shapes, dtypes (optional) and bytes, in order of name."""
    digest = hashlib.sha256(prefix)
    for chunk in _hashed_bytes(tensors, dtypes=dtypes):
        digest.update(chunk)
    return digest.hexdigest()


def _hashed_bytes(tensors: Mapping[str, Tensor], *, dtypes: bool = True) -> Iterator[bytes | memoryview]:
    """Yield header and data of each tensor.  Committed records hold digests of these bytes: do not change them."""
    for name in sorted(tensors):
        t = tensors[name].detach().contiguous()
        yield f"{name} {tuple(t.shape)}{f' {t.dtype}' if dtypes else ''}".encode()
        yield t.cpu().reshape(-1).view(torch.uint8).numpy().data


def save_tensors(path: Path, tensors: Mapping[str, Tensor], **metadata: Any) -> None:
    """Write tensors and metadata (JSON) atomically, with a CRC-32 of the tensors."""
    on_cpu = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    header = {"metadata": json.dumps(metadata), "checksum": tensors_crc32(on_cpu)}
    with atomic_write(path) as partial:
        save_file(on_cpu, partial, metadata=header)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors, metadata).  ValueError if the file is truncated or does not match its checksum."""
    try:
        with safe_open(path, framework="pt") as f:
            header = f.metadata() or {}
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); it is damaged or not a safetensors file") from error
    if "checksum" not in header or tensors_crc32(tensors) != header["checksum"]:
        raise ValueError(f"{path} does not match its checksum; it is damaged or was not written by bench")
    return tensors, json.loads(header["metadata"])


def select_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Select the entries with a key prefix, and remove the prefix from their keys."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def training_tensors(net: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Collect the tensors that a training step changes: parameters and buffers, EMA, optimizer state."""
    tensors = {f"model.{k}": v for k, v in net.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in ema.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
    return tensors


def restore_training_tensors(
    tensors: Mapping[str, Tensor], net: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Load training tensors into a network, its EMA and its optimizer, and shard them like the network."""
    for module, prefix in ((net, "model."), (ema, "ema.")):
        targets = module.state_dict()
        module.load_state_dict({k: shard_like(v, targets.get(k)) for k, v in select_prefix(tensors, prefix).items()})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in select_prefix(tensors, "optimizer.").items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = shard_like(value, parameters[int(index)])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor, without importing that class, which takes half a second."""
    return hasattr(tensor, "full_tensor")


def shard_like(whole: Tensor, target: Tensor | None) -> Tensor:
    """Return a whole tensor in the layout of `target`: a DTensor if the target is one.

    Strides follow the target too, since the fused optimizer requires its moments to have the strides of the parameters.
    """
    if target is None or whole.shape != target.shape:
        return whole
    if not is_sharded(target):
        same_strides = whole.stride() == target.stride()
        return whole if same_strides else torch.empty_like(target, dtype=whole.dtype, device=whole.device).copy_(whole)
    from torch.distributed.tensor import distribute_tensor

    moved = whole.to(target.device)
    return distribute_tensor(moved, target.device_mesh, target.placements, src_data_rank=None)


def load_newest_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
    """Return (tensors, metadata, warnings) of the newest undamaged checkpoint; None if there is no checkpoint.

    Each damaged checkpoint adds a warning.  ValueError if all are damaged.
    """
    warnings: list[str] = []
    for path in sorted(folder.glob("*.safetensors"), reverse=True):
        try:
            tensors, metadata = load_tensors(path)
        except ValueError as error:
            warnings.append(str(error))
        else:
            return tensors, metadata, warnings
    if warnings:
        raise ValueError(f"no checkpoint can be resumed: {warnings[0]}; start over with --fresh")
    return None


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for path in sorted(folder.glob("*.safetensors"), reverse=True)[keep:]:
        path.unlink(missing_ok=True)
