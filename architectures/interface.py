"""What a backbone is told and what it must be: the contract every network here signs.

A backbone is an ``nn.Module`` whose constructor takes an :class:`IOSpec` first and whose forward is
``net(x, t, cond)``:

- ``x``     (B, C, H, W) noisy pixels or latents
- ``t``     (B,) float, the time value of the published network (0..999 for DiT and ADM)
- ``cond``  (B,) int64 class labels, ``io.num_classes`` being the null class; None without classes

It returns (B, C, H, W), or (B, 2C, H, W) when ``io.variance`` is "learned_range": the noise
prediction, then the variance fraction v of iDDPM (arXiv:2102.09672, equation 15).
Guidance, label dropping, precision, EMA and compilation are not a backbone's business.

This module imports nothing heavy, so that sizes and names can be listed without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

Variance = Literal["fixed", "learned_range"]


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

    def __post_init__(self) -> None:
        for name in ("channels", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.num_classes < 0:
            raise ValueError(f"num_classes is {self.num_classes}; 0 means unconditional")
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


Free = Mapping[str, Sequence[Any]]
"""Free dimensions for the matcher: argument -> values.  Cost grows with the last one's values."""


def require_divisible(what: str, value: int, by: int, hint: str) -> None:
    """Raise ValueError unless `by` divides `value`."""
    if by < 1 or value % by:
        raise ValueError(f"{what} {value} is not divisible by {by}; {hint}")
