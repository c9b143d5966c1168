"""The contract of architectures.check over the registry: a new architecture is tested by being registered."""

import pytest

from architectures.check import CHECKS, toy_network
from architectures.registry import ARCHITECTURES

SWITCHES = [
    *[("dit", {"conditioning": c}) for c in ("in_context", "cross_attention", "adaln", "adaln_zero")],
    *[("uvit", {"skip": s}) for s in ("concat", "add", "project_add", "add_project", "none")],
    *[("uvit", {"head": h}) for h in ("after", "before", "none")],
    *[("uvit", {"time": "adaln"}), ("uvit", {"time_mlp": True}), ("uvit", {"patch_embed": "conv"})],
    *[("uvit", {"position": p}) for p in ("sincos", "none")],
    *[("unet", {"resample": r}) for r in ("biggan", "conv", "plain")],
    *[
        ("unet", {"norm": "add", "resample": "conv"}),
        ("unet", {"rescale_residual": True}),
        ("unet", {"qkv_order": "heads_first"}),
    ],
    *[("unet", {"head_channels": None, "heads": 4, "up_heads": 2}), ("unet", {"attention": (8, 4)})],
]


def name_of(case):
    arch, args = case
    return "-".join([arch, *(f"{k}={v}" for k, v in args.items())])


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_keeps_the_contract(arch, check):
    CHECKS[check](toy_network(arch))


@pytest.mark.parametrize("case", SWITCHES, ids=name_of)
def test_every_switch_keeps_the_contract(case):
    arch, args = case
    for name, check in CHECKS.items():
        if name != "exports":  # as costly as the rest together, and covered above for each architecture
            check(toy_network(arch, args=args))
