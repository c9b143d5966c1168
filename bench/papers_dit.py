"""DiT's tables (arXiv:2212.09748), and those of others who trained DiTs again.  Imports no torch."""

from __future__ import annotations

from .paper import AT_512, DIT, OTHERS, UDIT, Run, Table, same, small
from .suites import COSTS, TOY_DITS

OWN = ("DiT", "DiT (citing others)")


def _toy_dits(patches: dict[int, int]) -> dict[str, str]:
    """S, B and L stand for three depths and widths; no toy stands for XL."""
    toys = zip(("S", "B", "L"), TOY_DITS, strict=True)
    return {f"DiT-{s}/{p}": f"{toy}/{patch}" for s, toy in toys for p, patch in patches.items()}


def _matched(cost: str) -> dict[str, str]:
    """The two lines of U-DiT that stand in the matched suite, at one of its costs."""
    return {"U-ViT-XL (scaled)": f"uvit at {cost}", "DiT-XL/2": f"dit at {cost}"}


DIT_SIZES = [f"DiT-{s}/{p}" for s in ("S", "B", "L", "XL") for p in (8, 4, 2)]
CONDITIONINGS = same(["in-context", "cross-attention", "adaLN", "adaLN-Zero"])
XL, XL512 = "DiT-XL-2-256x256.pt", "DiT-XL-2-512x512.pt"


def _dit_xl(*guidance: str, data: str = "", weights: str = XL) -> dict[str, Run]:
    return {f"DiT-XL/2, {g}": Run(arch="dit", size="XL/2", data=data, weights=weights) for g in guidance}


GUIDED = ("unguided", "cfg 1.25", "cfg 1.50")

