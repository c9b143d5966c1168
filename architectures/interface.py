"""What a backbone is told and what it must be: the contract every network here signs.

A backbone is an ``nn.Module`` whose constructor takes an :class:`IOSpec` first and whose forward is
``net(x, t, cond)``:

- ``x``     (B, C, H, W) noisy pixels or latents
- ``t``     (B,) float, the time value of the published network (0..999 for DiT and ADM)
- ``cond``  (B,) int64 class labels, ``io.num_classes`` being the null class; or a
  :class:`TextCondition`; or a :class:`Conditions` where several come together; None without any

It returns (B, C, H, W), or (B, 2C, H, W) when ``io.variance`` is "learned_range": the noise
prediction, then the variance fraction v of iDDPM (arXiv:2102.09672, equation 15).
Guidance, label dropping, precision, EMA and compilation are not a backbone's business.

This module imports nothing heavy, so that sizes and names can be listed without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import UnionType
from typing import Any, Literal, NamedTuple, Protocol, Union, get_args, get_origin, get_type_hints

Variance = Literal["fixed", "learned_range"]


class TextCondition(NamedTuple):
    """A text as its encoder gives it; a tuple, so that compiling and exporting see its tensors."""

    tokens: Any
    """(B, S, D) encoded tokens, D being ``io.text_dim``."""
    mask: Any = None
    """(B, S) bool, True where a token counts; None when all do."""
    pooled: Any = None
    """(B, D') summary of the text, for the backbones that have a use for one."""


class Conditions(NamedTuple):
    """Several conditions at once."""

    label: Any = None
    """(B,) int64."""
    text: TextCondition | None = None
    image: Any = None
    """(B, ``io.image_channels``, h, w) image to be upsampled (ADM-U), of any size."""


def conditions(cond: Any) -> Conditions:
    """What a network was given as `cond`, by name."""
    if isinstance(cond, Conditions):
        return cond
    if isinstance(cond, TextCondition):
        return Conditions(text=cond)
    return Conditions(label=cond)


@dataclass(frozen=True, kw_only=True, slots=True)
class IOSpec:
    """Shape of the problem a network is built for."""

    channels: int
    """Channels C of x."""
    size: int
    """Height and width of x, in pixels or latent cells."""
    num_classes: int = 0
    """Class labels run from 0 to num_classes - 1; 0 means unconditional."""
    null_label: bool = True
    """Whether label num_classes exists and means "no class" (needed for guidance)."""
    variance: Variance = "fixed"
    """"learned_range" doubles the output channels."""
    text_dim: int = 0
    """Width of the text's tokens; 0 means no text."""
    text_tokens: int = 0
    """Tokens of a text; 0 leaves it open, for backbones that attend to any number."""
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
            raise ValueError(f"text_tokens is {self.text_tokens} with text_dim {self.text_dim}; give both or neither")
        if self.variance not in ("fixed", "learned_range"):
            raise ValueError(f"variance is {self.variance!r}; choose fixed or learned_range")

    @property
    def out_channels(self) -> int:
        return self.channels * (2 if self.variance == "learned_range" else 1)

    @property
    def label_rows(self) -> int:
        """Rows of a label table: one a class, and one for the null class where there is one."""
        return self.num_classes + int(self.null_label) if self.num_classes else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class NetSpec:
    """What a network was built from; enough to build it again (`architectures.build(**...)`)."""

    arch: str
    io: IOSpec
    args: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"arch": self.arch, "io": asdict(self.io), "args": dict(self.args)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NetSpec:
        return cls(arch=data["arch"], io=IOSpec(**data["io"]), args=dict(data["args"]))


class EpsNet(Protocol):
    """The static face of a backbone; `python -m architectures.check` tests the rest.

    Optional class attributes: ``sizes`` (name -> constructor arguments), ``paper`` (where it comes
    from) and ``free``, which lets `bench.match` choose a configuration of a given cost.
    """

    spec: NetSpec

    def __call__(self, x: Any, t: Any, cond: Any = None) -> Any: ...


LABEL_MISSING = "this network is class-conditional: pass cond, a (B,) tensor of labels"
TEXT_MISSING = "this network is text-conditional: pass cond, a TextCondition"
IMAGE_MISSING = "this network upsamples an image: pass cond, Conditions(image=..., label=...)"

Free = Mapping[str, Sequence[Any]]
"""Free dimensions for the matcher: argument -> values.

Cost should be quadratic in the last one (a width) and linear in other whole numbers (a depth); the
matcher relies on it to look in the right place, and counts what it finds there.
"""


def require_divisible(what: str, value: int, by: int, hint: str) -> None:
    """Raise ValueError unless `by` divides `value`."""
    if by < 1 or value % by:
        raise ValueError(f"{what} {value} is not divisible by {by}; {hint}")


def require_choices(choices: Mapping[str, Iterable[str]], **given: str) -> None:
    """Raise ValueError unless each value is among the choices of its name."""
    for name, value in given.items():
        if value not in choices[name]:
            raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices[name])}")


def require_types(cls: type, args: Mapping[str, Any]) -> None:
    """Raise ValueError where a value is not of the kind that the constructor's annotation names.

    Whole numbers, numbers, switches, None and sequences of them are checked; the rest is the class's affair.
    """
    try:
        hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    except (NameError, TypeError):
        return  # annotations that mean something to their own module only
    for name, value in args.items():
        if not _fits(value, hints.get(name)):
            raise ValueError(f"{name} is {value!r}; it must be {_words(hints[name])}")


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Sequence:
        return isinstance(value, Sequence) and all(_fits(part, get_args(hint)[0]) for part in value)
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return hint not in _KINDS or isinstance(value, hint)


def _words(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_words(part) for part in get_args(hint))
    if get_origin(hint) is Sequence:
        return f"a list, each item {_words(get_args(hint)[0])}"
    return _KINDS.get(hint, str(hint))


def require_no(io: IOSpec, arch: str, *fields: str) -> None:
    """Raise ValueError when the problem has a condition that the architecture cannot take."""
    for name in fields:
        if getattr(io, name):
            raise ValueError(f"{arch} takes no {name.split('_')[0]} condition, but {name} is {getattr(io, name)}")
