"""One network in several processes: DDP, where each holds it whole, and FSDP2, where they share it out.

Either way a process gives the gradient of its part of the loss, and the mean over processes is taken;
checkpoints are whole and do not tell how many processes wrote them.  FSDP2 and its tensors are imported where
they are used: they take half a second of every process's start.
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
    """Share out the parameters over the processes, block by block, in place (FSDP2)."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    mesh = DeviceMesh(device.type, torch.arange(world.size))
    for block in transformer_blocks(net):
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)


def _is_fsdp(net: nn.Module) -> TypeGuard[FSDPModule]:
    return hasattr(net, "set_requires_gradient_sync")


def transformer_blocks(net: nn.Module) -> Iterator[nn.Module]:
    """The layers in a network's lists of them, lists of lists included."""
    for child in net.children():
        if type(child) is nn.ModuleList:
            yield from transformer_blocks(child)
        elif type(net) is nn.ModuleList and any(True for _ in child.parameters()):
            yield child


def replicate_ddp(net: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The network behind a call that averages gradients; all processes hold the same weights (checked before)."""
    ids = [device.index] if device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)  # its heir is too new
        return DistributedDataParallel(
            net, device_ids=ids, init_sync=False, broadcast_buffers=False, gradient_as_bucket_view=True
        )


@contextmanager
def accumulating_gradients(call: nn.Module, last: bool) -> Iterator[None]:
    """Gradients of this forward and backward pass are only averaged over processes if it is the step's last."""
    if _is_fsdp(call):
        call.set_requires_gradient_sync(last)
        yield
    elif isinstance(call, DistributedDataParallel) and not last:
        with call.no_sync():
            yield
    else:
        yield


def rank_slice(size: int, world: World) -> slice:
    """The rows of a batch that are this process's; shares differ by at most one, and may be empty."""
    return slice(size * world.rank // world.size, size * (world.rank + 1) // world.size)


def accumulation_steps(size: int, micro_batch: int, world: World) -> int:
    """In how many passes every process takes its share of a batch: the same number for all."""
    largest = -(-size // world.size)
    return -(-largest // micro_batch) if micro_batch else 1


def local_tensor(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def gather_tensors(tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """Whole tensors on the CPU of process 0, one at a time; nothing elsewhere.  Every process must call it."""
    found = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if is_sharded(tensor) else tensor
        if world.first:
            found[name] = whole.detach().cpu()
    return found


@torch.no_grad()
def all_finite(tensors: Mapping[str, Tensor], world: World) -> bool:
    """Whether no process holds NaN or infinity in them."""
    held = [local_tensor(t).detach() for t in tensors.values() if t.is_floating_point()]
    norms = torch._foreach_norm([t for t in held if t.numel()], float("inf"))
    broken = not bool(torch.isfinite(torch.stack(norms)).all())
    return not world.agree(broken)[0]
