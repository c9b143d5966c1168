"""Test GenViT against the authors' network: parameters, MACs, outputs, classifier."""

from pathlib import Path

import numpy as np
import pytest
import torch
from official_cases import fill, noise

from architectures import IOSpec, build
from architectures.check import perturb_parameters
from bench import run
from bench.costs import counting, matching
from bench.experiments import presets

# results/published: sndnyang/Diffusion_ViT ReadMe and sampling logs; the counts include the classifier's head
PUBLISHED = {
    "CIFAR-10": ("384/4", 32, 10, 11_185_068, 0.722),
    "CelebA": ("384/8", 128, 10, 17_109_948, 3.229),
    "Tiny-ImageNet": ("384/8", 64, 200, 11_368_954, 0.729),
    "ImageNet-10 128": ("512/8", 128, 10, 25_592_124, 5.516),
    "ImageNet-10 224": ("1024/14", 224, 10, 83_925_192, 20.935),
}
ARRAYS = np.load(Path(__file__).parents[1] / "goldens" / "restated.npz")
IO = IOSpec(channels=3, size=16)
SMALL = dict(depth=2, width=24, heads=3, patch=4, classifier=7)
T = torch.tensor([3.0, 871.0])


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=PUBLISHED)
def test_published_parameters_and_macs_come_out(row):
    size, pixels, classes, params, gmacs = row
    cost = counting.count_cost("genvit", size, IOSpec(channels=3, size=pixels), {"classifier": classes})
    assert cost.params == params
    assert cost.macs / 1e9 == pytest.approx(gmacs, rel=1e-3)


def filled():
    net = build("genvit", io=IO, args=SMALL).eval()
    net.load_state_dict({key: torch.from_numpy(fill(key, v.shape, 5)) for key, v in net.state_dict().items()})
    return net, torch.from_numpy(noise(7, (2, 3, 16, 16)))


@pytest.mark.parametrize("what", ["out", "logits", "noisy_logits"])
def test_output_is_the_published_one(what):
    net, x = filled()
    with torch.no_grad():
        got = {"out": lambda: net(x, T), "logits": lambda: net.classify(x), "noisy_logits": lambda: net.classify(x, T)}
        torch.testing.assert_close(got[what](), torch.from_numpy(ARRAYS[f"genvit/{what}"]), rtol=0, atol=2e-5)


def test_classifier_and_denoiser_train_their_own_heads():
    net, x = filled()
    net.classify(x, T).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == ["decoder_pred.weight", "decoder_pred.bias"]
    net.zero_grad(set_to_none=True)
    net(x, T).square().sum().backward()
    assert {n.split(".")[0] for n, p in net.named_parameters() if p.grad is None} == {"head"}


def test_without_classes_labels_have_no_effect():
    bare, labelled = (build("genvit", io=IOSpec(channels=3, size=16, num_classes=n), args=SMALL) for n in (0, 10))
    assert set(labelled.state_dict()) - set(bare.state_dict()) == {"label_emb.weight"}
    net, (x, label) = perturb_parameters(bare), (torch.randn(2, 3, 16, 16), torch.tensor([1, 2]))
    assert torch.equal(net(x, T), net(x, T, label))


def test_each_token_has_its_own_scale_and_shift():
    """Moving one token's shift in the first block by one moves that token alone, in every channel."""
    block, time, tokens = filled()[0].blocks[0], torch.randn(2, 4 * 17), torch.randn(2, 17, 24)
    seen = []
    block.attn = block.mlp = torch.nn.Identity()
    block.norm1 = block.norm2 = torch.nn.Identity()
    with torch.no_grad():
        block.time[1].weight.zero_()
        block.time[1].bias.zero_()
        seen.append(block(tokens, time))
        block.time[1].bias[17 + 5] = 1.0
        seen.append(block(tokens, time))
    moved = seen[1] - seen[0]
    assert (moved[:, 5] > 0.9).all() and not moved[:, [i for i in range(17) if i != 5]].any()


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"patch": 5}, "image size 16 is not divisible by 5"),
        ({"heads": 7}, "width 24 is not divisible by 7"),
        ({"width": 2, "heads": 1}, "width is 2; the time embedding needs an even width"),
        ({"width": 27}, "width is 27; the time embedding"),
        ({"classifier": -1}, "classifier is -1; it must be at least 0"),
    ],
)
def test_impossible_shapes_are_refused(args, why):
    with pytest.raises(ValueError, match=why):
        build("genvit", io=IO, args={**SMALL, **args})


def test_classify_without_a_classifier_is_refused():
    net = build("genvit", io=IO, args={**SMALL, "classifier": 0})
    with pytest.raises(ValueError, match="build it with classifier=10"):
        net.classify(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("size", "data"), [("384/4", "cifar10-uncond"), ("384/8", "celeba64"), ("512/8", "imagenet128")]
)
def test_size_implies_the_closest_data_set(size, data):
    config = presets.compose_config(presets.RunRequest(arch="genvit", size=size))
    net = counting.meta_network("genvit", size, presets.network_io(config), {})
    assert config.data.name == data and net.spec.io.size % net.patch == 0


def test_size_without_a_data_set_asks_for_a_folder(capsys):
    assert run.main(["--arch", "genvit", "--size", "1024/14", "--dry-run"]) == 2
    assert "the data set of genvit 1024/14 is not known here; name a folder with --data" in capsys.readouterr().err


def test_genvit_matches_the_cost_of_the_unet():
    io = IOSpec(channels=1, size=8, num_classes=10)
    solution = matching.solve_size("genvit", io, matching.parse_match("macs:unet:nano"), 0.02)
    assert abs(solution.error) <= 0.02 and solution.args["patch"] == 2
