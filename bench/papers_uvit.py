"""U-ViT's tables (arXiv:2209.12152).  Imports no torch."""

from __future__ import annotations

from .paper import AT_512, CLASSES, UVIT, Run, Table, small
from .suites import COSTS

BOTH = ("U-ViT", "U-ViT (citing others)")
NO_FIGURES = "The paper has bars, and no numbers; the order is what its text says."
READINGS = "The numbers are one summary's readings of a figure; only the order is judged."

FIGURE_2 = {
    # panel -> (title, study, line -> cell, (better, worse), no gain)
    "a": (
        "how long skips are joined",
        "long-skip combination",
        {
            "Linear(Concat(h_m,h_s))": "default",
            "h_m + Linear(h_s)": "skip: h_m + Linear(h_s)",
            "Linear(h_m + h_s)": "skip: Linear(h_m + h_s)",
            "h_m + h_s": "skip: h_m + h_s",
            "no long skip": "skip: none",
        },
        (
            ("Linear(Concat(h_m,h_s))", "h_m + Linear(h_s)"),
            ("Linear(Concat(h_m,h_s))", "Linear(h_m + h_s)"),
            ("Linear(Concat(h_m,h_s))", "h_m + h_s"),
            ("Linear(Concat(h_m,h_s))", "no long skip"),
            ("h_m + Linear(h_s)", "no long skip"),
            ("Linear(h_m + h_s)", "no long skip"),
        ),
        (("h_m + h_s", "no long skip"),),
    ),
    "b": (
        "how the time is fed",
        "time injection",
        {"time as a token": "default", "AdaLN": "time: AdaLN"},
        (("time as a token", "AdaLN"),),
        (),
    ),
    "c": (
        "the extra convolution",
        "extra 3x3 convolution",
        {
            "after the linear projection to patches": "default",
            "before the linear projection": "head: convolution before the projection",
            "none": "head: no convolution",
        },
        (
            ("after the linear projection to patches", "before the linear projection"),
            ("after the linear projection to patches", "none"),
        ),
        (),
    ),
    "d": (
        "patch embedding",
        "patch embedding",
        {"linear projection": "default", "stack of 3x3 convs then 1x1": "patch embedding: convolutions"},
        (("linear projection", "stack of 3x3 convs then 1x1"),),
        (),
    ),
    "e": (
        "position embedding",
        "position embedding",
        {"1-D learnable": "default", "2-D sinusoidal": "position: 2-D sinusoidal", "none": "position: none"},
        (("1-D learnable", "2-D sinusoidal"), ("1-D learnable", "none"), ("2-D sinusoidal", "none")),
        (),
    ),
}
SHAPE = {
    # (lines, least to most) -> cells; a line without a cell at a scale is left out there
    "depth": (
        ("9 layers", "13 layers", "17 layers"),
        ("depth: 9 layers", "default", "depth: 17 layers"),
        ("depth: 3 layers", "default", "depth: 9 layers"),
        ("depth: 3 layers", "default", "depth: 9 layers"),
    ),
    "width": (
        ("256", "512", "768"),
        ("width: 256", "default", "width: 768"),
        ("width: 64", "default", "width: 128"),
        ("width: 64", "default", "width: 128"),
    ),
    "patch size": (
        ("8", "4", "2", "1"),
        ("patch: 8", "patch: 4", "default", "patch: 1"),
        ("patch: 8", "patch: 4", "default", ""),
        ("", "patch: 8", "default", "patch: 2"),
    ),
}
"""Depth, width and patch size of U-ViT: lines, then cells at paper, digits and shapes scale."""


def _panel(letter: str) -> Table:
    title, study, cells, better, no_gain = FIGURE_2[letter]
    return Table(
        name=f"uvit-figure2{letter}",
        title=f"U-ViT-S/2 on CIFAR-10 after 50K steps: {title}",
        paper=UVIT,
        file="ablations",
        where={"paper": "U-ViT", "study": study},
        key=("variant",),
        suite="uvit-ablation",
        cells=small(cells, paper=cells),
        better=better,
        no_gain=no_gain,
        note=NO_FIGURES,
    )


def _shape(study: str) -> Table:
    lines, *cells = SHAPE[study]
    paper, digits, shapes = ({line: c for line, c in zip(lines, own, strict=True) if c} for own in cells)
    chosen = lines[-2]  # each fewer layer, channel or larger patch is worse; beyond it nothing is gained
    rising = lines[: lines.index(chosen) + 1]
    return Table(
        name=f"uvit-{study.split()[0]}",
        title=f"U-ViT-S/2 on CIFAR-10 after 50K steps: {study}",
        paper=UVIT,
        file="ablations",
        where={"paper": "U-ViT", "study": study},
        key=("variant",),
        suite="uvit-ablation",
        cells=small(digits, shapes, paper=paper),
        better=tuple((a, b) for i, b in enumerate(rising) for a in rising[i + 1 :]),
        no_gain=((lines[-1], chosen),),
        note=READINGS + " At small scale the sizes are others, in the same order.",
    )


