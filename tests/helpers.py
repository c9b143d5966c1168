"""Small configurations, data sets and waiting functions for tests."""

import dataclasses
import re
import subprocess
import time
from pathlib import Path

from bench.config.overrides import load_config
from bench.experiments import presets
from bench.storage.atomic import write_json
from bench.storage.run_folder import RunFolder

TINY = {
    "budget.images": "96",
    "budget.points": "2",
    "recipe.batch": "16",
    "evaluation.samples": "40",
    "evaluation.steps": "3",
    "evaluation.batch": "25",
    "compute.threads": "1",
    "compute.checkpoint_seconds": "0.001",
}
SMALLEST = {
    "dit": {"model.args.depth": "1", "model.args.width": "32", "model.args.heads": "2"},
    "uvit": {"model.args.depth": "2", "model.args.width": "32", "model.args.heads": "2"},
    "unet": {"model.args.channels": "32"},
    "genvit": {"model.args.depth": "1", "model.args.width": "32", "model.args.heads": "2"},
}


def tiny_config(arch="dit", **settings):
    """Compose a run of a few steps; `settings` are --set keys with two underscores for each dot."""
    overrides = {k.replace("__", "."): str(v) for k, v in settings.items()}
    return presets.compose_config(
        presets.RunRequest(arch=arch, data="digits", settings={**TINY, **SMALLEST[arch], **overrides})
    )


def make_run(path, config):
    """Create a run folder with its config, as bench.run does."""
    run = RunFolder.of(path, config.name)
    run.path.mkdir(parents=True, exist_ok=True)
    write_json(run.path / "config.json", config.to_dict())
    return run


def run_context(run, config=None, dataset=None, **more):
    """A run's context; its data set is opened unless it is passed."""
    from bench.data.sources import open_dataset, open_source
    from bench.training.distributed import SINGLE_PROCESS, device_of
    from bench.training.run_context import RunContext

    config = config or load_config(run.path)
    source = open_source(config.data.name, config.data.root)
    return RunContext(
        run=run,
        config=config,
        source=source,
        dataset=dataset or open_dataset(config.data),
        io=presets.network_io(config, source),
        device=device_of(config, more.get("world", SINGLE_PROCESS)),
        **more,
    )


def evaluation_context(run, config=None, dataset=None, **more):
    """A run's evaluation context: its run context and its extractor."""
    from bench.evaluation.evaluator import EvaluationContext

    return EvaluationContext.prepare(run_context(run, config, dataset, **more))


def replaced(config, section, **values):
    """Return the config with fields of one section replaced."""
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})


def ask(*command):
    """Return the output of a command; raise if it fails."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


LONG = 300
"""Timeout in seconds, long enough for a busy machine."""


def until(true, seconds=LONG, wait=0.2):
    """Call `true` until its result is truthy or the time is over; return the last result."""
    deadline = time.monotonic() + seconds
    while not (done := true()) and time.monotonic() < deadline:
        time.sleep(wait)
    return done


def state_of(job):
    """Return SLURM's state of a job."""
    return ask("sacct", "-X", "-n", "-P", "-o", "State", "-j", str(job))


def words_of(settings):
    """Return --set arguments for {key: value}."""
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def save_vae(folder, kind="AutoencoderKL", seed=0, latents=4, down=2, **more):
    """Save a tiny seeded autoencoder in diffusers' layout; images are 2 ** (down - 1) times the size of latents."""
    import diffusers
    import torch

    torch.manual_seed(seed)
    vae = getattr(diffusers, kind)(
        block_out_channels=(32,) * down,
        down_block_types=("DownEncoderBlock2D",) * down,
        up_block_types=("UpDecoderBlock2D",) * down,
        latent_channels=latents,
        **more,
    )
    vae.save_pretrained(folder)
    return folder


def save_images(folder, count=24, size=16, classes=3, seed=0):
    """Save a data set of random RGB images as two arrays."""
    import numpy as np

    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", coarse.repeat(size // 4, 2).repeat(size // 4, 3))
    np.save(folder / "labels.npy", np.arange(count) % classes)
    return folder


def few_shapes():
    """Return the design of the shapes CNN, trained on few images."""
    from bench.evaluation.extractors import small_cnn

    return dataclasses.replace(
        small_cnn.DESIGNS["shapes-cnn"], examples=lambda: small_cnn.shapes_training_images(640), epochs=2
    )


def readme_block(path, marker):
    """Return the Python block of a Markdown file (relative to the repository) that starts with `# marker`."""
    text = (Path(__file__).parents[1] / path).read_text()
    block = re.search(rf"```python\n(# {marker}.*?)```", text, re.S)
    assert block, f"{path} has no block that starts with '# {marker}'"
    return block[1]
