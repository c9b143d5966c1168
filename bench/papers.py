"""Every table and figure of the papers, by name.  Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from . import papers_dit, papers_others, papers_uvit
from .paper import DIT, UVIT, Figure, Table

TABLES: Mapping[str, Table] = {t.name: t for t in (*papers_dit.TABLES, *papers_uvit.TABLES, *papers_others.TABLES)}

SWEEP = ("dit-table4", "dit-table4-costs")
FIGURES: Mapping[str, Figure] = {
    f.name: f
    for f in (
        Figure(name="dit-figure2", title="FID and cost of DiTs and others", paper=DIT, tables=(*SWEEP, "dit-table2")),
        Figure(name="dit-figure6", title="Patches and sizes of DiT over training", paper=DIT, tables=SWEEP),
        Figure(name="dit-figure8", title="FID against Gflops", paper=DIT, tables=SWEEP),
        Figure(name="dit-figure9", title="FID against training compute", paper=DIT, tables=SWEEP),
        Figure(
            name="uvit-figure-shape",
            title="U-ViT's depth, width and patch size",
            paper=UVIT,
            tables=("uvit-depth", "uvit-width", "uvit-patch"),
        ),
    )
}
"""Figures whose points are tables' numbers; DiT's Figures 5 and 10 and U-ViT's Figure 2 are tables of their own."""
