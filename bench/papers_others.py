"""Tables of ADM (arXiv:2105.05233), LDM (arXiv:2112.10752), GenTron, GenViT and their baselines.  Imports no torch."""

from __future__ import annotations

from .paper import ADM, CLASSES, GENTRON, GENVIT, LDM, OTHERS, UVIT, Run, Table, same, small

CLASSIFIER = "ADM-G is guided by a classifier and ADM-U upsamples; neither is sampled here, so they are references."
TABLE_1 = {
    "base (ch 160, depth 2, heads 1, attn 16)": "base",
    "ch 128, depth 4": "narrower and deeper",
    "heads 4": "heads 4",
    "attention at 32,16,8": "attention at more resolutions",
    "BigGAN up/downsample": "BigGAN up/downsample",
    "rescale residual by 1/sqrt(2)": "rescale residual by 1/sqrt(2)",
    "ch 160, depth 2, heads 4, attn 32,16,8, BigGAN resampling, no rescale": "all but depth and rescaling",
}
"""Variant of ADM's Table 1 -> its cell, less the table's name."""


def _heads(channels: tuple[int, int, int]) -> dict[str, str]:
    """Lines of ADM's Table 2 -> cells; a scale's channels per head stand for 32, 64 and 128."""
    named = {f"{n} head{'s'[: n > 1]}": f"{n} head{'s'[: n > 1]}" for n in (1, 2, 4, 8)}
    named |= {f"{a} channels per head": f"{b} channels per head" for a, b in zip((32, 64, 128), channels, strict=True)}
    return _in("Table 2", named)


def _in(table: str, cells: dict[str, str]) -> dict[str, str]:
    return {line: f"{table}: {cell}" for line, cell in cells.items()}


def _ablation(name: str, title: str, study: str, steps: str, own: dict[str, str], toy: dict[str, str]) -> Table:
    return Table(
        name=name,
        title=f"{title} (ImageNet 128, {int(steps) // 1000}K steps)",
        paper=ADM,
        file="ablations",
        where={"paper": "ADM", "study": study, "steps": steps},
        key=("variant",),
        suite="unet-ablation",
        cells=small(toy, paper=own),
    )


def _adm(pixels: int, guidance: str) -> dict[str, Run]:
    line = "ADM (dropout)" if pixels == 64 else "ADM"  # the released 64-pixel network is the one with dropout
    return {
        f"{line}, {pixels} px, {guidance}": Run(
            arch="unet",
            size=f"ADM-{pixels}",
            weights=f"{pixels}x{pixels}_diffusion.pt",
            settings={"evaluation.guidance": "1"},
        )
    }


def _results(name: str, title: str, arxiv: str, *key: str, note: str = "", **where: str | tuple[str, ...]) -> Table:
    """Published references: nothing here measures them."""
    return Table(name=name, title=title, paper=arxiv, file="results", where=where, key=key or ("model",), note=note)


def _costs(name: str, title: str, paper: str, *papers: str, note: str = "") -> Table:
    return Table(
        name=name,
        title=title,
        paper=paper,
        file="models",
        where={"paper": papers},
        key=("model", "resolution"),
        note=note,
    )


ADM_TABLES = (
    _ablation("adm-table1", "Changes to the U-Net", "architecture", "700000", *[_in("Table 1", TABLE_1)] * 2),
    Table(
        name="adm-table1-longer",
        title="Changes to the U-Net (ImageNet 128, 1200K steps)",
        paper=ADM,
        file="ablations",
        where={"paper": "ADM", "study": "architecture", "steps": "1200000"},
        key=("variant",),
        note="The suite ends at 700K steps, as Tables 2 and 3 do.",
    ),
    _ablation("adm-table2", "Attention heads", "attention heads", "700000", _heads((32, 64, 128)), _heads((8, 16, 32))),
    _ablation(
        "adm-table3",
        "How time and class are fed",
        "timestep and class injection",
        "700000",
        *[_in("Table 3", same(["AdaGN", "addition then GroupNorm"]))] * 2,
    ),
    Table(
        name="adm-table4",
        title="Classifier guidance, ImageNet 256",
        paper=ADM,
        file="ablations",
        where={"paper": "ADM", "study": "classifier guidance"},
        key=("variant",),
        note="Sampling by a classifier's gradient is not in this benchmark; the networks without it are in adm-table5.",
    ),
    _results("adm-table4-results", "The same rows by network", ADM, "model", "guidance", paper="ADM", table="Table 4"),
    Table(
        name="adm-table5",
        title="ADM's results on ImageNet",
        paper=ADM,
        file="results",
        where={"paper": "ADM", "table": "Table 5", "dataset": CLASSES},
        key=("model", "resolution", "guidance"),
        runs={k: run for pixels in (64, 128, 256, 512) for k, run in _adm(pixels, "unguided").items()},
        note=CLASSIFIER,
    ),
    _results(
        "adm-table5-lsun",
        "ADM's results on LSUN",
        ADM,
        *("model", "dataset"),
        paper="ADM",
        table="Table 5",
        dataset=("LSUN bedroom", "LSUN horse", "LSUN cat"),
    ),
    _results(
        "adm-table6",
        "ADM's results by guidance and upsampling",
        ADM,
        *("model", "resolution", "sampler"),
        paper="ADM",
        table=("Table 6", "evaluations README example"),
        note=CLASSIFIER,
    ),
    _results("adm-table7", "Throughput of training", ADM, paper="ADM", table="Table 7"),
    _results(
        "adm-tables8-9",
        "ADM-G over training steps",
        ADM,
        *("model", "resolution", "steps"),
        paper="ADM",
        table=("Table 8", "Table 9"),
        note=CLASSIFIER,
    ),
    _results("adm-table10", "The best cascade", ADM, paper="ADM", table="Table 10", note=CLASSIFIER),
    Table(
        name="adm-table15",
        title="Where 250 sampling steps are spent, LSUN bedroom",
        paper=ADM,
        file="ablations",
        where={"paper": "ADM", "study": "250-step sampling schedule"},
        key=("variant",),
    ),
    _results(
        "adm-table16", "Sampling steps on LSUN", ADM, "model", "dataset", "sampler", paper="ADM", table="Table 16"
    ),
    _costs("adm-costs", "ADM's networks and their costs", ADM, "ADM", "DiT (citing ADM)"),
)

