"""Interface of a backbone: its inputs, its output and the description from which it can be rebuilt.

A backbone is an ``nn.Module`` whose constructor takes an :class:`IOSpec` first and whose forward is
``net(x, t, cond)``:

- ``x``     (B, C, H, W) noisy pixels or latents
- ``t``     (B,) float, time in the units of the published network (0..999 for DiT and ADM)
- ``cond``  (B,) int64 class labels, where ``io.num_classes`` is the null class; or a
  :class:`TextCondition`; or a :class:`Conditions` for several conditions; or None

It returns (B, C, H, W), or (B, 2C, H, W) when ``io.variance`` is "learned_range": the noise
prediction, then the variance fraction v of iDDPM (arXiv:2102.09672, equation 15).
Guidance, label dropping, precision, EMA and compilation are not part of a backbone.

This module imports no torch, so that sizes and names can be listed quickly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import UnionType
from typing import Any, Literal, NamedTuple, Protocol, Union, get_args, get_origin, get_type_hints

Variance = Literal["fixed", "learned_range"]


class TextCondition(NamedTuple):
    """Output of a text encoder; a tuple, so that torch.compile and torch.export see its tensors."""

    tokens: Any
    """(B, S, D) encoded tokens, where D is ``io.text_dim``."""
    mask: Any = None
    """(B, S) bool, True for tokens to attend to; None for all."""
    pooled: Any = None
    """(B, D') pooled embedding of the text, for backbones that use one."""


class Conditions(NamedTuple):
    """Several conditions at once."""

    label: Any = None
    """(B,) int64."""
    text: TextCondition | None = None
    image: Any = None
    """(B, ``io.image_channels``, h, w) image to upsample (ADM-U); h and w are free."""


def as_conditions(cond: Any) -> Conditions:
    """Convert any form of `cond` to Conditions."""
    if isinstance(cond, Conditions):
        return cond
    if isinstance(cond, TextCondition):
        return Conditions(text=cond)
    return Conditions(label=cond)


@dataclass(frozen=True, kw_only=True, slots=True)
class IOSpec:
    """Shapes of a network's input, output and conditions."""

    channels: int
    """Channels C of x."""
    size: int
    """Height and width of x, in pixels or latent positions."""
    num_classes: int = 0
    """Class labels run from 0 to num_classes - 1; 0 means unconditional."""
    null_label: bool = True
    """Whether label num_classes exists and means "no class" (needed for guidance)."""
    variance: Variance = "fixed"
    """"learned_range" doubles the output channels."""
    text_dim: int = 0
    """Width of the text tokens; 0 means no text."""
    text_tokens: int = 0
    """Number of text tokens; 0 means any number, for backbones that allow it."""
    image_channels: int = 0
    """Channels of an image condition; 0 means none."""

    def __post_init__(self) -> None:
        for name in ("channels", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name, none in (("num_classes", "unconditional"), ("text_dim", "no text"), ("image_channels", "no image")):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; 0 means {none}")
        if self.text_tokens < 0 or (self.text_tokens and not self.text_dim):
            raise ValueError(
                f"text_tokens is {self.text_tokens} with text_dim {self.text_dim}; "
                "it must be at least 0, and above 0 it needs text_dim"
            )
        if self.variance not in ("fixed", "learned_range"):
            raise ValueError(f"variance is {self.variance!r}; choose fixed or learned_range")

    @property
    def out_channels(self) -> int:
        return self.channels * (2 if self.variance == "learned_range" else 1)

    @property
    def label_rows(self) -> int:
        """Rows of a label table: one for each class, and one for the null class if there is one."""
        return self.num_classes + int(self.null_label) if self.num_classes else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class NetSpec:
    """Architecture, shapes and arguments of a network; `architectures.build` rebuilds it from them."""

    arch: str
    io: IOSpec
    args: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"arch": self.arch, "io": asdict(self.io), "args": dict(self.args)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NetSpec:
        return cls(arch=data["arch"], io=IOSpec(**data["io"]), args=dict(data["args"]))


class EpsNet(Protocol):
    """Static type of a backbone; `python -m architectures.check` tests the rest of the contract.

    Optional class attributes: ``sizes`` (name -> constructor arguments), ``paper`` (its source) and
    ``free``, which lists the arguments that `bench.match` may change to reach a given cost.
    """

    spec: NetSpec

    def __call__(self, x: Any, t: Any, cond: Any = None) -> Any: ...


LABEL_MISSING = "this network is class-conditional: pass cond, a (B,) tensor of labels"
TEXT_MISSING = "this network is text-conditional: pass cond, a TextCondition"
IMAGE_MISSING = "this network upsamples an image: pass cond, Conditions(image=..., label=...)"

Free = Mapping[str, Sequence[Any]]
"""Arguments that the equal-cost matcher may change: argument -> allowed values.

Cost should be quadratic in the last argument (a width) and linear in other integers (a depth).  The matcher uses
this to choose its candidates, and counts the cost of each.
"""


def require_divisible(what: str, value: int, by: int, hint: str) -> None:
    """Raise ValueError unless `by` divides `value`."""
    if by < 1 or value % by:
        raise ValueError(f"{what} {value} is not divisible by {by}; {hint}")


def require_choices(choices: Mapping[str, Iterable[str]], **values: str) -> None:
    """Raise ValueError unless each value is one of the choices for its name."""
    for name, value in values.items():
        if value not in choices[name]:
            raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices[name])}")


def require_types(cls: type, args: Mapping[str, Any]) -> None:
    """Raise ValueError for a value of another type than the annotation of the constructor.

    This checks int, float, bool, None and sequences of them.  The class itself checks all other types.
    """
    try:
        hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    except (NameError, TypeError):
        return  # annotations that cannot be evaluated outside their module
    for name, value in args.items():
        if not _matches_type(value, hints.get(name)):
            raise ValueError(f"{name} is {value!r}; it must be {_describe_type(hints[name])}")


_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def _matches_type(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_matches_type(value, part) for part in get_args(hint))
    if get_origin(hint) is Sequence:
        return isinstance(value, Sequence) and all(_matches_type(part, get_args(hint)[0]) for part in value)
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return hint not in _TYPE_NAMES or isinstance(value, hint)


def _describe_type(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_describe_type(part) for part in get_args(hint))
    if get_origin(hint) is Sequence:
        return f"a list, each item {_describe_type(get_args(hint)[0])}"
    return _TYPE_NAMES.get(hint, str(hint))


def require_no(io: IOSpec, arch: str, *fields: str) -> None:
    """Raise ValueError if `io` has a condition that the architecture does not support."""
    for name in fields:
        if getattr(io, name):
            raise ValueError(f"{arch} takes no {name.split('_')[0]} condition, but {name} is {getattr(io, name)}")
