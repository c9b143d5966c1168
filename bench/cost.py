"""What a network costs: parameters, multiply-accumulates, FLOPs and memory, counted without computing.

    python -m bench.cost                 our count beside every published one
    python -m bench.cost dit_xl adm      the rows whose names hold one of these words

The papers' "Gflops" are multiply-accumulates (MACs): matrix products and convolutions of one image,
one multiply and one add counted as one.  FLOPs are twice that; a training step costs three forward
passes (one forward, two backward); guidance doubles the evaluations of a sampling step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import architectures
from architectures import Conditions, IOSpec, TextCondition
from architectures.classifier import SIZES, NoisyClassifier
from bench import published
from bench.config.schema import RunConfig
from bench.storage.atomic import atomic
from bench.terminal.cli import Parser

BYTES_PER_PARAMETER = 20
"""float32 weights, gradients, two AdamW moments and the average."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Counted cost of one network."""

    params: int
    """Trainable parameters."""
    macs: int
    """Multiply-accumulates of one forward pass on one image."""

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def training_flops(self) -> int:
        """FLOPs to train on one image."""
        return 3 * self.flops

    def by(self, what: str) -> int:
        return self.params if what == "params" else self.macs


def meta_network(arch: str, size: str | None, io: IOSpec, args: Mapping[str, Any]) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return architectures.build(arch, size, io=io, args=dict(args)).eval()


def meta_inputs(io: IOSpec) -> tuple[Tensor, Tensor, Any]:
    """x, t and conditions of the right shapes for one image, without memory.

    A text of open length has one token, as LDM's class condition does.
    """
    with torch.device("meta"):
        x, t = torch.empty(1, io.channels, io.size, io.size), torch.zeros(1)
        label = torch.zeros(1, dtype=torch.long) if io.num_classes else None
        if not (io.text_dim or io.image_channels):
            return x, t, label
        text = TextCondition(tokens=torch.empty(1, io.text_tokens or 1, io.text_dim)) if io.text_dim else None
        image = torch.empty(1, io.image_channels, io.size, io.size) if io.image_channels else None
        return x, t, Conditions(label=label, text=text, image=image)


class ShapesOnly(TorchFunctionMode):
    """Leaves out what changes no shape and has no MACs; on the meta device these are half of the time."""

    LEFT_OUT = frozenset((F.group_norm, F.layer_norm, F.silu, F.gelu, torch.group_norm, torch.layer_norm))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.LEFT_OUT and args:
            return args[0]
        return func(*args, **(kwargs or {}))


def count(arch: str, size: str | None, io: IOSpec, args: Mapping[str, Any] | None = None) -> Cost:
    """Cost of a network, counted by torch's FlopCounterMode on the meta device."""
    return count_module(meta_network(arch, size, io, args or {}), meta_inputs(io))


def count_module(net: nn.Module, inputs: Sequence[Any]) -> Cost:
    """Cost of a network on the meta device; `inputs` are those of one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter, ShapesOnly():
        net(*inputs)
    params = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return Cost(params=params, macs=counter.get_total_flops() // 2)


def activation_bytes(arch: str, size: str | None, io: IOSpec, args: Mapping[str, Any] | None = None) -> int:
    """float32 bytes that autograd keeps for one image's backward pass, without checkpointing.

    Counted on the meta device from the saved tensors, parameters left out, each storage once.
    """
    net = meta_network(arch, size, io, args or {})
    own = {p.untyped_storage()._cdata for p in net.parameters()}
    seen: dict[int, int] = {}
    held: list[Tensor] = []  # keeps storages alive, so that none is counted under another's address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        net(*meta_inputs(io))
    return sum(seen.values())


def of(config: RunConfig, io: IOSpec) -> Cost:
    """Cost of a run's network."""
    return count(config.model.arch, config.model.size or None, io, config.model.network)


def summary(config: RunConfig, cost: Cost) -> dict[str, Any]:
    """The record's cost columns that follow from the configuration alone."""
    e = config.evaluation
    return {
        "params": cost.params,
        "macs": cost.macs,
        "flops": cost.flops,
        "training_flops": cost.training_flops * config.budget.images or None,
        "guidance_multiplier": 1 if e.guidance == 1 else 2,
        "sampling_flops_per_image": cost.flops * e.forward_passes,
    }


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A published network's cost as counted here, and what it was said to be."""

    row: published.Row
    cost: Cost | None
    """None where the publication does not say enough to build the network."""
    guidance: int | None
    """Network evaluations of one classifier-free guided step: 2 with a null condition, or else 1."""

    def verdict(self) -> str:
        """What agrees and what does not.

        "exact": parameters equal to the official definition's, MACs within 0.1 % of it.  "as printed":
        there is only a printed number, and ours is within half of its last digit or 0.1 %.  A printed
        number that disagrees is named.
        """
        if self.cost is None:
            return f"not counted: {published.NOT_PUBLISHED[self.row.id]}"
        row, params, macs = self.row, self.cost.params, self.cost.macs
        wrong = []
        if row.params_official is not None and params != row.params_official:
            wrong.append(f"official parameters {params - row.params_official:+,}")
        if row.gmacs_official is not None and abs(macs / 1e9 / row.gmacs_official - 1) > 1e-3:
            wrong.append(f"official MACs {macs / 1e9 / row.gmacs_official - 1:+.2%}")
        if wrong:
            return f"differs: {', '.join(wrong)}"
        pairs = (("M", row.params_printed, params / 1e6), ("G", row.gflops_printed, macs / 1e9))
        off = [
            f"printed {printed} {unit} {value / float(printed) - 1:+.2%}"
            for unit, printed, value in pairs
            if printed and not published.agrees(value, printed, row)
        ]
        known = "exact" if row.params_official is not None else "differs" if off else "as printed"
        return "; ".join([known, *off])


