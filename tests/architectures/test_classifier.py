"""Test ADM's noisy classifier against the published one: parameters, MACs, keys, outputs."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from official_cases import fill, noise
from torch.utils.flop_counter import FlopCounterMode

from architectures.check import perturb_parameters
from architectures.classifier import SIZES, NoisyClassifier, from_official, official_layout, to_official

# arXiv:2105.05233 Table 12 prints 65, 43, 54 and 54 M; counted on the published code: results/published
PUBLISHED = {
    64: (65_438_568, 19.08),
    128: (42_568_040, 21.04),
    256: (54_096_360, 73.35),
    512: (54_448_360, 112.77),
}
SMALL = dict(size=16, channels=32, channel_mult=(1, 2), res_blocks=1, attention=(16, 8), head_channels=16, classes=11)
ARRAYS = np.load(Path(__file__).parents[1] / "goldens" / "restated.npz")
T = torch.tensor([3.0, 871.0])


@pytest.mark.parametrize("pixels", SIZES)
def test_published_parameters_and_macs_come_out(pixels):
    params, gmacs = PUBLISHED[pixels]
    with torch.device("meta"):
        net, x, t = NoisyClassifier(**SIZES[pixels]), torch.empty(1, 3, pixels, pixels), torch.empty(1)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        assert net(x, t).shape == (1, 1000)
    assert sum(p.numel() for p in net.parameters()) == params
    assert flops.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=1e-3)


ORDER = [
    "time_embed.0.weight",
    "time_embed.2.bias",
    "input_blocks.0.0.weight",
    "input_blocks.1.0.in_layers.0.weight",
    "input_blocks.1.0.in_layers.2.weight",
    "input_blocks.1.0.emb_layers.1.weight",
    "input_blocks.1.0.out_layers.0.weight",
    "input_blocks.1.0.out_layers.3.bias",
    "input_blocks.6.0.skip_connection.weight",
    "input_blocks.6.1.norm.weight",
    "input_blocks.6.1.qkv.weight",
    "input_blocks.6.1.proj_out.bias",
    "input_blocks.10.0.emb_layers.1.weight",
    "middle_block.0.in_layers.0.weight",
    "middle_block.1.qkv.bias",
    "middle_block.2.out_layers.3.bias",
    "out.0.weight",
    "out.0.bias",
    "out.2.positional_embedding",
    "out.2.qkv_proj.weight",
    "out.2.qkv_proj.bias",
    "out.2.c_proj.weight",
    "out.2.c_proj.bias",
]


def test_keys_are_the_published_ones_in_their_order():
    layout = official_layout(**SIZES[64])
    keys = list(layout)
    assert [key for key in keys if key in ORDER] == ORDER
    assert (keys[:2], keys[-7:]) == (["time_embed.0.weight", "time_embed.0.bias"], ORDER[-7:])
    assert {key.split(".")[0] for key in keys} == {"time_embed", "input_blocks", "middle_block", "out"}
    assert max(int(key.split(".")[1]) for key in keys if key.startswith("input_blocks.")) == 19
    assert layout["out.2.positional_embedding"] == (512, 65) and layout["out.2.c_proj.weight"] == (1000, 512, 1)


@pytest.mark.parametrize("pixels", SIZES)
def test_published_checkpoint_is_recognised_by_its_shapes(pixels):
    layout = official_layout(**SIZES[pixels])
    net = from_official({key: torch.empty(shape, device="meta") for key, shape in layout.items()})
    assert net.size == pixels and not net.training
    assert list(to_official(net)) == list(layout)


def state():
    return {key: torch.from_numpy(fill(key, shape, 5)) for key, shape in official_layout(**SMALL).items()}


def test_logits_and_image_gradient_are_the_published_ones():
    net, x = from_official(state(), **SMALL), torch.from_numpy(noise(6, (2, 3, 16, 16))).requires_grad_()
    logits = net(x, T)
    torch.testing.assert_close(logits, torch.from_numpy(ARRAYS["classifier/logits"]), rtol=0, atol=2e-6)
    chosen = F.log_softmax(logits, dim=-1)[range(2), [4, 9]].sum()
    (grad,) = torch.autograd.grad(chosen, x)
    torch.testing.assert_close(grad, torch.from_numpy(ARRAYS["classifier/grad_x"]), rtol=0, atol=1e-6)


def test_round_trip_keeps_keys_order_and_bits():
    original = state()
    back = to_official(from_official(dict(reversed(original.items())), **SMALL))
    assert list(back) == list(original) and all(torch.equal(back[key], original[key]) for key in original)


def test_gradients_reach_all_parameters_and_time_matters():
    net, x = perturb_parameters(NoisyClassifier(**SMALL)), torch.from_numpy(noise(6, (2, 3, 16, 16)))
    out = net(x, T)
    assert out.shape == (2, 11)
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not torch.allclose(out, net(x, T / 2), atol=1e-5)


def test_image_alone_and_in_a_batch_and_in_bfloat16():
    net, x = perturb_parameters(NoisyClassifier(**SMALL)), torch.from_numpy(noise(6, (2, 3, 16, 16)))
    torch.testing.assert_close(net(x, T)[1:], net(x[1:], T[1:]), rtol=0, atol=1e-5)
    assert net.bfloat16()(x.bfloat16(), T).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"size": 15}, "image size 15 is not divisible by 2; 2 levels halve it 1 times"),
        ({"channels": 40}, "channels 40 is not divisible by 32; group norm has 32 groups"),
        ({"head_channels": 24}, "channels 64 is not divisible by 24; head_channels must divide the last width"),
        ({"classes": 0}, "classes is 0; it must be at least 1"),
    ],
)
def test_impossible_arguments_are_refused(args, why):
    with pytest.raises(ValueError, match=why):
        NoisyClassifier(**{**SMALL, **args})


@pytest.mark.parametrize("args", [{}, {**SMALL, "width": 3}])
def test_missing_and_unknown_arguments_are_named(args):
    with pytest.raises(ValueError, match=r"the classifier cannot be built: .*'(size|width)'"):
        official_layout(**args)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="x is 32x32; this classifier takes 16x16"):
        NoisyClassifier(**SMALL)(torch.zeros(1, 3, 32, 32), torch.zeros(1))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s: s.pop("out.2.c_proj.bias"), "noisy classifier: out.2.c_proj.bias is missing"),
        (lambda s: s.update({"out.3.weight": torch.zeros(3)}), "out.3.weight is unexpected"),
        (lambda s: s.update({"out.0.bias": torch.zeros(3)}), r"out.0.bias has shape \(3,\), not \(64,\)"),
        (lambda s: s["out.0.bias"].fill_(float("nan")), "NaN or infinity: out.0.bias"),
        (lambda s: s.update({"out.0.bias": "?"}), "out.0.bias is a str, not a tensor"),
    ],
)
def test_wrong_state_dict_is_refused_by_the_key(change, why):
    wrong = state()
    change(wrong)
    with pytest.raises(ValueError, match=why):
        from_official(wrong, **SMALL)


@pytest.mark.parametrize("wrong", [{}, {"out.2.c_proj.bias": torch.tensor(1.0)}, [1, 2], None])
def test_other_state_dicts_are_refused(wrong):
    with pytest.raises(ValueError, match=r"is missing|has shape|a state dict maps names to tensors"):
        from_official(wrong)
