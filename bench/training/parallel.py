"""Data parallelism: DDP replicates the network on each rank, FSDP2 shards its parameters over the ranks.

Each rank computes the gradient of its part of the loss, and the ranks average the gradients.  Checkpoints hold
whole tensors, so they do not depend on the number of ranks.  FSDP2 is imported only when it is used, because its
import takes half a second.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.storage.tensor_files import is_sharded
from bench.training.distributed import World

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule


def shard_fsdp(net: nn.Module, world: World, device: torch.device) -> None:
    """Shard the parameters over the ranks in place, block by block (FSDP2)."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    mesh = DeviceMesh(device.type, torch.arange(world.size))
    for block in transformer_blocks(net):
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)


def _is_fsdp(net: nn.Module) -> TypeGuard[FSDPModule]:
    return hasattr(net, "set_requires_gradient_sync")


def transformer_blocks(net: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers in the ModuleLists of a network, nested lists included."""
    for child in net.children():
        if type(child) is nn.ModuleList:
            yield from transformer_blocks(child)
        elif type(net) is nn.ModuleList and any(True for _ in child.parameters()):
            yield child


def replicate_ddp(net: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Wrap the network in DDP; the ranks must hold the same weights, which `require_same_start` has checked."""
    ids = [device.index] if device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)  # its replacement needs a newer torch
        return DistributedDataParallel(
            net, device_ids=ids, init_sync=False, broadcast_buffers=False, gradient_as_bucket_view=True
        )


@contextmanager
def accumulating_gradients(call: nn.Module, last: bool) -> Iterator[None]:
    """Average the gradients of this forward and backward pass over the ranks only if it is the last of the step."""
    if _is_fsdp(call):
        call.set_requires_gradient_sync(last)
        yield
    elif isinstance(call, DistributedDataParallel) and not last:
        with call.no_sync():
            yield
    else:
        yield


def rank_slice(size: int, world: World) -> slice:
    """Rows of a batch that belong to this rank; shares differ by at most one row, and may be empty."""
    return slice(size * world.rank // world.size, size * (world.rank + 1) // world.size)


def accumulation_steps(size: int, micro_batch: int, world: World) -> int:
    """Number of forward and backward passes per step; the same on all ranks."""
    largest = -(-size // world.size)
    return -(-largest // micro_batch) if micro_batch else 1


def local_tensor(tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor, or the whole tensor if it is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def gather_tensors(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """Gather whole tensors one at a time on the CPU of rank 0; other ranks get {}.  A collective call."""
    gathered = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if is_sharded(tensor) else tensor
        if world.first:
            gathered[name] = whole.detach().cpu()
    return gathered


@torch.no_grad()
def all_finite(tensors: Mapping[str, Tensor], world: World) -> bool:
    """Whether the tensors are free of NaN and infinity on every rank; a collective call."""
    shards = [local_tensor(t).detach() for t in tensors.values() if t.is_floating_point()]
    norms = torch._foreach_norm([t for t in shards if t.numel()], float("inf"))
    not_finite = not bool(torch.isfinite(torch.stack(norms)).all())
    return not world.agree(not_finite)[0]
