"""The typed, frozen configuration of one run: every choice that can be made, with its unit and default.

`--set section.key=value` reaches every field below.  Configs are checked when they are built; a
ValueError names the setting and the values that it takes.  Imports no torch.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from bench.config import timestep_respacing
from bench.config.identity import MACHINE, ConfigIdentity, digest_json, without
from bench.config.naming import dataset_title
from bench.config.validation import SETTINGS

Track = Literal["shared", "native", "published"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "tf32", "bf16"]
"""Of arithmetic: bf16 is autocast over float32 weights."""
ProtocolName = Literal["adm", "torch-fidelity"]
"""Whose inception score is computed."""


def _positive(owner: Any, section: str, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not value > 0:
            raise ValueError(f"{section}.{name} is {value}; it must be greater than 0")


def _fraction(owner: Any, section: str, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not 0 <= value < 1:
            raise ValueError(f"{section}.{name} is {value}; it must be at least 0 and below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The backbone."""

    __pydantic_config__ = SETTINGS

    arch: str = "dit"
    """Registered name, or package.module:Class."""
    size: str = ""
    """Registered size; "" together with args alone."""
    args: dict[str, Any] = field(default_factory=dict)
    """Constructor arguments that win over the size's, e.g. model.args.conditioning=adaln."""
    match: str = ""
    """Equal cost with a reference: [macs|params]:ARCH:SIZE; "" keeps the size as it is."""
    tolerance: float = 0.02
    """Largest relative difference of a matched cost."""
    solved: dict[str, Any] = field(default_factory=dict)
    """Constructor arguments that the cost matching chose; filled in by the plan."""
    weights: str = ""
    """SHA-256 of the published weights that are sampled from instead of training; filled in from --checkpoint."""
    io: dict[str, Any] = field(default_factory=dict)
    """Input and output shapes of those weights' network; filled in with them."""

    def __post_init__(self) -> None:
        _positive(self, "model", "tolerance")

    @property
    def network(self) -> dict[str, Any]:
        """Constructor arguments in addition to the size's."""
        return {**self.solved, **self.args}

    @property
    def label(self) -> str:
        """Name in tables: architecture, size and the arguments that differ from it."""
        parts = [self.arch.rpartition(":")[2], *([self.size] if self.size else [])]
        if self.weights:
            return " ".join([*parts, f"weights {self.weights[:8]}"])
        return " ".join([*parts, *(f"{k}={v}" for k, v in sorted(self.args.items()))])


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The training set."""

    __pydantic_config__ = SETTINGS

    name: str = "digits"
    """A name of --list, a path (images, an archive, parquet, arrays) or latents:PATH; PATH@64 crops to 64 pixels."""
    root: str = "data"
    """Folder that holds the data sets of --list which are not built in."""
    flip: Literal["auto", "never", "always"] = "auto"
    """Whether training mirrors half of the images; auto follows the data set (photographs yes; digits, shapes no)."""
    hash: str = ""
    """Hash of the data, independent of its path; filled in by the plan."""

    @property
    def title(self) -> str:
        """Name in records and tables, without folders."""
        return dataset_title(self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionConfig:
    """The forward process and what the network predicts."""

    __pydantic_config__ = SETTINGS

    steps: int = 1000
    """Training timesteps."""
    schedule: Literal["linear", "cosine", "sqrt_linear", "ldm", "vp"] = "linear"
    """Betas: DDPM's linear 1e-4..0.02; iDDPM's cosine; linear in the root, Stable Diffusion's sqrt_linear
    0.00085..0.012 or LDM's ldm 0.0015..0.0195; vp is U-ViT's continuous one, beta 0.1..20."""
    time: Literal["index", "count", "continuous", "rescaled"] = "index"
    """Time input of the network: index 0..steps-1 (DiT, ADM, LDM), count 1..steps (U-ViT's
    discrete models), continuous 999 t (U-ViT's continuous ones), rescaled index * 1000 / steps (iDDPM)."""
    variance: Literal["fixed", "learned_range"] = "fixed"
    """learned_range adds iDDPM's variance channels and the term L_vlb."""

    def __post_init__(self) -> None:
        _positive(self, "diffusion", "steps")
        if self.schedule == "vp" and self.variance != "fixed":
            raise ValueError("diffusion.variance is learned_range, which the continuous schedule vp lacks; use fixed")


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeConfig:
    """How the network is trained: AdamW at a constant rate after a linear warm-up."""

    __pydantic_config__ = SETTINGS

    name: str = "shared"
    """Preset that these values come from."""
    lr: float = 1e-4
    """Learning rate."""
    beta1: float = 0.9
    """AdamW's first beta."""
    beta2: float = 0.999
    """AdamW's second beta."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    warmup: int = 0
    """Steps of linear warm-up."""
    batch: int = 256
    """Batch size, over all processes."""
    clip: float = 0.0
    """Maximum gradient norm; 0 turns clipping off."""
    ema: float = 0.9999
    """EMA decay per step."""
    ema_ramp: bool = False
    """EMA warm-up: decay min(ema, (1 + step) / (10 + step))."""
    label_drop: float = 0.1
    """Class dropout probability: share of labels replaced by the null class."""

    def __post_init__(self) -> None:
        _positive(self, "recipe", "lr", "batch")
        _fraction(self, "recipe", "beta1", "beta2", "ema", "label_drop")
        for name in ("weight_decay", "warmup", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"recipe.{name} is {getattr(self, name)}; it must be at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetConfig:
    """Length of training."""

    __pydantic_config__ = SETTINGS

    images: int = 102_400_000
    """Training images seen, over all processes (400,000 steps of 256)."""
    points: int = 4
    """Evaluation points, equally spaced; the last is the end."""

    def __post_init__(self) -> None:
        _positive(self, "budget", "points")
        if self.images < 0 or (self.images == 0 and self.points != 1):  # 0: weights that others trained
            raise ValueError(f"budget.images is {self.images}; it must be greater than 0")
        if self.images > 10**15:
            raise ValueError(f"budget.images is {self.images}; it must be at most 10^15")
        if self.points > max(1, self.images):
            raise ValueError(f"budget.points is {self.points}; it must be at most budget.images, {self.images}")

    @property
    def evaluation_points(self) -> list[int]:
        """Image counts of the evaluation points, equally spaced; the last is `images`."""
        return [self.images * (i + 1) // self.points for i in range(self.points)]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Sampling and metrics."""

    __pydantic_config__ = SETTINGS

    extractor: str = "inception-v3-compat"
    """Feature extractor: inception-v3-compat (torch-fidelity's), digits-cnn or shapes-cnn."""
    weights: str = ""
    """File of the extractor's weights; "" looks in torch's cache."""
    protocol: ProtocolName = "adm"
    """Definition of the inception score: adm takes chunks of 5,000 in file order, torch-fidelity ten shuffled parts."""
    decoder: str = ""
    """Folder of the AutoencoderKL (diffusers layout) that decodes latents; "" is the one that bench.encode used."""
    decoder_hash: str = ""
    """SHA-256 of its configuration and tensors; filled in by the plan."""
    samples: int = 50_000
    """Number of images to sample."""
    sampler: Literal["ddpm", "ddim", "dpm++", "heun", "dpm-fast", "euler-sde"] = "ddpm"
    """ddpm is ancestral; ddim, with eta; dpm++ is the second-order multistep DPM-Solver++; heun is EDM's; for
    U-ViT, dpm-fast is its third-order DPM-Solver and euler-sde its Euler-Maruyama of schedule vp."""
    eta: float = 0.0
    """Noise that ddim adds: 0 none, 1 as much as ddpm."""
    steps: int = 250
    """Network evaluations per image (twice that with guidance)."""
    spacing: Literal["leading", "trailing", "linspace", "adm", "ldm"] = "adm"
    """Selection of timesteps: diffusers' leading, trailing and linspace; adm is the respaced process of
    ADM and DiT, ldm the timesteps of LDM's ddim; dpm-fast and euler-sde have times of their own."""
    clip: bool = False
    """Clip the predicted clean image to [-1, 1] (pixels, not latents)."""
    guidance: float = 1.0
    """Classifier-free guidance scale w, eps_null + w (eps - eps_null); 1 is off; U-ViT's scale is w - 1."""
    guidance_channels: Literal["all", "three"] = "all"
    """Which noise channels are guided: three is DiT's form, which does not guide the fourth channel of a latent."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Share of the process, 0 clean to 1 noise, within which guidance acts (arXiv:2404.07724), e.g. [0.1,0.7]."""
    seed: int = 0
    """Image i starts from noise (seed, i)."""
    batch: int = 250
    """Batch size of sampling; has no effect on the images."""
    precision: Precision = "fp32"
    """Precision of sampling; below fp32 images differ slightly from those of fp32."""

    def __post_init__(self) -> None:
        _positive(self, "evaluation", "steps", "batch")
        if self.samples < 20:
            raise ValueError(f"evaluation.samples is {self.samples}; the metrics and their intervals need 20")
        if self.guidance < 0:
            raise ValueError(f"evaluation.guidance is {self.guidance}; it must be at least 0, and 1 is off")
        low, high = self.guidance_interval
        if not 0 <= low < high <= 1:
            raise ValueError(f"evaluation.guidance_interval is [{low:g},{high:g}]; it must rise within [0,1]")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"evaluation.eta is {self.eta}; it must be from 0 to 1")
        if self.eta and self.sampler != "ddim":
            raise ValueError(f"evaluation.eta is {self.eta}, which only ddim has; {self.sampler} needs eta 0")
        if self.spacing == "ldm" and self.sampler != "ddim":
            raise ValueError(f"evaluation.spacing is ldm, which only ddim has; with {self.sampler} use adm")
        if self.sampler == "heun" and self.steps % 2 == 0:
            words = "heun takes two network evaluations a step and one in the last, so it must be odd"
            raise ValueError(f"evaluation.steps is {self.steps}; {words}")

    @property
    def forward_passes(self) -> int:
        """Forward passes an image; outside its interval guidance takes none, counted as the interval's share."""
        low, high = self.guidance_interval
        return self.steps + (0 if self.guidance == 1 else round(self.steps * (high - low)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """Where and how fast; nothing here changes a run's identity."""

    __pydantic_config__ = SETTINGS

    device: Device = "auto"
    """auto takes CUDA where there is one."""
    threads: int = 0
    """CPU threads per process; 0 leaves torch's default."""
    tflops: float = 200.0
    """Sustained TFLOP/s of one accelerator that --dry-run assumes for its hours."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints, besides those at evaluation points."""
    keep: int = 2
    """Number of checkpoints to keep."""
    export: Literal["none", "npz", "png"] = "none"
    """Sampled images kept as files: npz is one file in ADM's layout, png a folder; none keeps their features only."""
    processes: int = 0
    """Processes of a run on this machine, 0 being one; on SLURM slurm.tasks_per_node says it."""
    sharding: Literal["none", "fsdp"] = "none"
    """none: each process holds the network (DDP); fsdp: weights, EMA and optimizer state are sharded (FSDP2)."""
    micro_batch: int = -1
    """Micro-batch per process, for gradient accumulation; 0: its whole share of the batch; -1: the largest that
    fits into GPU memory, searched by halving, or on a CPU the whole share."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """Of training: bf16 is autocast over float32 weights; auto is that where a GPU has it, and fp32 on CPUs.
    Sampling has evaluation.precision."""
    compile: Literal["auto", "none", "blocks", "graphs"] = "auto"
    """torch.compile, of training and sampling: each block of the network; or the whole of it in CUDA graphs, for small
    networks whose kernels are shorter than their launches; auto is blocks on a GPU and none on CPUs."""
    activation_checkpointing: Literal["none", "blocks"] = "none"
    """blocks: only the inputs of blocks are kept for the backward pass, which computes the rest again."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Memory order of images in convolutions; auto is on for convolutional networks on a GPU."""
    workers: int = -1
    """Threads that prefetch batches; 0 loads them in the training loop; -1 is up to 4 for a GPU, 0 on CPUs."""
    rendezvous_seconds: float = 300.0
    """Seconds that the processes of a run wait for each other at the start."""
    deterministic: bool = False
    """On a GPU, use deterministic algorithms only: resuming is then bit-exact, as on CPUs."""

    def __post_init__(self) -> None:
        _positive(self, "compute", "tflops", "checkpoint_seconds", "keep", "rendezvous_seconds")
        zeros = {"threads": "leaves torch's default", "processes": "is one"}
        for name, meaning in zeros.items():
            if getattr(self, name) < 0:
                raise ValueError(f"compute.{name} is {getattr(self, name)}; 0 {meaning}")
        for name, meaning in {"micro_batch": "searches for the largest", "workers": "suits the device"}.items():
            if getattr(self, name) < -1:
                raise ValueError(f"compute.{name} is {getattr(self, name)}; -1 {meaning}")
        if self.compile == "graphs" and self.sharding == "fsdp":
            raise ValueError("compute.compile is graphs, which compute.sharding fsdp has no use for; use blocks")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One run: all settings that determine its result, and where it runs."""

    __pydantic_config__ = SETTINGS

    track: Track = "shared"
    """shared: one recipe for all; native: each paper's own; published: weights that others trained."""
    seed: int = 0
    """Seed of initialisation, data order, noise and label dropout."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be at least 0")
        if self.evaluation.steps > self.diffusion.steps:
            most = self.diffusion.steps
            raise ValueError(f"evaluation.steps is {self.evaluation.steps}; diffusion.steps allows at most {most}")
        if (self.track == "published") != bool(self.model.weights):
            raise ValueError("track published is for weights that others trained, and only that; use --checkpoint FILE")
        if not self.budget.images and not self.model.weights:
            raise ValueError("budget.images is 0; it must be greater than 0")
        self._check_sampling()

    def _check_sampling(self) -> None:
        e, d = self.evaluation, self.diffusion
        if e.sampler == "euler-sde" and d.schedule != "vp":
            raise ValueError(f"evaluation.sampler is euler-sde, which needs diffusion.schedule vp, not {d.schedule}")
        if e.sampler == "ddim" and e.spacing == "adm":
            try:
                timestep_respacing.adm_timesteps("ddim", d.steps, e.steps)
            except ValueError as error:
                raise ValueError(f"evaluation.steps is {e.steps}: {error}; use 250, or another spacing") from None
        if e.spacing == "ldm" and e.steps > d.steps // 2:
            raise ValueError(f"evaluation.steps is {e.steps}; spacing ldm takes at most half of {d.steps} timesteps")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def identity(self) -> ConfigIdentity:
        """The settings that decide the result: no compute settings, no paths, no sampling batch."""
        identity = without(self.to_dict(), MACHINE)
        identity["data"]["name"] = self.data.title
        return cast(ConfigIdentity, identity)

    @property
    def name(self) -> str:
        """Name of the run folder: architecture, size, data, seed and eight digits of the identity's hash."""
        arch = self.model.arch.rpartition(":")[2].lower()
        size = self.model.size or ("matched" if self.model.match else "custom")
        size = f"{size}-weights" if self.model.weights else size
        data = re.sub(r"[^\w.@-]", "-", self.data.title)
        words = f"{arch}-{size.replace('/', '_')}-{data}-s{self.seed}"
        return f"{words}-{digest_json(self.identity())[:8]}"