def compare(row: published.Row) -> Compared:
    """Count a published network, or the networks of a cascade."""
    names = published.CASCADES.get(row.id, (row.id,))
    networks = [published.NETWORKS[name] for name in names if name in published.NETWORKS]
    if not networks:
        return Compared(row=row, cost=None, guidance=None)
    costs = [_count_published(network) for network in networks]
    whole = Cost(params=sum(c.params for c in costs), macs=sum(c.macs for c in costs))
    free = all((n.io.null_label and n.io.num_classes) or n.io.text_dim for n in networks)
    return Compared(row=row, cost=whole, guidance=2 if free else 1)


def _count_published(network: published.Network) -> Cost:
    if network.arch != published.CLASSIFIER:
        return count(network.arch, network.size or None, network.io, network.args)
    with torch.device("meta"):
        return count_module(NoisyClassifier(**SIZES[network.io.size]).eval(), meta_inputs(network.io)[:2])


def as_json(found: Compared) -> dict[str, Any]:
    """Every number of a row, unrounded; None where there is none."""
    row, cost = found.row, found.cost
    return {
        "row": row.id,
        "paper": row.paper,
        "model": row.model,
        "resolution": row.resolution,
        "params": cost and cost.params,
        "params_official": row.params_official,
        "params_printed_millions": float(row.params_printed) if row.params_printed else None,
        "macs": cost and cost.macs,
        "gmacs_official": row.gmacs_official,
        "gflops_printed": float(row.gflops_printed) if row.gflops_printed else None,
        "flops": cost and cost.flops,
        "training_flops": cost and cost.training_flops,
        "guidance_multiplier": found.guidance,
        "verdict": found.verdict(),
        "source": row.source,
    }


def as_csv(found: Sequence[Compared]) -> str:
    """What bench.tables reads, so that it needs no torch: the counts of each network that can be built."""
    lines = [f"{f.row.id},{f.cost.params},{f.cost.macs}" for f in found if f.cost]
    return "\n".join(["model_id,params,macs", *lines, ""])


def as_row(found: Compared) -> dict[str, Any]:
    """A line of the table; differences are to the official definition where there is one."""
    row, cost = found.row, found.cost
    gmacs = cost.macs / 1e9 if cost else None
    params = row.params_official or (float(row.params_printed) * 1e6 if row.params_printed else None)
    theirs = row.gmacs_official or (float(row.gflops_printed) if row.gflops_printed else None)
    return {
        "network": row.id,
        "params": f"{cost.params:,}" if cost else "",
        "official": f"{row.params_official:,}" if row.params_official else "",
        "printed (M)": row.params_printed,
        "difference": f"{cost.params / params - 1:+.2%}" if cost and params else "",
        "MACs (G)": f"{gmacs:.3f}" if gmacs else "",
        "official ": f"{row.gmacs_official:.3f}" if row.gmacs_official else "",
        "printed (G)": row.gflops_printed,
        "difference ": f"{gmacs / theirs - 1:+.2%}" if gmacs and theirs else "",
        "FLOPs (G)": f"{cost.flops / 1e9:.2f}" if cost else "",
        "training FLOPs (G)": f"{cost.training_flops / 1e9:.1f}" if cost else "",
        "guided": f"x {found.guidance}" if found.guidance else "",
        "verdict": found.verdict(),
    }


def chosen(words: Sequence[str]) -> list[published.Row]:
    """The published networks whose names hold one of the words; all without words."""
    rows, words = published.models(), [word.lower() for word in words]
    for word in words:
        if not any(word in row.id for row in rows):
            near = architectures.registry.did_you_mean(word, [row.id for row in rows])
            raise ValueError(f"no published network is called {word!r}; {near}")
    return [row for row in rows if not words or any(word in row.id for word in words)]


def main(argv: list[str] | None = None) -> int:
    """Print the table; status 1 when a count differs from the official definition's."""
    parser = Parser(
        prog="python -m bench.cost",
        description="Cost of the published networks, as counted here and as published.",
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="only networks whose names hold one of these words")
    parser.add_argument("--json", action="store_true", help="unrounded numbers for scripts")
    parser.add_argument("--write", action="store_true", help="write all counts to results/counts.csv, for bench.tables")
    flags = parser.parse_args(argv)
    try:
        rows = chosen([] if flags.write else flags.words)
    except ValueError as error:
        print(f"bench.cost: {error}", file=sys.stderr)
        return 2
    found = []
    for i, row in enumerate(rows):
        if sys.stderr.isatty():
            print(f"\r{i + 1}/{len(rows)} {row.id:<24}", end="", file=sys.stderr, flush=True)
        found.append(compare(row))
    if sys.stderr.isatty():
        print(f"\r{'':<40}\r", end="", file=sys.stderr)
    if flags.write:
        with atomic(published.COUNTS) as partial:
            partial.write_text(as_csv(found))
    elif flags.json:
        print(json.dumps([as_json(f) for f in found], indent=2))
    else:
        print(tabulate([as_row(f) for f in found], headers="keys", disable_numparse=True, colalign=COLUMNS))
        print(f"\n{LEGEND}")
    return int(any(f.verdict().startswith("differs: official") for f in found))


COLUMNS = ("left", *["right"] * 11, "left")
LEGEND = """\
params: trainable parameters.  MACs: multiply-accumulates of one image's forward pass, what papers print as Gflops.
FLOPs: twice that.  training FLOPs: three forward passes, of one image.  guided: evaluations of one step with
classifier-free guidance.  official: counted on the authors' definition of the network.  Autoencoders, text encoders and
classifiers are not in the cost of a denoiser.  Sources: results/published/."""

if __name__ == "__main__":
    sys.exit(main())
