"""Every table and figure of the papers, by name.  Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from . import papers_dit, papers_others, papers_uvit
from .paper import DIT, UVIT, Figure, Table

TABLES: Mapping[str, Table] = {t.name: t for t in (*papers_dit.TABLES, *papers_uvit.TABLES, *papers_others.TABLES)}


def _dit(number: int, title: str, drawn: str, *more: str) -> Figure:
    tables = ("dit-table4", "dit-table4-costs", *more)
    return Figure(name=f"dit-figure{number}", title=title, paper=DIT, tables=tables, drawn=drawn)


FIGURES: Mapping[str, Figure] = {
    f.name: f
    for f in (
        _dit(2, "FID and cost of DiTs and others", "dit-compared", "dit-table2"),
        _dit(6, "Sizes and patches of DiT", "dit-scaling"),
        _dit(8, "FID against Gflops", "dit-scaling"),
        _dit(9, "FID against training compute", "training-compute"),
        Figure(
            name="uvit-figure-shape",
            title="U-ViT's depth, width and patch size",
            paper=UVIT,
            tables=("uvit-depth", "uvit-width", "uvit-patch"),
            drawn="uvit-ablation",
        ),
    )
}
"""Figures whose points are tables' numbers; DiT's Figures 5 and 10 and U-ViT's Figure 2 are tables of their own."""
