"""Resolve a run request to a complete configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from architectures.interface import IOSpec
from bench.config.overrides import load_config, parse_json_or_text
from bench.config.schema import RunConfig
from bench.costs import matching
from bench.data import autoencoder, dataset, sources
from bench.experiments import presets, pretrained_weights
from bench.storage.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig:
    """A complete configuration, with the data source and the network's shape that it was resolved with.

    Later steps read it and change nothing: planning prices it, and the launcher writes it to config.json.
    """

    request: presets.RunRequest
    config: RunConfig
    source: dataset.DataSource
    io: IOSpec


def resolve(request: presets.RunRequest, *, threads: int = 0, results: Path | None = None) -> ResolvedConfig:
    """Resolve a request: presets, data, the matched size, the decoder, CPU threads, and the run's earlier config.

    `threads` are the CPU threads of this run on this machine; compute.threads wins over them.  `results` is the
    folder in which the run may have begun: it then keeps its config but for paths and the compute settings that are
    requested.  Raises ValueError for unknown names and for values that contradict each other.
    """
    config = _checkpoint_config(request) if request.checkpoint else with_solved_size(presets.compose_config(request))
    config = with_decoder(config)
    if threads and not config.compute.threads:
        config = replace(config, compute=replace(config.compute, threads=threads))
    if results:
        config = continue_config(config, request, RunFolder.of(results, config.name))
    source = sources.open_source(config.data.name, config.data.root)
    return ResolvedConfig(request=request, config=config, source=source, io=presets.network_io(config, source))


def continue_config(config: RunConfig, request: presets.RunRequest, run: RunFolder) -> RunConfig:
    """Merge a config with that of the same run in its folder, if it has begun.

    Paths may have moved, so they are the new ones; of the compute settings those that the request names are new.
    """
    if not (run.path / "config.json").is_file():
        return config
    earlier, e = load_config(run.path), config.evaluation
    named = [key.removeprefix("compute.") for key in request.settings if key.startswith("compute.")]
    return replace(
        earlier,
        data=config.data,
        evaluation=replace(earlier.evaluation, decoder=e.decoder, weights=e.weights),
        compute=replace(earlier.compute, **{key: getattr(config.compute, key) for key in named}),
    )


def load_requested_checkpoint(request: presets.RunRequest) -> pretrained_weights.LoadedCheckpoint:
    """Read the network of --checkpoint; model.args are arguments of the published constructor."""
    prefix = "model.args."
    settings = request.settings.items()
    arguments = tuple((key.removeprefix(prefix), value) for key, value in settings if key.startswith(prefix))
    return _read_checkpoint(Path(request.checkpoint), request.arch, arguments)


@lru_cache(maxsize=1)
def _read_checkpoint(
    path: Path, arch: str, arguments: tuple[tuple[str, str], ...]
) -> pretrained_weights.LoadedCheckpoint:
    """Read a file once, for its config and its weights; `install_checkpoints` clears the cache."""
    try:
        return pretrained_weights.read_checkpoint(path, arch, {k: parse_json_or_text(v) for k, v in arguments})
    except ValueError as error:
        hint = ", with --set model.args.num_heads=N" if str(error).endswith("pass num_heads") else ""
        raise ValueError(f"{error}{hint}") from None


def _checkpoint_config(request: presets.RunRequest) -> RunConfig:
    """The configuration that samples and evaluates published weights."""
    checkpoint = load_requested_checkpoint(request)
    return presets.checkpoint_config(
        request,
        arch=checkpoint.spec.arch,
        size=checkpoint.size(),
        args=checkpoint.spec.args,
        io=checkpoint.spec.io,
        weights=checkpoint.sha256,
        process=checkpoint.diffusion,
    )


def install_checkpoints(configs: Iterable[ResolvedConfig], results: Path) -> None:
    """Write the weights of --checkpoint as the snapshot that sampling reads, unless it is there."""
    for resolved in configs:
        target = RunFolder.of(results, resolved.config.name).snapshot_path(0)
        if resolved.request.checkpoint and not target.is_file():
            pretrained_weights.write_snapshot(load_requested_checkpoint(resolved.request), target)
    _read_checkpoint.cache_clear()


def with_solved_size(config: RunConfig) -> RunConfig:
    """Solve the network's size if its cost is to be matched, and write the match as BY:ARCH:SIZE."""
    model = config.model
    if not model.match:
        return config
    match = matching.parse_match(model.match)
    io = presets.network_io(config)
    solution = matching.solve_size(model.arch, io, match, model.tolerance, model.size, model.args)
    name = f"{match.by}:{match.arch}:{match.size}"
    return replace(config, model=replace(model, size="", match=name, solved=solution.args))


def with_decoder(config: RunConfig) -> RunConfig:
    """Name and hash the autoencoder that decodes latents: the one that encoded them, unless another is named."""
    e, source = config.evaluation, sources.open_source(config.data.name, config.data.root)
    if not source.latent:
        return config
    folder, sha256 = e.decoder, ""
    if folder and (Path(folder) / "config.json").is_file():
        sha256 = autoencoder.hash_autoencoder(folder, autoencoder.read_autoencoder(folder))
    elif not folder:
        folder, sha256 = source.decoder, source.decoder_hash
    return replace(config, evaluation=replace(e, decoder=folder, decoder_hash=sha256))


def check_decoder(resolved: ResolvedConfig, resolution: int) -> None:
    """Raise ValueError where the latents do not decode to images of `resolution` pixels, the reference's."""
    config, source = resolved.config, resolved.source
    folder, expected = config.evaluation.decoder, (source.channels, source.size, source.size)
    vae = autoencoder.load_autoencoder(folder, config.evaluation.decoder_hash)
    shape = autoencoder.latent_shape(vae, resolution)
    if shape != expected:
        raise ValueError(
            f"{folder} has latents {shape} for images of {resolution} pixels; {config.data.name} has {expected}: "
            "name the right one with --set evaluation.decoder=PATH"
        )
