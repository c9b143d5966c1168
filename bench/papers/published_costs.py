"""Compare our counts of parameters and MACs with the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from architectures.classifier import SIZES, NoisyClassifier
from architectures.suggestions import did_you_mean
from bench.costs.counting import NetworkCost, count_cost, count_module, meta_inputs
from bench.papers import published_networks


@dataclass(frozen=True, kw_only=True)
class CostComparison:
    """A published network's cost as counted here, and what it was said to be."""

    row: published_networks.PublishedNetwork
    cost: NetworkCost | None
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
            return f"not counted: {published_networks.NOT_PUBLISHED[self.row.id]}"
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
            if printed and not published_networks.matches_printed(value, printed, row)
        ]
        known = "exact" if row.params_official is not None else "differs" if off else "as printed"
        return "; ".join([known, *off])


def compare_cost(row: published_networks.PublishedNetwork) -> CostComparison:
    """Count a published network, or the networks of a cascade."""
    names = published_networks.CASCADES.get(row.id, (row.id,))
    networks = [published_networks.NETWORKS[name] for name in names if name in published_networks.NETWORKS]
    if not networks:
        return CostComparison(row=row, cost=None, guidance=None)
    costs = [_count_published(network) for network in networks]
    whole = NetworkCost(params=sum(c.params for c in costs), macs=sum(c.macs for c in costs))
    free = all((n.io.null_label and n.io.num_classes) or n.io.text_dim for n in networks)
    return CostComparison(row=row, cost=whole, guidance=2 if free else 1)


def _count_published(network: published_networks.NetworkDefinition) -> NetworkCost:
    if network.arch != published_networks.CLASSIFIER:
        return count_cost(network.arch, network.size or None, network.io, network.args)
    with torch.device("meta"):
        return count_module(NoisyClassifier(**SIZES[network.io.size]).eval(), meta_inputs(network.io)[:2])


def comparison_to_dict(found: CostComparison) -> dict[str, Any]:
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


def format_counts_csv(found: Sequence[CostComparison]) -> str:
    """What bench.tables reads, so that it needs no torch: the counts of each network that can be built."""
    lines = [f"{f.row.id},{f.cost.params},{f.cost.macs}" for f in found if f.cost]
    return "\n".join(["model_id,params,macs", *lines, ""])


def comparison_row(found: CostComparison) -> dict[str, Any]:
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


def search_networks(words: Sequence[str]) -> list[published_networks.PublishedNetwork]:
    """The published networks whose names hold one of the words; all without words."""
    rows, words = published_networks.read_networks(), [word.lower() for word in words]
    for word in words:
        if not any(word in row.id for row in rows):
            near = did_you_mean(word, [row.id for row in rows])
            raise ValueError(f"no published network is called {word!r}; {near}")
    return [row for row in rows if not words or any(word in row.id for word in words)]


LEGEND = """\
params: trainable parameters.  MACs: multiply-accumulates of one image's forward pass, what papers print as Gflops.
FLOPs: twice that.  training FLOPs: three forward passes, of one image.  guided: evaluations of one step with
classifier-free guidance.  official: counted on the authors' definition of the network.  Autoencoders, text encoders and
classifiers are not in the cost of a denoiser.  Sources: results/published/."""
