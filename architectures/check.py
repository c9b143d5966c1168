"""Test the contract of a backbone: python -m architectures.check ARCH, or package.module:Class.

Each check is a function whose docstring states one requirement.  The test suite runs all checks on the
registered architectures; this command runs them on one architecture or class and prints failures.
"""

from __future__ import annotations

import argparse
import copy
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from . import build
from .interface import Conditions, IOSpec, NetSpec, TextCondition, as_conditions
from .registry import entry, names

ContractCheck = Callable[[nn.Module], None]
CHECKS: dict[str, ContractCheck] = {}
TOY_IO = IOSpec(channels=3, size=8, num_classes=10)
"""Small input shapes for the checks; all dimensions differ."""


def register_check(function: ContractCheck) -> ContractCheck:
    """Add a function to CHECKS."""
    CHECKS[function.__name__] = function
    return function


def perturb_parameters(net: nn.Module, seed: int = 0) -> nn.Module:
    """Add noise (std 0.05) to every parameter, so that zero-initialised branches contribute; return it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return net.eval()


def make_toy_inputs(net: nn.Module, batch: int = 3) -> tuple[Tensor, Tensor, Any]:
    """Return x (B, C, H, W), t (B,) and cond for a network; the same values at every call."""
    io = network_spec(net).io
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, io.channels, io.size, io.size, generator=generator)
    t = torch.linspace(1, 990, batch)
    label, text, image = torch.arange(batch) % io.num_classes if io.num_classes else None, None, None
    if io.text_dim:
        text = TextCondition(tokens=torch.randn(batch, io.text_tokens or 5, io.text_dim, generator=generator))
    if io.image_channels:
        image = torch.randn(batch, io.image_channels, io.size // 2, io.size // 2, generator=generator)
    if image is not None or (label is not None and text is not None):
        return x, t, Conditions(label=label, text=text, image=image)
    return x, t, label if text is None else text


def map_tensors(cond: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to each tensor of a condition."""
    if cond is None or isinstance(cond, Tensor):
        return None if cond is None else function(cond)
    return type(cond)(*(map_tensors(part, function) for part in cond))


def replace_label(cond: Any, label: Tensor) -> Any:
    """Return the condition with another label (B,)."""
    return label if isinstance(cond, Tensor) else cond._replace(label=label)


def network_spec(net: nn.Module) -> NetSpec:
    """Return the NetSpec that `architectures.build` stored on a network."""
    assert isinstance(net.spec, NetSpec), "architectures.build sets spec"
    return net.spec


def _assert_close(a: Tensor, b: Tensor, why: str, tolerance: float = 1e-4) -> None:
    """Assert equality up to rounding, relative to the largest output if that is above 1."""
    worst = (a - b).abs().max().item()
    assert worst <= tolerance * max(1.0, b.abs().max().item()), f"{why}: outputs differ by up to {worst:.2g}"


@register_check
def output_shape(net: nn.Module) -> None:
    """Input (B, C, H, W) gives output (B, out_channels, H, W) at any batch size."""
    io = network_spec(net).io
    for batch in (1, 3):
        out = net(*make_toy_inputs(net, batch))
        want = (batch, io.out_channels, io.size, io.size)
        assert tuple(out.shape) == want, f"output is {tuple(out.shape)}, should be {want}"


@register_check
def learned_variance_doubles_the_channels(net: nn.Module) -> None:
    """With variance="learned_range" the output has 2C channels."""
    spec = network_spec(net)
    other = build(spec.arch, io=replace(spec.io, variance="learned_range"), args=dict(spec.args))
    out = other(*make_toy_inputs(other))
    assert out.shape[1] == 2 * spec.io.channels, f"output has {out.shape[1]} channels, not {2 * spec.io.channels}"


@register_check
def dtype_is_kept(net: nn.Module) -> None:
    """A bfloat16 network returns bfloat16 for bfloat16 inputs and float32 times."""
    half = copy.deepcopy(net).to(torch.bfloat16)
    x, t, cond = make_toy_inputs(net)
    out = half(
        x.to(torch.bfloat16), t, map_tensors(cond, lambda c: c.to(torch.bfloat16) if c.is_floating_point() else c)
    )
    assert out.dtype == torch.bfloat16, f"output is {out.dtype}"


@register_check
def output_is_finite(net: nn.Module) -> None:
    """The output has no NaN or infinity over the whole range of times."""
    assert torch.isfinite(net(*make_toy_inputs(net))).all(), "output has NaN or infinity"


@register_check
def gradient_reaches_every_parameter(net: nn.Module) -> None:
    """Every parameter that requires a gradient gets one that is not zero."""
    net.zero_grad()
    out = net(*make_toy_inputs(net))
    generator = torch.Generator().manual_seed(2)
    (out * torch.randn(out.shape, generator=generator)).sum().backward()
    dead = [n for n, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum())]
    net.zero_grad()
    assert not dead, f"no gradient for {', '.join(dead[:5])} ({len(dead)} parameters)"


@register_check
def label_changes_the_output(net: nn.Module) -> None:
    """Another class label changes the output."""
    x, t, cond = make_toy_inputs(net)
    label = as_conditions(cond).label
    if label is not None:
        other = replace_label(cond, (label + 1) % network_spec(net).io.num_classes)
        assert not torch.allclose(net(x, t, cond), net(x, t, other), atol=1e-6), "the label has no effect"


