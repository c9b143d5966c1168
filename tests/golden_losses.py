"""Losses of ten training steps of each family; run this file to write them again for this type of device:

PYTHONPATH=. python tests/golden_losses.py
"""

import json
from pathlib import Path

import torch
from helpers import tiny_config

from architectures.check import perturb_parameters
from bench.data import sources
from bench.diffusion.gaussian_diffusion import make_diffusion
from bench.experiments import presets
from bench.training import trainer, training_batch

STEPS = 10
LDM = {
    "model__args__attention_kind": "transformer",
    "model__args__label": "token",
    "model__args__norm": "add",
    "model__args__resample": "conv",
}
CASES = {
    "dit": ("dit", {}),
    "dit learned variance": ("dit", {"diffusion__variance": "learned_range", "diffusion__schedule": "linear"}),
    "uvit": ("uvit", {}),
    "uvit continuous": ("uvit", {"diffusion__schedule": "vp", "diffusion__time": "continuous"}),
    "unet": ("unet", {}),
    "ldm": ("unet", LDM),
    "genvit": ("genvit", {}),
}
"""Name -> architecture and settings."""


def losses(name, device, **settings):
    """Return the loss of each step, then the loss of the EMA weights on the next batch, in float32."""
    arch, overrides = CASES[name]
    compute = {"compute__device": device.type, "compute__precision": "fp32", "compute__compile": "none"}
    config = tiny_config(arch, recipe__lr=1e-3, recipe__warmup=5, recipe__clip=1, **compute, **overrides, **settings)
    io, arrays = presets.network_io(config), sources.load_dataset("digits")
    state, diffusion = trainer.new_training_state(config, io, device), make_diffusion(config.diffusion, device)
    perturb_parameters(state.net).train()
    state.ema.load_state_dict(state.net.state_dict())

    def batch():
        return training_batch.draw_batch(config, arrays, io.num_classes, state.step, state.images, config.recipe.batch)

    with state.engine.running():
        training = [float(trainer.train_step(state, config, diffusion, batch())) for _ in range(STEPS)]
        state.net.load_state_dict(state.ema.state_dict())
        return [*training, float(trainer.backward(state, diffusion, batch(), 1.0))]


def path(device):
    return Path(__file__).parent / "goldens" / f"losses-{device.type}.json"


def main():
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    lines = [f'  "{name}": {json.dumps(losses(name, device))}' for name in CASES]
    path(device).write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(path(device))


if __name__ == "__main__":
    main()