LDM_TABLES = (
    Table(
        name="ldm-table10",
        title="ImageNet 256, class-conditional",
        paper=LDM,
        file="results",
        where={"paper": ("LDM", "LDM (citing others)"), "table": "Table 10"},
        key=("model", "steps", "guidance"),
        runs={
            "LDM-8, 2900K steps, unguided": Run(arch="unet", size="LDM-8"),
            "LDM-8, 4800K steps, unguided": Run(arch="unet", size="LDM-8"),
            **{
                f"{line}, 178K steps, {guidance}": Run(arch="unet", size="LDM-4", weights="cin256-v2/model.ckpt")
                for line, guidance in (
                    ("LDM-4", "unguided"),
                    ("LDM-4-G", "cfg 1.25"),
                    ("LDM-4-G", "cfg 1.5"),
                )
            },
        },
        note="LDM-8-G is guided by a classifier, which is not sampled here.  The eta of DDIM is not printed; 1 is "
        "taken, to which a user's runs point.",
    ),
    _results("ldm-table18", "Throughput and training time", LDM, paper="LDM", table="Table 18"),
    _results("ldm-table1", "Other data sets", LDM, "model", "dataset", paper="LDM", table="Table 1 / Table 18"),
    Table(
        name="ldm-downsampling",
        title="The downsampling factor of latents: words alone",
        paper=LDM,
        file="ablations",
        where={"paper": "LDM"},
        key=("variant",),
    ),
    _costs("ldm-costs", "LDM's networks and their costs", LDM, "LDM"),
)

NO_CODE = "No code was published and no data set here has texts or video yet; these are published references."
GENTRON_TABLES = (
    Table(
        name="gentron-table2",
        title="Conditioning, text encoder and scale",
        paper=GENTRON,
        file="ablations",
        where={"paper": "GenTron", "study": "conditioning, text encoder, scale"},
        key=("variant",),
        note=NO_CODE,
    ),
    Table(
        name="gentron-figure8",
        title="Motion-free guidance: words alone",
        paper=GENTRON,
        file="ablations",
        where={"paper": "GenTron", "study": "motion-free guidance"},
        key=("variant",),
        note=NO_CODE,
    ),
    _results(
        "gentron-table3",
        "T2I-CompBench",
        GENTRON,
        paper=("GenTron", "GenTron (citing others)"),
        table="Table 3",
        note=NO_CODE,
    ),
    _results(
        "gentron-table4",
        "MS-COCO",
        GENTRON,
        paper=("GenTron", "GenTron (citing others)"),
        table="Table 4",
        note=NO_CODE,
    ),
    _results("gentron-figure7", "Preference over SDXL", GENTRON, paper="GenTron", table="Figure 7", note=NO_CODE),
    _costs("gentron-costs", "GenTron's networks", GENTRON, "GenTron", note=NO_CODE),
)

GENVIT_TABLES = (
    Table(
        name="genvit",
        title="GenViT's images, by number of samples",
        paper=GENVIT,
        file="results",
        where={"paper": "GenViT"},
        key=("model", "dataset", "n_samples"),
        note="Its number of training steps is not in the table, so the rows are published references; "
        "`python -m bench.run --arch genvit --size 384/4 --track native` trains it by the official recipe.",
    ),
    _costs("genvit-costs", "GenViT's networks and their costs", GENVIT, "GenViT"),
)

BASELINE_TABLES = (
    _results(
        "baselines",
        "U-Nets and SiT that these papers compare with",
        OTHERS,
        *("model", "dataset"),
        paper=("DDPM", "IDDPM", "Score SDE", "SiT"),
    ),
    _costs("ddpm-costs", "DDPM's and IDDPM's networks and their costs", OTHERS, "DDPM", "IDDPM"),
    Table(
        name="uvit-coco-ablation",
        title="U-ViT against a U-Net from text to image",
        paper=UVIT,
        file="ablations",
        where={"paper": "U-ViT", "study": "U-Net vs U-ViT text-to-image"},
        key=("variant",),
        note="No data set here has texts yet.",
    ),
    Table(
        name="uvit-plain",
        title="A plain ViT on CIFAR-10, as quoted",
        paper=UVIT,
        file="ablations",
        where={"paper": "U-ViT", "study": "plain ViT"},
        key=("variant",),
    ),
)

TABLES = (*ADM_TABLES, *LDM_TABLES, *GENTRON_TABLES, *GENVIT_TABLES, *BASELINE_TABLES)
