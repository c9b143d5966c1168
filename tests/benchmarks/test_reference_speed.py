"""Timings are ratios within one process, and compared networks have equal configurations."""

import re
import time

import pytest
import torch

from architectures import IOSpec, build
from bench import match, speed
from bench.benchmarks import reference_speed
from bench.costs import counting, match_table, matching, timing

DIGITS = IOSpec(channels=1, size=8, num_classes=10)


def test_workloads_alternate_and_the_first_round_is_not_timed():
    calls = []
    seconds = timing.time_alternately({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3 and [len(v) for v in seconds.values()] == [2, 2]


def test_short_workloads_run_more_rounds():
    seconds = timing.time_alternately({"a": lambda: time.sleep(0.001)}, rounds=1, seconds=0.1)
    assert len(seconds["a"]) > 5


def test_a_ratio_is_taken_within_each_round():
    assert timing.median_ratio({"a": [2.0, 20.0, 6.0], "b": [1.0, 10.0, 1.0]}, "a", "b") == 2.0


@pytest.mark.parametrize(("family", "size"), [("dit", "S/2"), ("uvit", "S/2"), ("unet", 64)])
def test_both_sides_have_equal_configurations(family, size):
    """Parameters and MACs; diffusers' DiT keeps a copy of the small embedders in every block."""
    with torch.device("meta") if family != "dit" else torch.device("cpu"):
        ours, plain, io = reference_speed.network_pair(family, size)
    ours, plain = (counting.count_module(net.to("meta").eval(), counting.meta_inputs(io)) for net in (ours, plain))
    if family == "dit":
        assert plain.macs == pytest.approx(ours.macs, rel=1e-3) and plain.params > ours.params
    else:
        assert (plain.params, plain.macs) == (ours.params, ours.macs)


def test_the_plain_uvit_is_the_same_function():
    args = dict(depth=4, width=64, heads=2, patch=2)
    ours, plain = build("uvit", io=DIGITS, args=args).eval(), reference_speed.TimmUViT(DIGITS, **args).eval()
    names = {"pos_embed": "position", "patch_embed.proj": "embed", "label_emb": "label", "in_blocks": "down"}
    names |= {"mid_block": "middle", "out_blocks": "up", "decoder_pred": "decode", "final_layer": "conv"}
    weights = {}
    for key, value in ours.state_dict().items():
        for old, new in names.items():
            key = key.replace(old, new)
        weights[re.sub(r"up\.(\d+)\.skip\.linear", r"skips.\1", key)] = torch.randn_like(value) * 0.1
    plain.load_state_dict(weights)
    ours.load_state_dict(dict(zip(ours.state_dict(), weights.values(), strict=True)))
    x, t, label = timing.inputs_for(DIGITS, 3, torch.device("cpu"))
    torch.testing.assert_close(plain(x, t, label), ours(x, t, label), rtol=1e-4, atol=1e-4)


def test_the_command_prints_ratios(capsys, monkeypatch):
    monkeypatch.setattr(
        reference_speed, "LEARNED_RANGE_IO", IOSpec(channels=1, size=8, num_classes=10, variance="learned_range")
    )
    monkeypatch.setitem(reference_speed.SIZES["small"], "dit", "nano/2")
    assert speed.main(["--arch", "dit", "--batch", "2", "--rounds", "2"]) == 0
    out = capsys.readouterr().out
    assert "forward + backward, batch 2, CPU" in out and "diffusers" in out and "1.00" in out


def test_the_command_answers_nonsense_in_a_sentence(capsys):
    assert speed.main(["--batch", "0"]) == 2
    assert "must be at least 1" in capsys.readouterr().err


def clock(seconds_of):
    """A Clock that computes seconds from MACs."""
    return lambda networks: [
        seconds_of(arch, counting.count_cost(arch, None, DIGITS, dict(args)).macs) for arch, args in networks
    ]


@pytest.fixture
def reference():
    args = {"depth": 4, "width": 96, "heads": 3, "patch": 2}
    return matching.Solution(args=args, cost=counting.count_cost("dit", None, DIGITS, args), error=0.0)


@pytest.mark.parametrize("slowness", [0.6, 1.0, 2.0])
def test_equal_time_is_not_equal_macs(reference, slowness):
    """A U-ViT that takes so much longer at equal MACs gets so many fewer MACs."""
    wanted = matching.parse_match("macs:dit:nano/2")
    ticking = clock(lambda arch, macs: macs * (slowness if arch == "uvit" else 1.0))
    solution = matching.solve_size_by_time("uvit", DIGITS, reference, wanted, 0.05, ticking)
    assert abs(solution.error) <= 0.05
    assert solution.cost.macs == pytest.approx(reference.cost.macs / slowness, rel=0.06)


def test_a_time_that_no_shape_takes_is_said_with_the_nearest(reference):
    wanted = matching.parse_match("macs:dit:nano/2")
    with pytest.raises(ValueError, match=r"no uvit was found that takes the time of dit:nano/2 .* off by \+[0-9.]+%"):
        matching.solve_size_by_time(
            "uvit", DIGITS, reference, wanted, 0.01, clock(lambda arch, macs: 1.0 + (arch == "uvit"))
        )


def test_the_clock_measures():
    small, large = ({"depth": depth, "width": 64, "heads": 2, "patch": 2} for depth in (1, 16))
    seconds = matching.make_clock(DIGITS, 16, torch.device("cpu"), rounds=3)([("dit", small), ("dit", large)])
    assert 0 < seconds[0] < seconds[1]


def test_the_matcher_says_what_it_timed_on(capsys, monkeypatch):
    monkeypatch.setattr(match_table, "make_clock", lambda *_, **__: clock(lambda arch, macs: macs * 1e-9))
    flags = "--to dit:nano/2 --arch uvit --io 1x8x8 --classes 10 --by time --batch 4"
    assert match.main(flags.split()) == 0
    out = capsys.readouterr().out
    assert "time (ms)" in out and "forward + backward of one image in a batch of 4, CPU" in out


def test_a_run_cannot_be_matched_by_time(capsys):
    with pytest.raises(ValueError, match=r"solve it once with python -m bench\.match --by time"):
        matching.parse_match("time:dit:nano/2")