@register_check
def text_and_image_change_the_output(net: nn.Module) -> None:
    """Another text changes the output, and so does another image to upsample."""
    x, t, cond = make_toy_inputs(net)
    original = as_conditions(cond)
    for name, part in (("text", original.text), ("image", original.image)):
        if part is not None:
            other = original._replace(**{name: map_tensors(part, lambda c: c.flip(0))})
            assert not torch.allclose(net(x, t, original), net(x, t, other), atol=1e-6), f"the {name} has no effect"


@register_check
def masked_tokens_have_no_effect(net: nn.Module) -> None:
    """Masked text tokens do not change the output; the mask does."""
    x, t, cond = make_toy_inputs(net)
    original = as_conditions(cond)
    if original.text is not None:
        mask = torch.ones(original.text.tokens.shape[:2], dtype=torch.bool)
        mask[:, -2:] = False
        changed = original.text.tokens.masked_fill(~mask[:, :, None], 3.0)
        masked, same, unmasked = (
            net(x, t, original._replace(text=TextCondition(tokens, m)))
            for tokens, m in ((original.text.tokens, mask), (changed, mask), (original.text.tokens, None))
        )
        _assert_close(masked, same, "with other masked tokens")
        assert not torch.allclose(masked, unmasked, atol=1e-6), "the mask has no effect"


@register_check
def time_changes_the_output(net: nn.Module) -> None:
    """Another time changes the output."""
    x, t, cond = make_toy_inputs(net)
    assert not torch.allclose(net(x, t, cond), net(x, t / 2, cond), atol=1e-6), "the time has no effect"


@register_check
def null_label_is_known(net: nn.Module) -> None:
    """Label num_classes is accepted and differs from class 0."""
    io = network_spec(net).io
    x, t, cond = make_toy_inputs(net)
    label = as_conditions(cond).label
    if label is not None and io.null_label:
        null, first = (replace_label(cond, torch.full_like(label, c)) for c in (io.num_classes, 0))
        assert not torch.allclose(net(x, t, null), net(x, t, first), atol=1e-6), "null label equals class 0"


@register_check
def images_of_a_batch_do_not_mix(net: nn.Module) -> None:
    """The output of an image is the same alone and in a batch."""
    x, t, cond = make_toy_inputs(net)
    together = net(x, t, cond)
    for i in range(len(x)):
        alone = net(x[i : i + 1], t[i : i + 1], map_tensors(cond, lambda c: c[i : i + 1]))  # noqa: B023
        _assert_close(together[i : i + 1], alone, f"image {i} alone and in a batch")


@register_check
def rebuilds_from_its_spec(net: nn.Module) -> None:
    """A network built from net.spec with the same state dict gives the same outputs."""
    spec = NetSpec.from_dict(network_spec(net).to_dict())
    twin = build(spec.arch, io=spec.io, args=dict(spec.args)).eval()
    twin.load_state_dict(net.state_dict())
    _assert_close(net(*make_toy_inputs(net)), twin(*make_toy_inputs(net)), "after a checkpoint round trip", 1e-6)


@register_check
def compiles_without_a_graph_break(net: nn.Module) -> None:
    """torch.compile(fullgraph=True) gives the same outputs."""
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    _assert_close(net(*make_toy_inputs(net)), compiled(*make_toy_inputs(net)), "compiled and eager")


@register_check
def exports(net: nn.Module) -> None:
    """torch.export gives a program with the same outputs."""
    program = torch.export.export(net, make_toy_inputs(net))
    _assert_close(net(*make_toy_inputs(net)), program.module()(*make_toy_inputs(net)), "exported and eager")


def build_toy_network(arch: str, io: IOSpec = TOY_IO, args: dict[str, Any] | None = None) -> nn.Module:
    """Build the toy size of an architecture (or its constructor's defaults) with perturbed parameters."""
    torch.manual_seed(0)
    return perturb_parameters(build(arch, entry(arch).toy or None, io=io, args=args))


def run_checks(arch: str, args: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    """Run every check on a fresh network; return (check, error), where error is "" for a check that passed."""
    results = []
    for name, function in CHECKS.items():
        try:
            function(build_toy_network(arch, args=args))
            results.append((name, ""))
        except AssertionError as error:
            results.append((name, str(error)))
        except Exception as error:  # any error of a user's class is a failed check, not a crash
            last = traceback.extract_tb(error.__traceback__)[-1]
            results.append((name, f"{type(error).__name__}: {error} ({last.name}, line {last.lineno})"))
    return results


def main(argv: list[str] | None = None) -> int:
    """Run all checks; return 0 if they pass, 1 if one fails, 2 if the network cannot be built."""
    parser = argparse.ArgumentParser(prog="python -m architectures.check", description=__doc__)
    parser.add_argument("arch", help=f"{', '.join(names())}, or package.module:Class")
    arch = parser.parse_args(argv).arch
    sys.path.insert(0, "")
    try:
        build_toy_network(arch)
    except ValueError as error:
        print(f"architectures.check: {error}", file=sys.stderr)
        return 2
    results = run_checks(arch)
    for name, problem in results:
        requirement = (CHECKS[name].__doc__ or "").strip()
        print(f"{'FAIL' if problem else 'ok  '}  {name.replace('_', ' ')}: {problem or requirement}")
    failed = sum(bool(problem) for _, problem in results)
    print(f"{arch}: {len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
