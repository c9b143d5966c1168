"""Plan the requested runs, dispatch them, and show what they produced."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from architectures.suggestions import did_you_mean
from bench.cluster import profiles
from bench.config.overrides import load_config
from bench.config.schema import RunConfig
from bench.experiments import presets, suites
from bench.storage import lease
from bench.storage.atomic import write_json
from bench.storage.run_folder import RunFolder
from bench.terminal.cli import parse_assignments
from bench.terminal.formatting import format_duration

if TYPE_CHECKING:
    from bench.runs import dispatch


def slurm_settings(flags: argparse.Namespace, cluster: str) -> dict[str, str]:
    """Those of --set slurm.KEY=VALUE, without the slurm."""
    if cluster == "slurm" and "compute.processes" in dict(parse_assignments(flags)):
        raise ValueError("compute.processes is for this machine; on SLURM set slurm.tasks_per_node (and slurm.nodes)")
    found = {key: value for key, value in parse_assignments(flags) if key.partition(".")[0] == "slurm"}
    if "slurm" in found:
        raise ValueError("--set slurm: write slurm.KEY=VALUE, for example slurm.time=4:00:00; --help lists the keys")
    return {key.removeprefix("slurm."): value for key, value in found.items()}


def parse_requests(flags: argparse.Namespace) -> list[presets.RunRequest]:
    """What the command line asks for; ValueError for contradictions and unknown names."""
    settings = {}
    for key, value in parse_assignments(flags):
        if not key.startswith("slurm."):
            settings[key] = value
    if flags.export:
        settings["compute.export"] = flags.export
    wish = presets.RunRequest(
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
        return [wish]
    if flags.seeds is not None and flags.seeds < 1:
        raise ValueError(f"--seeds is {flags.seeds}; it must be at least 1")
    if flags.suite not in suites.SUITES:
        raise ValueError(f"unknown suite {flags.suite!r}; {did_you_mean(flags.suite, suites.SUITES)}")
    for name in ("arch", "size", "data", "checkpoint"):
        if getattr(flags, name):
            raise ValueError(f"--suite {flags.suite} chooses its own {name}; leave --{name} out")
    return suites.suite_requests(flags.suite, flags.scale or "digits", wish, flags.seeds or 0)


def require_writable(results: Path) -> None:
    """ValueError when results cannot be written to."""
    try:
        (results / "runs").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
    except OSError as error:
        raise ValueError(
            f"cannot write to {results} ({error.strerror}); choose another folder with --results"
        ) from None


def launch_runs(flags: argparse.Namespace) -> int:
    """Plan; then, unless it is a dry run, do what is not done and show what came out."""
    asked = parse_requests(flags)
    if flags.parallel is not None and flags.parallel < 1:
        raise ValueError(f"--parallel is {flags.parallel}; it must be at least 1")
    from bench.cluster import job_chains, local_queue
    from bench.runs import dispatch

    results = Path(flags.results)
    shown = flags.dry_run and flags.cluster == "slurm"  # also where there is none
    cluster = "slurm" if shown else local_queue.resolve_cluster(flags.cluster)
    profile = profiles.load_profile(flags.profile, slurm_settings(flags, cluster))
    from bench.experiments import resolve
    from bench.runs import planning

    configs = resolve.resolve(asked)
    parallel = flags.parallel or dispatch.default_parallel(cluster, len(configs))
    runs = {config.name: RunFolder.of(results, config.name) for config in configs}
    export = "compute.export" in asked[0].settings
    if not (flags.dry_run or flags.fresh) and not unfinished_runs(runs, configs, export):
        return show_results(runs, {}, results, flags.suite, all_done=True)
    here = cluster != "slurm"
    if not flags.dry_run:
        planning.check_prerequisites(configs, here=here)
    plans = planning.make_plans(configs, parallel, here=here)
    if not flags.dry_run:
        require_writable(results)
    print(planning.plan_table(plans))
    count = f"{len(plans)} run{'s'[: len(plans) > 1]}"
    if all(p.source == "timed here" for p in plans):
        duration = format_duration(planning.total_seconds(plans, parallel, here=here))
        print(f"about {duration} for {count}, {parallel} at a time\n")
    else:
        hours = format_duration(sum(p.seconds for p in plans))
        print(f"about {hours} of one accelerator for {count} (set compute.tflops)\n")
    wanted = dispatch.DispatchOptions(
        results=results,
        cluster=cluster,
        profile=profile,
        parallel=flags.parallel,
        label=flags.suite or configs[0].name,
        retry_failed=flags.retry_failed,
    )
    if not flags.dry_run:
        return prepare_and_dispatch(flags, asked, {p.config.name: p.config for p in plans}, runs, wanted)
    if cluster == "slurm":
        print_sbatch(job_chains.submission_scripts(results, profile, len(configs), flags.parallel, wanted.label))
    return 0


def prepare_and_dispatch(
    flags: argparse.Namespace,
    asked: list[presets.RunRequest],
    configs: dict[str, RunConfig],
    runs: dict[str, RunFolder],
    wanted: dispatch.DispatchOptions,
) -> int:
    """Prepare what all runs need, dispatch what is not done and, unless SLURM has it, show what came out."""
    from bench.experiments import resolve
    from bench.runs import dispatch, planning

    planned, export = list(configs.values()), "compute.export" in asked[0].settings
    planning.prepare_extractors(planned, wanted.results)
    if flags.fresh:
        dispatch.require_not_queued(runs, "then --fresh")
        for run in runs.values():
            run.clear()
    resolve.install_checkpoints(asked, runs.values())
    todo = unfinished_runs(runs, planned, export)
    write_configs(todo, configs, asked[0].settings)
    if (status := dispatch.dispatch_runs(todo, wanted, flags.watch)) is not None:
        return status
    return show_results(runs, unfinished_runs(runs, planned, export), wanted.results, flags.suite, all_done=False)


def print_sbatch(texts: dict[str, str]) -> None:
    """The sbatch requests of a run's two jobs, as they would be submitted."""
    print("# UID, HASH and ID_OF_TRAINING are known when it is submitted.")
    for stage, text in texts.items():
        print(f"# ---- {stage}: sbatch ----\n{text}")


