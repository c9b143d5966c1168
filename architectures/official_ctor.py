"""Published constructors: their arguments and defaults, their translation to ours, and the published models.

`translate` converts the arguments of a published constructor to an architecture of this package, an IOSpec
and arguments.  Two arguments are additions of ours.  adm takes ``cls="SuperResModel"`` for the upsamplers, which have
the same constructor arguments.  ldm takes ``n_classes``, the number of rows of the class embedding table, for a
checkpoint that contains this table.  Three arguments do not change the function and are ignored: use_checkpoint,
use_fp16, and U-ViT's qk_scale, which fused attention ignores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .interface import IOSpec
from .suggestions import did_you_mean

Ctor = dict[str, Any]
Translated = tuple[str, IOSpec, dict[str, Any]]

REQUIRED = object()
"""Placeholder for the default of an argument without one."""

_UVIT: Ctor = dict(
    img_size=224,
    patch_size=16,
    in_chans=3,
    embed_dim=768,
    depth=12,
    num_heads=12,
    mlp_ratio=4.0,
    qkv_bias=False,
    qk_scale=None,
    norm_layer=None,
    mlp_time_embed=False,
    use_checkpoint=False,
    conv=True,
    skip=True,
)
_UNET: Ctor = dict(
    image_size=REQUIRED,
    in_channels=REQUIRED,
    model_channels=REQUIRED,
    out_channels=REQUIRED,
    num_res_blocks=REQUIRED,
    attention_resolutions=REQUIRED,
    dropout=0.0,
    channel_mult=(1, 2, 4, 8),
    conv_resample=True,
    dims=2,
    num_classes=None,
    use_checkpoint=False,
    use_fp16=False,
    num_heads=1,
    num_head_channels=-1,
    num_heads_upsample=-1,
    use_scale_shift_norm=False,
    resblock_updown=False,
    use_new_attention_order=False,
)
DEFAULTS: dict[str, Ctor] = {
    "dit": dict(
        input_size=32,
        patch_size=2,
        in_channels=4,
        hidden_size=1152,
        depth=28,
        num_heads=16,
        mlp_ratio=4.0,
        class_dropout_prob=0.1,
        num_classes=1000,
        learn_sigma=True,
    ),
    "uvit": dict(_UVIT, num_classes=-1),
    "uvit_t2i": dict(_UVIT, clip_dim=768, num_clip_token=77),
    "adm": dict(_UNET, cls="UNetModel"),
    "ldm": dict(
        _UNET,
        num_heads=-1,
        use_spatial_transformer=False,
        transformer_depth=1,
        context_dim=None,
        n_embed=None,
        legacy=True,
        n_classes=None,
    ),
}
FAMILIES = tuple(DEFAULTS)


def check_names(family: str, ctor: Mapping[str, Any]) -> None:
    """Raise ValueError for an unknown family or argument."""
    if family not in DEFAULTS:
        raise ValueError(f"unknown family {family!r}; {did_you_mean(family, FAMILIES)}")
    for name in ctor:
        if name not in DEFAULTS[family]:
            raise ValueError(f"{family} has no argument {name!r}; {did_you_mean(name, DEFAULTS[family])}")


def missing_arguments(family: str, ctor: Mapping[str, Any]) -> list[str]:
    """Return the required arguments that `ctor` lacks."""
    return [name for name, default in DEFAULTS[family].items() if default is REQUIRED and name not in ctor]


def translate(family: str, ctor: Mapping[str, Any]) -> Translated:
    """Translate a published constructor call to (architecture, IOSpec, arguments); raise ValueError if invalid."""
    check_names(family, ctor)
    if missing := missing_arguments(family, ctor):
        raise ValueError(f"{family} needs {', '.join(missing)}")
    return _TRANSLATE[family]({**DEFAULTS[family], **ctor})


def _rows(count: int, null: bool) -> dict[str, Any]:
    """Return IOSpec's fields for a label table of `count` rows, the last of which is the null class if `null`."""
    null = null and count > 1
    return dict(num_classes=count - null, null_label=null)


def _dit(c: Ctor) -> Translated:
    null = c["class_dropout_prob"] > 0
    io = IOSpec(
        channels=c["in_channels"],
        size=c["input_size"] // c["patch_size"] * c["patch_size"],
        variance="learned_range" if c["learn_sigma"] else "fixed",
        **_rows(c["num_classes"] + null, null),
    )
    args = dict(depth=c["depth"], width=c["hidden_size"], heads=c["num_heads"], patch=c["patch_size"])
    return "dit", io, dict(args, mlp_ratio=c["mlp_ratio"])


