"""Typed, frozen configuration of one run: all settings with units and defaults.

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
"""Precision of arithmetic; bf16 is autocast over float32 weights."""
ProtocolName = Literal["adm", "torch-fidelity"]
"""Definition of the inception score (evaluation.protocol)."""


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
    """Registered size; "" if model.args define the whole network."""
    args: dict[str, Any] = field(default_factory=dict)
    """Constructor arguments that override those of the size, e.g. model.args.conditioning=adaln."""
    match: str = ""
    """Match the cost of a reference network, [macs|params]:ARCH:SIZE; "" matches no cost."""
    tolerance: float = 0.02
    """Largest relative difference of a matched cost."""
    solved: dict[str, Any] = field(default_factory=dict)
    """Constructor arguments chosen by cost matching; set when the run is planned."""
    weights: str = ""
    """SHA-256 of published weights, which replace training; set by --checkpoint."""
    io: dict[str, Any] = field(default_factory=dict)
    """Input and output shapes of the network of published weights; set by --checkpoint."""

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
    """Hash of the data, independent of its path; set when the run is planned."""

    @property
    def title(self) -> str:
        """Name in records and tables, without folders."""
        return dataset_title(self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionConfig:
    """The forward process, and the time input and variance output of the network."""

    __pydantic_config__ = SETTINGS

    steps: int = 1000
    """Training timesteps."""
    schedule: Literal["linear", "cosine", "sqrt_linear", "ldm", "vp"] = "linear"
    """Noise schedule. linear: DDPM's betas 1e-4..0.02; cosine: iDDPM's; sqrt_linear: betas linear in the square root,
    Stable Diffusion's 0.00085..0.012; ldm: the same with LDM's 0.0015..0.0195; vp: U-ViT's continuous one, 0.1..20."""
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
    """Training recipe: AdamW with a constant learning rate after a linear warm-up."""

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
    """Training images seen, over all processes (default: 400,000 steps of 256)."""
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
    """SHA-256 of the decoder's configuration and tensors; set when the run is planned."""
    samples: int = 50_000
    """Number of images to sample."""
    sampler: Literal["ddpm", "ddim", "dpm++", "heun", "dpm-fast", "euler-sde"] = "ddpm"
    """Sampler. ddpm: ancestral; ddim: with evaluation.eta; dpm++: second-order multistep DPM-Solver++; heun: EDM's;
    dpm-fast: U-ViT's third-order DPM-Solver; euler-sde: U-ViT's Euler-Maruyama, for schedule vp only."""
    eta: float = 0.0
    """Noise that ddim adds: 0 none, 1 as much as ddpm."""
    steps: int = 250
    """Network evaluations per image (twice that with guidance)."""
    spacing: Literal["leading", "trailing", "linspace", "adm", "ldm"] = "adm"
    """Selection of timesteps. leading, trailing, linspace: as in diffusers; adm: the respaced process of ADM and DiT;
    ldm: the timesteps of LDM's DDIM. The samplers dpm-fast and euler-sde choose their own times."""
    clip: bool = False
    """Clip the predicted clean image to [-1, 1] (pixels, not latents)."""
    guidance: float = 1.0
    """Classifier-free guidance scale w, eps_null + w (eps - eps_null); 1 is off; U-ViT's scale is w - 1."""
    guidance_channels: Literal["all", "three"] = "all"
    """Guided noise channels. three: DiT's form, which leaves the fourth channel of a latent unguided."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Interval in which guidance acts, from 0 (clean) to 1 (noise), e.g. [0.1,0.7] (arXiv:2404.07724)."""
    seed: int = 0
    """Image i starts from noise (seed, i)."""
    batch: int = 250
    """Batch size of sampling; has no effect on the images."""
    precision: Precision = "fp32"
    """Precision of sampling; with tf32 and bf16, images differ slightly from those of fp32."""

    def __post_init__(self) -> None:
        _positive(self, "evaluation", "steps", "batch")
        if self.samples < 20:
            raise ValueError(f"evaluation.samples is {self.samples}; the metrics and their intervals need at least 20")
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
            words = "heun takes two network evaluations per step and one in the last, so it must be odd"
            raise ValueError(f"evaluation.steps is {self.steps}; {words}")

    @property
    def forward_passes(self) -> int:
        """Forward passes per image.  Guidance adds one per step within its interval, estimated from its length."""
        low, high = self.guidance_interval
        return self.steps + (0 if self.guidance == 1 else round(self.steps * (high - low)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """Execution on a machine.  No setting here changes the identity of a run."""

    __pydantic_config__ = SETTINGS

    device: Device = "auto"
    """Device; auto uses a GPU if there is one."""
    threads: int = 0
    """CPU threads per process; 0 leaves torch's default."""
    tflops: float = 200.0
    """Sustained TFLOP/s per accelerator, from which --dry-run estimates hours."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints, besides those at evaluation points."""
    keep: int = 2
    """Number of checkpoints to keep."""
    export: Literal["none", "npz", "png"] = "none"
    """Export of sampled images. npz: one file in ADM's layout; png: a folder; none: only features are stored."""
    processes: int = 0
    """Processes of a run on this machine; 0 starts one. On SLURM, set slurm.tasks_per_node instead."""
    sharding: Literal["none", "fsdp"] = "none"
    """none: every process holds the whole network (DDP); fsdp: weights, EMA and optimizer state are sharded."""
    micro_batch: int = -1
    """Micro-batch per process for gradient accumulation. 0: no accumulation; -1: the largest that fits into GPU
    memory (found by halving), and no accumulation on a CPU."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """Precision of training. bf16: autocast over float32 weights; auto: bf16 on a GPU that supports it, otherwise fp32.
    Sampling uses evaluation.precision."""
    compile: Literal["auto", "none", "blocks", "graphs"] = "auto"
    """torch.compile in training and sampling. blocks: each block of the network; graphs: the whole network in CUDA
    graphs, for small networks that are bound by kernel launches; auto: blocks on a GPU, none on a CPU."""
    activation_checkpointing: Literal["none", "blocks"] = "none"
    """blocks: store only the inputs of blocks, and recompute the rest in the backward pass."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Memory order of images in convolutions; auto is on for convolutional networks on a GPU."""
    workers: int = -1
    """Threads that prefetch batches; 0 loads them in the training loop; -1 uses up to 4 with a GPU, 0 on a CPU."""
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
            raise ValueError("compute.compile is graphs, which compute.sharding fsdp does not support; use blocks")


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
            raise ValueError("track published and model.weights need each other; use --checkpoint FILE")
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
        """Return the settings that determine the result, without compute settings, paths and sampling batch size."""
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