TABLES = (
    Table(
        name="dit-table1",
        title="DiT's sizes: layers, width, heads, and multiply-accumulates at patch 4",
        paper=DIT,
        file="models",
        where={"model_id": ("dit_s_4", "dit_b_4", "dit_l_4", "dit_xl_4")},
        columns=("depth", "hidden", "heads", "gflops"),
    ),
    Table(
        name="dit-table2",
        title="ImageNet 256, class-conditional",
        paper=DIT,
        file="results",
        where={"paper": OWN, "table": "Table 2"},
        key=("model", "guidance"),
        runs=_dit_xl(*GUIDED),
        note="Trained for 7M steps and decoded by ft-EMA; a record names its decoder by hash.",
    ),
    Table(
        name="dit-table3",
        title="ImageNet 512, class-conditional",
        paper=DIT,
        file="results",
        where={"paper": OWN, "table": "Table 3"},
        key=("model", "guidance"),
        runs=_dit_xl(*GUIDED, data=AT_512, weights=XL512),
        note="Precision and recall against 1,000 real images.",
    ),
    Table(
        name="dit-table4",
        title="Twelve DiTs after 400K steps, unguided",
        paper=DIT,
        file="results",
        where={"paper": "DiT", "table": "Table 4", "steps": "400000"},
        suite="dit-scaling",
        cells=small(_toy_dits({8: 4, 4: 2, 2: 1}), _toy_dits({8: 8, 4: 4, 2: 2}), paper=same(DIT_SIZES)),
        note=f"At small scale {', '.join(TOY_DITS)} (layers x width) stand for S, B and L; on digits patches of 4, 2 "
        "and 1 for 8, 4 and 2.",
    ),
    Table(
        name="dit-table4-costs",
        title="Parameters and multiply-accumulates of all DiTs",
        paper=DIT,
        file="models",
        where={"paper": "DiT"},
        key=("model", "resolution"),
    ),
    Table(
        name="dit-table4-longer",
        title="DiT-XL/2 trained for longer, unguided",
        paper=DIT,
        file="results",
        where={"paper": "DiT", "table": "Table 4", "steps": ("2352000", "7000000", "1301000", "3000000")},
        key=("model", "resolution", "steps"),
        runs={
            "DiT-XL/2, 256 px, 2352K steps": Run(arch="dit", size="XL/2"),
            "DiT-XL/2, 256 px, 7000K steps": Run(arch="dit", size="XL/2", weights=XL),
            "DiT-XL/2, 512 px, 1301K steps": Run(arch="dit", size="XL/2", data=AT_512),
            "DiT-XL/2, 512 px, 3000K steps": Run(arch="dit", size="XL/2", data=AT_512, weights=XL512),
        },
        note="Decoded by ft-MSE; a record names its decoder by hash.",
    ),
    Table(
        name="dit-figure5",
        title="Four conditionings of DiT-XL/2 after 400K steps (the end of Figure 5, and Table 4)",
        paper=DIT,
        file="ablations",
        where={"paper": "DiT", "study": "conditioning block"},
        key=("variant",),
        suite="dit-conditioning",
        cells=small(CONDITIONINGS, paper=CONDITIONINGS),
    ),
    Table(
        name="dit-table5",
        title="Three decoders of the latents, DiT-XL/2 at guidance 1.5",
        paper=DIT,
        file="ablations",
        where={"paper": "DiT", "study": "VAE decoder"},
        key=("variant",),
        runs={
            decoder: Run(
                arch="dit",
                size="XL/2",
                weights=XL,
                settings={"evaluation.guidance": "1.5", "evaluation.decoder": f"FOLDER of {decoder}"},
                told=False,
            )
            for decoder in ("original LDM decoder", "ft-MSE", "ft-EMA")
        },
        note="A record names its decoder by the hash of its tensors; those of the three are not known here, so no "
        "record is put beside a line: compare `decoder` in the records yourself.",
    ),
    Table(
        name="dit-appendix-a",
        title="Guidance on three or four latent channels",
        paper=DIT,
        file="ablations",
        where={"paper": "DiT", "study": "guided latent channels"},
        key=("variant",),
        runs={
            f"guide {words}": Run(
                arch="dit",
                size="XL/2",
                weights=XL,
                settings={"evaluation.guidance": scale, "evaluation.guidance_channels": channels},
            )
            for words, scale, channels in (
                ("3 of 4 channels, scale 1.5", "1.5", "three"),
                ("4 channels, scale 1.375", "1.375", "all"),
            )
        },
    ),
    Table(
        name="dit-figure10",
        title="Sampling compute does not make up for a small model: two printed points",
        paper=DIT,
        file="ablations",
        where={"paper": "DiT", "study": "sampling steps vs model size"},
        key=("variant",),
        runs={
            f"DiT-{size}, {steps} steps": Run(
                arch="dit",
                size=size,
                settings={"evaluation.guidance": "1", "evaluation.steps": steps, "evaluation.samples": "10000"},
            )
            for size, steps in (("L/2", "1000"), ("XL/2", "128"))
        },
        better=(("DiT-XL/2, 128 steps", "DiT-L/2, 1000 steps"),),
        note="FID of 10,000 images, not to be mixed with those of 50,000.",
    ),
    Table(
        name="dit-figure12",
        title="Other metrics at 400K steps: curves alone",
        paper=DIT,
        file="ablations",
        where={"paper": "DiT", "study": "metrics other than FID at 400K"},
        key=("variant",),
        note="Records of the dit-scaling suite have these metrics; there is no printed number to hold them to.",
    ),
    Table(
        name="dit-text",
        title="Numbers in DiT's text",
        paper=DIT,
        file="results",
        where={"paper": "DiT", "table": ("Section 5.1 text", "Section 5.2 text", "Appendix A text")},
        key=("model", "steps", "sampler", "guidance"),
    ),
    Table(
        name="dit-again",
        title="DiT and U-ViT trained or sampled again by their authors and by others",
        paper=OTHERS,
        file="results",
        where={
            "paper": (
                "DiT",
                "TinyFusion (third party re-evaluation)",
                "cited by several tokenizer papers",
                "DiT issue tracker",
                "U-ViT issue tracker",
                "DiMR / FreqFlow (third party)",
                "LDM issue tracker",
            ),
            "table": (
                *("README table", "README text", "main table", "comparison tables", "comparison table"),
                *("issue 21", "issue 14", "issue 262"),
            ),
        },
        key=("model", "resolution", "steps", "guidance", "sampler"),
        note="What the tolerances of bench/verdicts.py rest on.",
    ),
    Table(
        name="udit-tables",
        title="Backbones trained by DiT's recipe for 400K steps, by the authors of U-DiT",
        paper=UDIT,
        file="results",
        where={"paper": "U-DiT (third party, DiT recipe)"},
    ),
    Table(
        name="udit-table3",
        title="DiT against U-ViT by one recipe",
        paper=UDIT,
        file="ablations",
        where={"paper": "U-DiT (third party)"},
        key=("variant",),
        suite="matched",
        elsewhere=True,
        cells={scale: _matched(costs[-1]) for scale, costs in COSTS.items()},
        note="Ours are of equal multiply-accumulates, by the shared recipe; theirs are of 113 and 119 G, by DiT's.",
    ),
)
