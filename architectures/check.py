"""The contract, as code: python -m architectures.check ARCH, or package.module:Class.

Each check is a function whose docstring is the promise.  The test suite runs all of them over the
registry; this command runs them on a class of your own and says what fails.
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
from .interface import Conditions, IOSpec, NetSpec, TextCondition, conditions
from .registry import entry, names

Check = Callable[[nn.Module], None]
CHECKS: dict[str, Check] = {}
TOY = IOSpec(channels=3, size=8, num_classes=10)
"""The problem that a class is checked on: small, and with every dimension different."""


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def awaken(net: nn.Module, seed: int = 0) -> nn.Module:
    """Add a little noise to every parameter: branches that start at zero come alive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return net.eval()


def toy_inputs(net: nn.Module, batch: int = 3) -> tuple[Tensor, Tensor, Any]:
    """x, t and cond for a network, the same at every call."""
    io = spec_of(net).io
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


def each(cond: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The condition with the function applied to its tensors."""
    if cond is None or isinstance(cond, Tensor):
        return None if cond is None else function(cond)
    return type(cond)(*(each(part, function) for part in cond))


def with_label(cond: Any, label: Tensor) -> Any:
    return label if isinstance(cond, Tensor) else cond._replace(label=label)


def spec_of(net: nn.Module) -> NetSpec:
    assert isinstance(net.spec, NetSpec), "architectures.build sets spec"
    return net.spec


def _same(a: Tensor, b: Tensor, why: str, tolerance: float = 1e-4) -> None:
    """Equal but for rounding, which is relative to the largest output where that is above 1."""
    worst = (a - b).abs().max().item()
    assert worst <= tolerance * max(1.0, b.abs().max().item()), f"{why}: outputs differ by up to {worst:.2g}"


@check
def output_shape(net: nn.Module) -> None:
    """(B, C, H, W) in, (B, out_channels, H, W) out, at any batch size."""
    io = spec_of(net).io
    for batch in (1, 3):
        out = net(*toy_inputs(net, batch))
        want = (batch, io.out_channels, io.size, io.size)
        assert tuple(out.shape) == want, f"output is {tuple(out.shape)}, should be {want}"


@check
def learned_variance_doubles_the_channels(net: nn.Module) -> None:
    """With variance="learned_range" the output has 2C channels."""
    spec = spec_of(net)
    other = build(spec.arch, io=replace(spec.io, variance="learned_range"), args=dict(spec.args))
    out = other(*toy_inputs(other))
    assert out.shape[1] == 2 * spec.io.channels, f"output has {out.shape[1]} channels, not {2 * spec.io.channels}"


@check
def dtype_is_kept(net: nn.Module) -> None:
    """A bfloat16 network gives bfloat16 for bfloat16 inputs and float32 times."""
    half = copy.deepcopy(net).to(torch.bfloat16)
    x, t, cond = toy_inputs(net)
    out = half(x.to(torch.bfloat16), t, each(cond, lambda c: c.to(torch.bfloat16) if c.is_floating_point() else c))
    assert out.dtype == torch.bfloat16, f"output is {out.dtype}"


@check
def output_is_finite(net: nn.Module) -> None:
    """No NaN or infinity over the whole range of times."""
    assert torch.isfinite(net(*toy_inputs(net))).all(), "output has NaN or infinity"


@check
def gradient_reaches_every_parameter(net: nn.Module) -> None:
    """Every parameter that asks for a gradient gets one that is not zero."""
    net.zero_grad()
    out = net(*toy_inputs(net))
    generator = torch.Generator().manual_seed(2)
    (out * torch.randn(out.shape, generator=generator)).sum().backward()
    dead = [n for n, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum())]
    net.zero_grad()
    assert not dead, f"no gradient for {', '.join(dead[:5])} ({len(dead)} parameters)"


@check
def label_changes_the_output(net: nn.Module) -> None:
    """Another class label gives another output."""
    x, t, cond = toy_inputs(net)
    label = conditions(cond).label
    if label is not None:
        other = with_label(cond, (label + 1) % spec_of(net).io.num_classes)
        assert not torch.allclose(net(x, t, cond), net(x, t, other), atol=1e-6), "the label has no effect"


@check
def text_and_image_change_the_output(net: nn.Module) -> None:
    """Another text gives another output, and so does another image to upsample."""
    x, t, cond = toy_inputs(net)
    given = conditions(cond)
    for name, part in (("text", given.text), ("image", given.image)):
        if part is not None:
            other = given._replace(**{name: each(part, lambda c: c.flip(0))})
            assert not torch.allclose(net(x, t, given), net(x, t, other), atol=1e-6), f"the {name} has no effect"


@check
def masked_tokens_have_no_effect(net: nn.Module) -> None:
    """Text tokens that the mask leaves out do not change the output, those that it keeps do."""
    x, t, cond = toy_inputs(net)
    given = conditions(cond)
    if given.text is not None:
        mask = torch.ones(given.text.tokens.shape[:2], dtype=torch.bool)
        mask[:, -2:] = False
        changed = given.text.tokens.masked_fill(~mask[:, :, None], 3.0)
        masked, same, all_ = (
            net(x, t, given._replace(text=TextCondition(tokens, m)))
            for tokens, m in ((given.text.tokens, mask), (changed, mask), (given.text.tokens, None))
        )
        _same(masked, same, "with other tokens behind the mask")
        assert not torch.allclose(masked, all_, atol=1e-6), "the mask has no effect"


@check
def time_changes_the_output(net: nn.Module) -> None:
    """Another time gives another output."""
    x, t, cond = toy_inputs(net)
    assert not torch.allclose(net(x, t, cond), net(x, t / 2, cond), atol=1e-6), "the time has no effect"


@check
def null_label_is_known(net: nn.Module) -> None:
    """Label num_classes is accepted and differs from class 0."""
    io = spec_of(net).io
    x, t, cond = toy_inputs(net)
    label = conditions(cond).label
    if label is not None and io.null_label:
        null, first = (with_label(cond, torch.full_like(label, c)) for c in (io.num_classes, 0))
        assert not torch.allclose(net(x, t, null), net(x, t, first), atol=1e-6), "null label equals class 0"


@check
def images_of_a_batch_do_not_mix(net: nn.Module) -> None:
    """Each image's output is the same alone and in a batch."""
    x, t, cond = toy_inputs(net)
    together = net(x, t, cond)
    for i in range(len(x)):
        alone = net(x[i : i + 1], t[i : i + 1], each(cond, lambda c: c[i : i + 1]))  # noqa: B023
        _same(together[i : i + 1], alone, f"image {i} alone and in a batch")


@check
def rebuilds_from_its_spec(net: nn.Module) -> None:
    """`build` on net.spec and the state dict gives the same outputs."""
    spec = NetSpec.from_dict(spec_of(net).to_dict())
    twin = build(spec.arch, io=spec.io, args=dict(spec.args)).eval()
    twin.load_state_dict(net.state_dict())
    _same(net(*toy_inputs(net)), twin(*toy_inputs(net)), "after a checkpoint round trip", 1e-6)


@check
def compiles_without_a_graph_break(net: nn.Module) -> None:
    """torch.compile(fullgraph=True) gives the same outputs."""
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    _same(net(*toy_inputs(net)), compiled(*toy_inputs(net)), "compiled and eager")


@check
def exports(net: nn.Module) -> None:
    """torch.export gives a program with the same outputs."""
    program = torch.export.export(net, toy_inputs(net))
    _same(net(*toy_inputs(net)), program.module()(*toy_inputs(net)), "exported and eager")


def toy_network(arch: str, io: IOSpec = TOY, args: dict[str, Any] | None = None) -> nn.Module:
    """A small awakened network of an architecture: its toy size, or its constructor's defaults."""
    torch.manual_seed(0)
    return awaken(build(arch, entry(arch).toy or None, io=io, args=args))


def run(arch: str, args: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    """(check, what went wrong) for every check; "" where nothing did."""
    results = []
    for name, function in CHECKS.items():
        try:
            function(toy_network(arch, args=args))
            results.append((name, ""))
        except AssertionError as error:
            results.append((name, str(error)))
        except Exception as error:  # any failure of a stranger's class is a finding, not a crash
            last = traceback.extract_tb(error.__traceback__)[-1]
            results.append((name, f"{type(error).__name__}: {error} ({last.name}, line {last.lineno})"))
    return results


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m architectures.check", description=__doc__)
    parser.add_argument("arch", help=f"{', '.join(names())}, or package.module:Class")
    arch = parser.parse_args(argv).arch
    sys.path.insert(0, "")
    try:
        toy_network(arch)
    except ValueError as error:
        print(f"architectures.check: {error}", file=sys.stderr)
        return 2
    results = run(arch)
    for name, problem in results:
        promise = (CHECKS[name].__doc__ or "").strip()
        print(f"{'FAIL' if problem else 'ok  '}  {name.replace('_', ' ')}: {problem or promise}")
    failed = sum(bool(problem) for _, problem in results)
    print(f"{arch}: {len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
