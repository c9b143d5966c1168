"""Test that registered sizes have the parameter counts of the papers."""

import pytest
import torch

from architectures import IOSpec, build, from_official, official_layout
from architectures.official_ctor import PUBLISHED


def problem(channels, size, classes=0, null=True, **more):
    return IOSpec(channels=channels, size=size, num_classes=classes, null_label=null, **more)


LEARNED = dict(variance="learned_range")
LATENT = problem(4, 32, 1000)
DIT = problem(4, 32, 1000, **LEARNED)
COCO = problem(4, 32, text_dim=768, text_tokens=77)

EXACT = [
    ("dit", "S/8", DIT, {}, 33_142_016),
    ("dit", "S/4", DIT, {}, 32_920_448),
    ("dit", "S/2", DIT, {}, 32_865_056),
    ("dit", "B/8", DIT, {}, 130_869_248),
    ("dit", "B/4", DIT, {}, 130_426_496),
    ("dit", "B/2", DIT, {}, 130_315_808),
    ("dit", "L/8", DIT, {}, 458_578_432),
    ("dit", "L/4", DIT, {}, 457_988_224),
    ("dit", "L/2", DIT, {}, 457_840_672),
    ("dit", "XL/8", DIT, {}, 675_664_640),
    ("dit", "XL/4", DIT, {}, 675_000_704),
    ("dit", "XL/2", DIT, {}, 674_834_720),
    ("dit", "XL/2", problem(4, 64, 1000, **LEARNED), {}, 674_834_720),
    ("dit", "XL/2", DIT, {"conditioning": "in_context"}, 449_162_528),
    ("dit", "XL/2", DIT, {"conditioning": "cross_attention"}, 597_991_712),
    ("dit", "XL/2", DIT, {"conditioning": "adaln"}, 600_452_384),
    ("uvit", "S/2", problem(3, 32), {}, 44_255_328),
    ("uvit", "S/4", problem(3, 64), {}, 44_292_228),
    ("uvit", "M/4", problem(3, 64, 1000, null=False), {}, 130_940_292),
    ("uvit", "L/4", problem(3, 64, 1000, null=False), {}, 286_827_652),
    ("uvit", "L/2", LATENT, {}, 286_763_172),
    ("uvit", "H/2", LATENT, {}, 500_832_016),
    ("uvit", "L/4", problem(4, 64, 1000), {}, 286_861_524),
    ("uvit", "H/4", problem(4, 64, 1000), {}, 500_942_656),
    ("uvit", "S/2", COCO, {}, 44_692_644),
    ("uvit", "S-deep/2", COCO, {}, 58_345_636),
    ("unet", "ADM-64", problem(3, 64, 1000, null=False, **LEARNED), {}, 295_904_454),
    ("unet", "ADM-128", problem(3, 128, 1000, null=False, **LEARNED), {}, 421_529_606),
    ("unet", "ADM-256", problem(3, 256, 1000, null=False, **LEARNED), {}, 553_838_086),
    ("unet", "ADM-256", problem(3, 256, **LEARNED), {}, 552_814_086),
    ("unet", "ADM-512", problem(3, 512, 1000, null=False, **LEARNED), {}, 558_997_638),
    ("unet", "LDM-4", problem(3, 64, text_dim=512), {}, 400_920_579),
    ("unet", "LDM-4", problem(3, 64, 1000), {}, 400_920_579 + 1001 * 512),
    ("unet", "LDM-8", problem(4, 32, text_dim=512), {}, 394_984_196),
    ("unet", "LDM-8", LATENT, {}, 394_984_196 + 1001 * 512),
    ("unet", "DDPM-32", problem(3, 32), {}, 35_746_307),
]
MILLIONS = [
    ("iDDPM-32", problem(3, 32, **LEARNED), 50),
    ("iDDPM-64", problem(3, 64, 1000, null=False, **LEARNED), 120),
    ("iDDPM-64-L", problem(3, 64, 1000, null=False, **LEARNED), 270),
]


def meta(arch, size, io, args=None):
    with torch.device("meta"):
        return build(arch, size, io=io, args=args)


def parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("arch", "size", "io", "args", "count"), EXACT)
def test_parameters_are_exactly_the_published_number(arch, size, io, args, count):
    assert parameters(meta(arch, size, io, args)) == count


@pytest.mark.parametrize(("size", "io", "millions"), MILLIONS)
def test_iddpm_parameters_match_the_rounded_numbers(size, io, millions):
    assert parameters(meta("unet", size, io)) / 1e6 == pytest.approx(millions, rel=0.06)


TWINS = [
    ("dit", "DiT-XL/2 256", "XL/2"),
    ("uvit", "imagenet256_uvit_huge", "H/2"),
    ("uvit_t2i", "mscoco_uvit_small deep", "S-deep/2"),
    ("adm", "64x64", "ADM-64"),
    ("adm", "128x128", "ADM-128"),
    ("adm", "256x256", "ADM-256"),
    ("adm", "512x512", "ADM-512"),
    ("ldm", "cin256-v2", "LDM-4"),
    ("ldm", "cin-ldm-vq-f8", "LDM-8"),
]


def switches(module):
    """Return the scalar attributes of a module, which its repr does not show: heads, channel order."""
    return {name: value for name, value in vars(module).items() if isinstance(value, bool | int | float | str)}


@pytest.mark.parametrize(("family", "name", "size"), TWINS)
def test_registered_size_is_the_published_network(family, name, size):
    layout = official_layout(family, **PUBLISHED[family][name])
    net = from_official(family, {key: torch.empty(shape, device="meta") for key, shape in layout.items()})
    twin = meta(net.spec.arch, size, net.spec.io)
    assert str(twin) == str(net)
    assert [switches(module) for module in twin.eval().modules()] == [switches(module) for module in net.modules()]
