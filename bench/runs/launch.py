"""Resolve and plan the requested runs, dispatch them, and show their results."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from architectures.suggestions import did_you_mean
from bench.cluster import local_queue, profiles
from bench.config.overrides import load_config
from bench.experiments import presets, suites
from bench.runs.summary import show_results
from bench.storage.atomic import write_json
from bench.storage.run_folder import RunFolder
from bench.terminal.cli import parse_assignments
from bench.terminal.formatting import format_duration

if TYPE_CHECKING:
    from bench.experiments.resolve import ResolvedConfig
    from bench.runs.dispatch import DispatchOptions
    from bench.runs.planning import RunPlan


def slurm_settings(flags: argparse.Namespace, cluster: str) -> dict[str, str]:
    """Select the SLURM options of --set slurm.KEY=VALUE, by KEY."""
    if cluster == "slurm" and "compute.processes" in dict(parse_assignments(flags)):
        raise ValueError("compute.processes is for this machine; on SLURM set slurm.tasks_per_node (and slurm.nodes)")
    settings = {key: value for key, value in parse_assignments(flags) if key.partition(".")[0] == "slurm"}
    if "slurm" in settings:
        raise ValueError("--set slurm: write slurm.KEY=VALUE, for example slurm.time=4:00:00; --help lists the keys")
    return {key.removeprefix("slurm."): value for key, value in settings.items()}


def parse_requests(flags: argparse.Namespace) -> list[presets.RunRequest]:
    """Turn the command line into requests; ValueError for contradictions and unknown names."""
    settings = {}
    for key, value in parse_assignments(flags):
        if not key.startswith("slurm."):
            settings[key] = value
    if flags.export:
        settings["compute.export"] = flags.export
    request = presets.RunRequest(
        arch=flags.arch or ("" if flags.checkpoint else "dit"),
        size=flags.size or "",
        data=flags.data or "",
        track=flags.track or ("" if flags.suite else "shared"),
        match=flags.match or "",
        checkpoint=flags.checkpoint or "",
        seed=flags.seed,
        settings=settings,
    )
    if flags.suite is None:
        if flags.scale or flags.seeds is not None:
            raise ValueError("--scale and --seeds are for a --suite; a single run has --data and --seed")
        return [request]
    if flags.seeds is not None and flags.seeds < 1:
        raise ValueError(f"--seeds is {flags.seeds}; it must be at least 1")
    if flags.suite not in suites.SUITES:
        raise ValueError(f"unknown suite {flags.suite!r}; {did_you_mean(flags.suite, suites.SUITES)}")
    for name in ("arch", "size", "data", "checkpoint"):
        if getattr(flags, name):
            raise ValueError(f"--suite {flags.suite} chooses its own {name}; leave --{name} out")
    return suites.suite_requests(flags.suite, flags.scale or "digits", request, flags.seeds or 0)


def require_writable(results: Path) -> None:
    """Raise ValueError where the results folder cannot be written to."""
    try:
        (results / "runs").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
    except OSError as error:
        raise ValueError(
            f"cannot write to {results} ({error.strerror}); choose another folder with --results"
        ) from None


def launch_runs(flags: argparse.Namespace) -> int:
    """Resolve, plan and, unless it is a dry run, dispatch the requested runs; return the exit status."""
    requests = parse_requests(flags)
    if flags.parallel is not None and flags.parallel < 1:
        raise ValueError(f"--parallel is {flags.parallel}; it must be at least 1")
    cluster = choose_cluster(flags)
    profile = profiles.load_profile(flags.profile, slurm_settings(flags, cluster))
    from bench.runs import dispatch, planning

    results, here = Path(flags.results), cluster != "slurm"
    parallel = flags.parallel or dispatch.default_parallel(cluster, len(requests))
    configs = resolve_requests(requests, parallel, here, None if flags.fresh else results)
    if not (flags.dry_run or flags.fresh) and not unfinished_runs(configs, results):
        return show_results(run_folders(configs, results), {}, results, flags.suite, all_done=True)
    if not flags.dry_run:
        planning.check_prerequisites(configs.values(), here=here)
    plans = planning.make_plans(configs.values(), here=here)
    if not flags.dry_run:
        require_writable(results)
    print_plans(plans, parallel, here)
    options = dispatch.DispatchOptions(
        results=results,
        cluster=cluster,
        profile=profile,
        parallel=flags.parallel,
        label=flags.suite or next(iter(configs)),
        retry_failed=flags.retry_failed,
    )
    if not flags.dry_run:
        return prepare_and_dispatch(flags, configs, options)
    if not here:
        from bench.cluster import job_chains

        print_sbatch(job_chains.submission_scripts(results, profile, len(configs), flags.parallel, options.label))
    return 0


def choose_cluster(flags: argparse.Namespace) -> str:
    """Resolve --cluster; a dry run shows SLURM's requests on a machine without SLURM, too."""
    if flags.dry_run and flags.cluster == "slurm":
        return "slurm"
    return local_queue.resolve_cluster(flags.cluster)