def _uvit(c: Ctor) -> Translated:
    """Translate U-ViT; a label table of 1001 rows (latent configurations) has 1000 classes and the null class."""
    if c["norm_layer"] is not None and getattr(c["norm_layer"], "__name__", "") != "LayerNorm":
        raise ValueError(f"norm_layer is {c['norm_layer']!r}; only LayerNorm is supported")
    text = dict(text_dim=c["clip_dim"], text_tokens=c["num_clip_token"]) if "clip_dim" in c else {}
    classes = max(0, c.get("num_classes", 0))
    size = c["img_size"] // c["patch_size"] * c["patch_size"]
    io = IOSpec(channels=c["in_chans"], size=size, **_rows(classes, classes == 1001), **text)
    args = dict(
        depth=max(1, c["depth"]),  # 0 and 1 both mean the middle block only
        width=c["embed_dim"],
        heads=c["num_heads"],
        patch=c["patch_size"],
        mlp_ratio=c["mlp_ratio"],
        qkv_bias=c["qkv_bias"],
        time_mlp=c["mlp_time_embed"],
        skip="concat" if c["skip"] else "none",
        head="after" if c["conv"] else "none",
    )
    return "uvit", io, args


def _unet_args(c: Ctor, size: int) -> dict[str, Any]:
    """Translate the arguments that ADM and LDM share, and attention resolutions from downsampling factors to pixels."""
    factors = {int(factor) for factor in c["attention_resolutions"]}
    return dict(
        channels=c["model_channels"],
        channel_mult=tuple(c["channel_mult"]),
        res_blocks=c["num_res_blocks"],
        attention=tuple(size >> level for level in range(len(c["channel_mult"])) if 2**level in factors),
        heads=max(1, c["num_heads"]),
        head_channels=None if c["num_head_channels"] == -1 else c["num_head_channels"],
        up_heads=None if c["num_heads_upsample"] == -1 else c["num_heads_upsample"],
        norm="adagn" if c["use_scale_shift_norm"] else "add",
        resample="biggan" if c["resblock_updown"] else "conv" if c["conv_resample"] else "plain",
        dropout=c["dropout"],
        qkv_order="qkv_first" if c["use_new_attention_order"] else "heads_first",
    )