def unfinished_runs(runs: dict[str, RunFolder], configs: list[RunConfig], export: bool) -> dict[str, RunFolder]:
    """Runs without a record and, where an export is asked for, those that lack their images.

    ValueError for a finished run whose images cannot be made any more.
    """
    todo = {}
    for config in configs:
        run = runs[config.name]
        if not run.record_path.is_file():
            todo[config.name] = run
        elif export and not run.has_exports(config.budget.evaluation_points, config.compute.export):
            todo[config.name] = run
            if not (config.model.weights or run.has_snapshots(config.budget.evaluation_points)):
                raise ValueError(f"{run.path} has no snapshots any more, so no images can be made; --fresh starts over")
    return todo


def write_configs(todo: dict[str, RunFolder], configs: dict[str, RunConfig], settings: Mapping[str, str]) -> None:
    """Write the configs of new runs; those that go on keep theirs, but for paths and the compute settings given."""
    given = [key.removeprefix("compute.") for key in settings if key.startswith("compute.")]
    for name, run in todo.items():
        path, config = run.path / "config.json", configs[name]
        run.path.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            write_json(path, config.to_dict())
            continue
        before, e = load_config(run.path), config.evaluation
        after = replace(
            before,
            data=config.data,
            evaluation=replace(before.evaluation, decoder=e.decoder, weights=e.weights),
            compute=replace(before.compute, **{key: getattr(config.compute, key) for key in given}),
        )
        if after != before:
            write_json(path, after.to_dict())


def show_results(
    runs: dict[str, RunFolder], missing: dict[str, RunFolder], results: Path, suite: str | None, all_done: bool
) -> int:
    """Failures of what is missing, pictures, the leaderboard, and where the files are.

    The exit status is 1 when a run is not finished, and 2 when something that can be mended stopped it.
    """
    from bench.records import leaderboard_files, text_tables
    from bench.records.record import read_record

    status = max((explain_unfinished(name, run) for name, run in missing.items()), default=0)
    finished = {name: read_record(run.record_path) for name, run in runs.items() if name not in missing}
    if not finished:
        return status
    pictures = [str(run.path / "samples.png") for name, run in runs.items() if name in finished]
    if suite and not missing:
        pictures += [str(path) for path in draw_suite(runs, finished, results, suite)]
    text = leaderboard_files.write_leaderboard(results)
    if all_done:
        print("all of this is done already; --fresh starts it over")
    print("pictures\n  " + "\n  ".join(pictures))
    print("records\n  " + "\n  ".join(str(results / "records" / "v1" / f"{r.id}.json") for r in finished.values()))
    print(f"leaderboard in {results / 'leaderboard.md'} and .csv\n")
    shown = {r.fingerprint for r in finished.values()}
    tables = ["Protocol " + part for part in text.split("## Protocol ")[1:] if part[:12] in shown]
    print(text_tables.fit_terminal("\n".join(tables).strip(), str(results / "leaderboard.md")))
    return status


def explain_unfinished(name: str, run: RunFolder) -> int:
    """Say why a run is not finished; 2 when a ValueError, which is for users, ended it, or else 1."""
    error = run.path / "error.txt"
    if not error.is_file():
        who = lease.current_holder(run.path)
        word = f"being worked on by {who.describe()}" if who else "not finished; the same command goes on with it"
        print(f"{name} is {word}", file=sys.stderr)
        return 1
    last = error.read_text().strip().splitlines()[-1]
    print(f"{name} failed: {last.removeprefix('ValueError: ')}\n  the whole story: {error}", file=sys.stderr)
    return 2 if last.startswith("ValueError: ") else 1


def draw_suite(runs: dict[str, RunFolder], finished: dict[str, Any], results: Path, suite: str) -> list[Path]:
    """The suite's curves in one picture, the reference rows as levels, and its samples in another."""
    from bench.records import record
    from bench.reports import run_pictures

    one = next(iter(finished.values()))
    levels = {
        r.label: next(m.value for n, m in r.metrics.items() if n.startswith("fid"))
        for r in record.read_records(results)
        if r.kind == "reference" and r.evaluation_fingerprint == one.evaluation_fingerprint
    }
    paths = [results / "runs" / f"{suite}-{what}.png" for what in ("curves", "samples")]
    run_pictures.save_curves({finished[n].label: (run, finished[n].curve) for n, run in runs.items()}, paths[0], levels)
    run_pictures.save_side_by_side({finished[n].label: run.path / "samples.png" for n, run in runs.items()}, paths[1])
    return paths