def _uvit(name: str, title: str, dataset: str, resolution: str, runs: dict[str, Run], note: str = "") -> Table:
    return Table(
        name=f"uvit-{name}",
        title=title,
        paper=UVIT,
        file="results",
        where={
            "paper": BOTH,
            "dataset": dataset,
            "resolution": resolution,
            "table": ("Table 1 / Table 4", "Table 7", "Table 1", "Table 4"),
        },
        key=("model", "guidance"),
        runs=runs,
        note=note,
    )


def _against(cost: str) -> dict[str, str]:
    """The two unguided lines of Appendix E, at a cost of the matched suite."""
    setting = "latent 32x32x4, 500K iterations, batch 1024, no guidance"
    return {
        f"U-ViT-H/2, {setting}": f"uvit at {cost}",
        f"U-Net (ADM implementation), {setting}": f"unet at {cost}",
    }


TABLES = (
    *(_panel(letter) for letter in FIGURE_2),
    *(_shape(study) for study in SHAPE),
    _uvit(
        "cifar10",
        "CIFAR-10, unconditional",
        "CIFAR-10 uncond",
        "32",
        {"U-ViT-S/2, unguided": Run(arch="uvit", size="S/2", weights="cifar10_uvit_small.pth")},
        "GenViT's 20.20 is of 10,000 samples.",
    ),
    _uvit(
        "celeba64",
        "CelebA 64, unconditional",
        "CelebA 64 uncond",
        "64",
        {"U-ViT-S/4, unguided": Run(arch="uvit", size="S/4", weights="celeba_uvit_small.pth")},
    ),
    _uvit(
        "imagenet64",
        "ImageNet 64, class-conditional",
        CLASSES,
        "64",
        {
            "U-ViT-M/4, unguided": Run(arch="uvit", size="M/4", weights="imagenet64_uvit_mid.pth"),
            "U-ViT-L/4, unguided": Run(arch="uvit", size="L/4", data="imagenet64", weights="imagenet64_uvit_large.pth"),
        },
    ),
    _uvit(
        "imagenet256",
        "ImageNet 256, class-conditional (Tables 1 and 7)",
        CLASSES,
        "256",
        {
            "U-ViT-L/2, cfg s=0.4": Run(arch="uvit", size="L/2", weights="imagenet256_uvit_large.pth"),
            "U-ViT-H/2, cfg s=0.4": Run(arch="uvit", size="H/2", weights="imagenet256_uvit_huge.pth"),
        },
        "U-ViT's scale s is w - 1.",
    ),
    _uvit(
        "imagenet512",
        "ImageNet 512, class-conditional (Tables 1 and 7)",
        CLASSES,
        "512",
        {
            "U-ViT-L/4, cfg s=0.7": Run(arch="uvit", size="L/4", data=AT_512, weights="imagenet512_uvit_large.pth"),
            "U-ViT-H/4, cfg s=0.7": Run(arch="uvit", size="H/4", data=AT_512, weights="imagenet512_uvit_huge.pth"),
        },
        "U-ViT's scale s is w - 1.",
    ),
    _uvit(
        "coco",
        "MS-COCO 256, text to image (Table 4)",
        "MS-COCO 256 text-to-image",
        "256",
        {},
        "No data set here has texts yet, so nothing is run.",
    ),
    Table(
        name="uvit-table3",
        title="ImageNet 256 at few sampling steps",
        paper=UVIT,
        file="results",
        where={"paper": "U-ViT", "table": "Table 3"},
        key=("model", "steps", "sampler"),
        runs={
            f"U-ViT-H/2, 500K steps, DPM-Solver {steps} steps": Run(
                arch="uvit",
                size="H/2",
                weights="imagenet256_uvit_huge.pth",
                settings={"evaluation.steps": str(steps), "evaluation.guidance": "1.4"},
            )
            for steps in (5, 10, 15, 20)
        },
        note="The guidance of this table is not printed; 0.4 is presumed.",
    ),
    Table(
        name="uvit-costs",
        title="U-ViT's networks and their costs",
        paper=UVIT,
        file="models",
        where={"paper": "U-ViT"},
        key=("model", "resolution"),
    ),
    Table(
        name="uvit-appendix-e",
        title="U-ViT against a U-Net of equal cost",
        paper=UVIT,
        file="ablations",
        where={"paper": "U-ViT", "study": "U-Net vs U-ViT at matched compute"},
        key=("variant", "base_setting"),
        suite="matched",
        elsewhere=True,
        cells={scale: _against(costs[-1]) for scale, costs in COSTS.items()},
        note="Ours are of equal multiply-accumulates, by the shared recipe; theirs of 133 and 135 G, by U-ViT's.",
    ),
    Table(
        name="uvit-appendix-e-results",
        title="The same, as one list",
        paper=UVIT,
        file="results",
        where={"paper": "U-ViT", "table": "Appendix E"},
        key=("model", "guidance"),
    ),
)