def _unet_io(c: Ctor, **more: Any) -> tuple[IOSpec, dict[str, Any]]:
    """Return the IOSpec, and {"out_channels": n} if the number of output channels does not follow from it.

    The published image size has no effect on the function; it is rounded up to a multiple of the downsampling.
    """
    if c["dims"] != 2:
        raise ValueError(f"dims is {c['dims']}; only images (dims=2) are supported")
    unit = 2 ** (len(c["channel_mult"]) - 1)
    size = -(-c["image_size"] // unit) * unit
    c_in, c_out = c["in_channels"], c["out_channels"]
    variance: Any = "learned_range" if c_out == 2 * c_in else "fixed"
    io = IOSpec(channels=c_in, size=size, variance=variance, **more)
    return io, {} if c_out == io.out_channels else {"out_channels": c_out}


def _adm(c: Ctor) -> Translated:
    if c["cls"] not in ("UNetModel", "SuperResModel"):
        raise ValueError(f"cls is {c['cls']!r}; choose UNetModel or SuperResModel")
    image = c["in_channels"] if c["cls"] == "SuperResModel" else 0
    io, out = _unet_io(c, image_channels=image, **_rows(c["num_classes"] or 0, null=False))
    return "unet", io, {**_unet_args(c, io.size), **out}


def _ldm(c: Ctor) -> Translated:
    _check_ldm(c)
    rows, tokens, text = c["num_classes"] or 0, c["n_classes"] or 0, {}
    if c["use_spatial_transformer"] and not tokens:
        text = dict(text_dim=c["context_dim"])
    io, out = _unet_io(c, **_rows(tokens or rows, null=tokens == 1001), **text)
    args = {**_unet_args(c, io.size), **out}
    if c["use_spatial_transformer"]:
        args |= dict(attention_kind="transformer", transformer_depth=c["transformer_depth"], up_heads=None)
        args |= dict(exact_heads=True) if not c["legacy"] else {}
    if tokens:
        args |= dict(label="token", context_width=c["context_dim"])
    if not c["legacy"]:
        args |= dict(up_heads=None)
    return "unet", io, args


def _check_ldm(c: Ctor) -> None:
    """Raise ValueError for arguments that LDM's constructor rejects or a backbone does not support."""
    if c["num_heads"] == -1 and c["num_head_channels"] == -1:
        raise ValueError("ldm needs num_heads or num_head_channels")
    if bool(c["use_spatial_transformer"]) != (c["context_dim"] is not None):
        raise ValueError("ldm takes context_dim with use_spatial_transformer, and only then")
    if c["n_embed"] is not None:
        raise ValueError("n_embed makes the network predict code indices, not noise; it is not supported")
    if c["n_classes"] and (c["num_classes"] or not c["use_spatial_transformer"]):
        raise ValueError(
            "n_classes needs use_spatial_transformer, because the label is the context, and no num_classes"
        )
    if c["channel_mult"][0] != 1 or any(mult != int(mult) for mult in c["channel_mult"]):
        raise ValueError(f"channel_mult is {c['channel_mult']}; ldm needs whole numbers that start with 1")


_TRANSLATE: dict[str, Callable[[Ctor], Translated]] = {
    "dit": _dit,
    "uvit": _uvit,
    "uvit_t2i": _uvit,
    "adm": _adm,
    "ldm": _ldm,
}


def _dit_models() -> dict[str, Ctor]:
    table = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
    models = {
        f"DiT-{name}/{patch} 256": dict(depth=depth, hidden_size=width, num_heads=heads, patch_size=patch)
        for name, (depth, width, heads) in table.items()
        for patch in (2, 4, 8)
    }
    return models | {"DiT-XL/2 512": dict(input_size=64)}


def _uvit_model(depth: int, width: int, heads: int, size: int, patch: int, **more: Any) -> Ctor:
    return dict(depth=depth, embed_dim=width, num_heads=heads, img_size=size, patch_size=patch, **more)


def _adm_model(size: int, channels: int, mult: tuple[float, ...], factors: tuple[int, ...], **more: Any) -> Ctor:
    common = dict(in_channels=3, out_channels=6, num_res_blocks=2, num_classes=1000, num_heads=4)
    switches = dict(use_scale_shift_norm=True, resblock_updown=True)
    shape = dict(image_size=size, model_channels=channels, channel_mult=mult, attention_resolutions=factors)
    return {**common, **switches, **shape, **more}


_LATENT = dict(in_chans=4, num_classes=1001)
_WIDE, _UP = (1, 1, 2, 2, 4, 4), {"cls": "SuperResModel"}
_LDM = dict(num_res_blocks=2, use_spatial_transformer=True, context_dim=512)

PUBLISHED: dict[str, dict[str, Ctor]] = {
    "dit": _dit_models(),
    "uvit": {
        "cifar10_uvit_small": _uvit_model(12, 512, 8, 32, 2),
        "celeba64_uvit_small": _uvit_model(12, 512, 8, 64, 4),
        "imagenet64_uvit_mid": _uvit_model(16, 768, 12, 64, 4, num_classes=1000),
        "imagenet64_uvit_large": _uvit_model(20, 1024, 16, 64, 4, num_classes=1000),
        "imagenet256_uvit_large": _uvit_model(20, 1024, 16, 32, 2, **_LATENT),
        "imagenet512_uvit_large": _uvit_model(20, 1024, 16, 64, 4, **_LATENT),
        "imagenet256_uvit_huge": _uvit_model(28, 1152, 16, 32, 2, conv=False, **_LATENT),
        "imagenet512_uvit_huge": _uvit_model(28, 1152, 16, 64, 4, conv=False, **_LATENT),
    },
    "uvit_t2i": {
        "mscoco_uvit_small": _uvit_model(12, 512, 8, 32, 2, in_chans=4),
        "mscoco_uvit_small deep": _uvit_model(16, 512, 8, 32, 2, in_chans=4),
    },
    "adm": {
        "64x64": _adm_model(64, 192, (1, 2, 3, 4), (2, 4, 8))
        | dict(num_res_blocks=3, dropout=0.1, num_head_channels=64, use_new_attention_order=True),
        "128x128": _adm_model(128, 256, (1, 1, 2, 3, 4), (4, 8, 16)),
        "256x256": _adm_model(256, 256, _WIDE, (8, 16, 32), num_head_channels=64),
        "256x256 unconditional": _adm_model(256, 256, _WIDE, (8, 16, 32), num_head_channels=64, num_classes=None),
        "512x512": _adm_model(512, 256, (0.5, 1, 1, 2, 2, 4, 4), (16, 32, 64), num_head_channels=64),
        "64 to 256": _adm_model(256, 192, _WIDE, (8, 16, 32), **_UP),
        "128 to 512": _adm_model(512, 192, _WIDE, (16, 32), num_head_channels=64, **_UP),
    },
    "ldm": {
        "cin256-v2": _LDM
        | dict(image_size=64, in_channels=3, out_channels=3, model_channels=192, channel_mult=(1, 2, 3, 5))
        | dict(attention_resolutions=(8, 4, 2), num_heads=1),
        "cin-ldm-vq-f8": _LDM
        | dict(image_size=32, in_channels=4, out_channels=4, model_channels=256, channel_mult=(1, 2, 4))
        | dict(attention_resolutions=(4, 2, 1), num_head_channels=32),
    },
}
"""Family -> model name -> arguments that differ from the constructor's defaults."""
