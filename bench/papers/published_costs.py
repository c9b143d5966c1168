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
    """Cost of a published network as counted here, beside the published one."""

    row: published_networks.PublishedNetwork
    cost: NetworkCost | None
    """None if the publication does not define the network completely."""
    guidance: int | None
    """Network evaluations of a step with classifier-free guidance: 2 with a null condition, otherwise 1."""

    def verdict(self) -> str:
        """Compare with the official definition, or else with the printed numbers.

        "exact": parameters equal the official definition's, and MACs are within 0.1 % of it.  "as printed": only
        numbers are printed, and ours are within half of their last digit or 0.1 %.  Printed numbers that disagree are
        listed.
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
        disagreements = [
            f"printed {printed} {unit} {value / float(printed) - 1:+.2%}"
            for unit, printed, value in pairs
            if printed and not published_networks.matches_printed(value, printed, row)
        ]
        known = "exact" if row.params_official is not None else "differs" if disagreements else "as printed"
        return "; ".join([known, *disagreements])


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


def comparison_to_dict(comparison: CostComparison) -> dict[str, Any]:
    """Return all numbers of a comparison, unrounded; missing numbers are None."""
    row, cost = comparison.row, comparison.cost
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
        "guidance_multiplier": comparison.guidance,
        "verdict": comparison.verdict(),
        "source": row.source,
    }


def format_counts_csv(comparisons: Sequence[CostComparison]) -> str:
    """Format the counts of all networks that can be built as CSV, which bench.tables reads without torch."""
    lines = [f"{f.row.id},{f.cost.params},{f.cost.macs}" for f in comparisons if f.cost]
    return "\n".join(["model_id,params,macs", *lines, ""])


def comparison_row(comparison: CostComparison) -> dict[str, Any]:
    """Return a row of the table; differences are to the official definition if there is one."""
    row, cost = comparison.row, comparison.cost
    gmacs = cost.macs / 1e9 if cost else None
    params = row.params_official or (float(row.params_printed) * 1e6 if row.params_printed else None)
    published_gmacs = row.gmacs_official or (float(row.gflops_printed) if row.gflops_printed else None)
    return {
        "network": row.id,
        "params": f"{cost.params:,}" if cost else "",
        "official": f"{row.params_official:,}" if row.params_official else "",
        "printed (M)": row.params_printed,
        "difference": f"{cost.params / params - 1:+.2%}" if cost and params else "",
        "MACs (G)": f"{gmacs:.3f}" if gmacs else "",
        "official ": f"{row.gmacs_official:.3f}" if row.gmacs_official else "",
        "printed (G)": row.gflops_printed,
        "difference ": f"{gmacs / published_gmacs - 1:+.2%}" if gmacs and published_gmacs else "",
        "FLOPs (G)": f"{cost.flops / 1e9:.2f}" if cost else "",
        "training FLOPs (G)": f"{cost.training_flops / 1e9:.1f}" if cost else "",
        "guided": f"x {comparison.guidance}" if comparison.guidance else "",
        "verdict": comparison.verdict(),
    }


def search_networks(words: Sequence[str]) -> list[published_networks.PublishedNetwork]:
    """Select the published networks whose names contain one of the words; no word selects all.

    ValueError for a word that no name contains.
    """
    rows, words = published_networks.read_networks(), [word.lower() for word in words]
    for word in words:
        if not any(word in row.id for row in rows):
            near = did_you_mean(word, [row.id for row in rows])
            raise ValueError(f"no published network is called {word!r}; {near}")
    return [row for row in rows if not words or any(word in row.id for word in words)]


LEGEND = """\
params: trainable parameters.  MACs: multiply-accumulates of one image's forward pass, which papers print as Gflops.
FLOPs: twice that.  training FLOPs: three forward passes of one image.  guided: network evaluations per step with
classifier-free guidance.  official: counted on the authors' definition of the network.  Autoencoders, text encoders and
classifiers are not in the cost of a denoiser.  Sources: results/published/."""