def resolve_requests(
    requests: list[presets.RunRequest], parallel: int, here: bool, results: Path | None
) -> dict[str, ResolvedConfig]:
    """Resolve all requests, by run name; runs on this machine share its cores between them."""
    from bench.experiments import resolve

    threads = max(1, (os.cpu_count() or 1) // max(1, min(parallel, len(requests)))) if here else 0
    resolved = [resolve.resolve(request, threads=threads, results=results) for request in requests]
    return {r.config.name: r for r in resolved}


def run_folders(configs: Mapping[str, ResolvedConfig], results: Path) -> dict[str, RunFolder]:
    """Return the folders of runs by name."""
    return {name: RunFolder.of(results, name) for name in configs}


def print_plans(plans: list[RunPlan], parallel: int, here: bool) -> None:
    """Print the plans and the estimated time of all runs."""
    from bench.runs import planning

    print(planning.plan_table(plans))
    count = f"{len(plans)} run{'s'[: len(plans) > 1]}"
    if all(plan.source == "timed here" for plan in plans):
        duration = format_duration(planning.total_seconds(plans, parallel, here=here))
        print(f"about {duration} for {count}, {parallel} at a time\n")
    else:
        duration = format_duration(sum(plan.seconds for plan in plans))
        print(f"about {duration} of one accelerator for {count} (set compute.tflops)\n")


def prepare_and_dispatch(
    flags: argparse.Namespace, configs: Mapping[str, ResolvedConfig], options: DispatchOptions
) -> int:
    """Prepare extractors, weights and configs, dispatch unfinished runs and, unless SLURM has them, show results."""
    from bench.experiments import resolve
    from bench.runs import dispatch, planning

    results, runs = options.results, run_folders(configs, options.results)
    planning.prepare_extractors(configs.values(), results)
    if flags.fresh:
        dispatch.require_not_queued(runs, "then --fresh")
        for run in runs.values():
            run.clear()
    resolve.install_checkpoints(configs.values(), results)
    todo = unfinished_runs(configs, results)
    write_configs(todo, configs)
    status = dispatch.dispatch_runs(todo, options, flags.watch)
    if status is not None:
        return status
    return show_results(runs, unfinished_runs(configs, results), results, flags.suite, all_done=False)


def print_sbatch(texts: Mapping[str, str]) -> None:
    """Print the sbatch requests of a run's two jobs, as they would be submitted."""
    print("# UID, HASH and ID_OF_TRAINING are known when it is submitted.")
    for stage, text in texts.items():
        print(f"# ---- {stage}: sbatch ----\n{text}")


def unfinished_runs(configs: Mapping[str, ResolvedConfig], results: Path) -> dict[str, RunFolder]:
    """Select runs without a record and, where the request names an export, those that lack exported images.

    Raises ValueError for a finished run whose images cannot be made any more.
    """
    unfinished = {}
    for name, run in run_folders(configs, results).items():
        config, settings = configs[name].config, configs[name].request.settings
        points = config.budget.evaluation_points
        if not run.record_path.is_file():
            unfinished[name] = run
        elif "compute.export" in settings and not run.has_exports(points, config.compute.export):
            unfinished[name] = run
            if not (config.model.weights or run.has_snapshots(points)):
                raise ValueError(f"{run.path} has no snapshots any more, so no images can be made; --fresh starts over")
    return unfinished


def write_configs(runs: Mapping[str, RunFolder], configs: Mapping[str, ResolvedConfig]) -> None:
    """Write config.json into the folders of runs, where it is missing or differs."""
    for name, run in runs.items():
        path, config = run.path / "config.json", configs[name].config
        run.path.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or load_config(run.path) != config:
            write_json(path, config.to_dict())
