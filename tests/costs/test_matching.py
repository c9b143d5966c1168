import pytest
import torch

from architectures import IOSpec, registry
from bench import match
from bench.costs import counting, matching
from bench.experiments import presets, resolve

DIGITS = IOSpec(channels=1, size=8, num_classes=10)


def test_activation_memory_is_near_what_autograd_saves():
    net = counting.meta_network("dit", "nano/2", DIGITS, {}).to_empty(device="cpu").train()
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.setdefault(t.untyped_storage().data_ptr(), t) is None or t, lambda t: t
    ):
        net(torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    parameters = {p.untyped_storage().data_ptr() for p in net.parameters()}
    real = sum(t.untyped_storage().nbytes() for pointer, t in saved.items() if pointer not in parameters)
    assert counting.activation_bytes("dit", "nano/2", DIGITS) == pytest.approx(real, rel=0.15)


@pytest.mark.parametrize("arch", ["dit", "uvit"])
def test_a_match_is_within_its_tolerance(arch):
    wanted = matching.parse_match("macs:unet:nano")
    solution = matching.solve_size(arch, DIGITS, wanted, 0.02)
    assert abs(solution.error) <= 0.02
    assert counting.count_cost(arch, None, DIGITS, solution.args) == solution.cost
    assert solution.cost.macs / matching.target_cost(wanted, DIGITS) - 1 == pytest.approx(solution.error)


def test_parameters_can_be_matched_too():
    solution = matching.solve_size("dit", DIGITS, matching.parse_match("params:unet:nano"), 0.05)
    assert solution.cost.params == pytest.approx(counting.count_cost("unet", "nano", DIGITS).params, rel=0.05)


def test_fixed_arguments_stay_and_the_rest_is_solved():
    solution = matching.solve_size(
        "dit", DIGITS, matching.parse_match("dit:nano/2"), 0.03, fixed={"conditioning": "in_context"}
    )
    assert solution.args["conditioning"] == "in_context" and abs(solution.error) <= 0.03


def test_the_reference_matches_itself():
    solution = matching.solve_size("unet", DIGITS, matching.parse_match("unet:nano"), 1e-9)
    assert solution.args == registry.size_args("unet", "nano") and solution.error == 0


def test_no_match_says_how_near_the_nearest_comes():
    with pytest.raises(ValueError, match=r"no uvit has the macs of unet:nano .* the nearest is .* off by [+-]"):
        matching.solve_size("uvit", DIGITS, matching.parse_match("unet:nano"), 1e-7)


@pytest.mark.parametrize("text", ["nano", "flops:dit:", "macs:dit", "macs:dti:B/2", "dit:B/3"])
def test_a_bad_match_gets_a_sentence(text):
    with pytest.raises(ValueError, match=r"write \[macs\|params\]:ARCH:SIZE|did you mean|unknown"):
        matching.parse_match(text)


def test_the_command_prints_the_costs_side_by_side(capsys):
    assert match.main(["--to", "unet:nano", "--arch", "dit", "--io", "1x8x8", "--classes", "10"]) == 0
    out = capsys.readouterr().out
    assert "unet" in out and "depth=4 width=104" in out and "+1.08%" in out


def test_the_command_answers_nonsense_in_a_sentence(capsys):
    assert match.main(["--to", "dit:B/2", "--arch", "uvit", "--io", "banana"]) == 2
    assert "write 4x32x32" in capsys.readouterr().err


def test_both_forms_of_a_match_are_one_protocol():
    """unet:nano means macs:unet:nano; with two protocols, equal rows would be in two tables."""
    short, full = (resolve.resolve(presets.RunRequest(match=m)).config for m in ("unet:nano", "macs:unet:nano"))
    assert short == full and short.model.match == "macs:unet:nano"
