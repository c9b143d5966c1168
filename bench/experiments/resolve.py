"""Resolve a run request to a complete RunConfig."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from bench.config.overrides import parse_json_or_text
from bench.config.schema import RunConfig
from bench.costs import matching
from bench.data import autoencoder, dataset, sources
from bench.experiments import presets, pretrained_weights
from bench.storage.run_folder import RunFolder


def resolve(wishes: list[presets.RunRequest]) -> list[RunConfig]:
    """Configurations of the wishes, matched where they ask for it; ValueError says what cannot be."""
    return [
        with_decoder(_of_checkpoint(wish) if wish.checkpoint else solve_size(presets.compose_config(wish)))
        for wish in wishes
    ]


def load_requested_checkpoint(wish: presets.RunRequest) -> pretrained_weights.LoadedCheckpoint:
    """The network of --checkpoint; model.args are the arguments of the published constructor."""
    first = "model.args."
    given = tuple((k.removeprefix(first), v) for k, v in wish.settings.items() if k.startswith(first))
    return _read(Path(wish.checkpoint), wish.arch, given)


@lru_cache(maxsize=1)
def _read(path: Path, arch: str, given: tuple[tuple[str, str], ...]) -> pretrained_weights.LoadedCheckpoint:
    """A file is read once for its plan and its weights; `install` lets go of it."""
    try:
        return pretrained_weights.read_checkpoint(path, arch, {k: parse_json_or_text(v) for k, v in given})
    except ValueError as error:
        hint = ", with --set model.args.num_heads=N" if str(error).endswith("pass num_heads") else ""
        raise ValueError(f"{error}{hint}") from None


def _of_checkpoint(wish: presets.RunRequest) -> RunConfig:
    found = load_requested_checkpoint(wish)
    return presets.checkpoint_config(
        wish,
        arch=found.spec.arch,
        size=found.size(),
        args=found.spec.args,
        io=found.spec.io,
        weights=found.sha256,
        process=found.diffusion,
    )


def install_checkpoints(wishes: list[presets.RunRequest], runs: Iterable[RunFolder]) -> None:
    """Put the weights of --checkpoint where sampling looks for a snapshot, unless they are there."""
    for wish, run in zip(wishes, runs, strict=True):
        target = run.snapshot_path(0)
        if wish.checkpoint and not target.is_file():
            pretrained_weights.write_snapshot(load_requested_checkpoint(wish), target)
    _read.cache_clear()


def solve_size(config: RunConfig) -> RunConfig:
    """The config with its network's size solved, if it is to be matched, and the match in its full form."""
    model = config.model
    if not model.match:
        return config
    wanted = matching.parse_match(model.match)
    solution = matching.solve_size(
        model.arch, presets.network_io(config), wanted, model.tolerance, model.size, model.args
    )
    full = f"{wanted.by}:{wanted.arch}:{wanted.size}"
    return replace(config, model=replace(model, size="", match=full, solved=solution.args))


def with_decoder(config: RunConfig) -> RunConfig:
    """The config with the autoencoder that decodes its latents: that which made them, unless another is named."""
    d, e = config.data, config.evaluation
    source = sources.open_source(d.name, d.root)
    if not source.latent:
        return config
    folder, sha256 = e.decoder, ""
    if folder and (Path(folder) / "config.json").is_file():
        sha256 = autoencoder.hash_autoencoder(folder, autoencoder.read_autoencoder(folder))
    elif not folder:
        folder, sha256 = source.decoder, source.decoder_hash
    return replace(config, evaluation=replace(e, decoder=folder, decoder_hash=sha256))


def check_decoder(config: RunConfig, what: dataset.DataSource, resolution: int) -> None:
    """ValueError where a run's latents cannot be decoded to images of the reference's size."""
    folder = config.evaluation.decoder
    vae = autoencoder.load_autoencoder(folder, config.evaluation.decoder_hash)
    shape = autoencoder.latent_shape(vae, resolution)
    if shape != (what.channels, what.size, what.size):
        raise ValueError(
            f"{folder} has latents {shape} for images of {resolution} pixels; {config.data.name} has "
            f"{(what.channels, what.size, what.size)}: name its own with --set evaluation.decoder=PATH"
        )
