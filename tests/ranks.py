"""Server process that imports everything once and forks the ranks of a run, for tests of distributed code.

A request is a line of JSON {"check", "size", "folder", ...}; the answer is a line with each rank's result or error.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import submitit.helpers  # noqa: F401
import torch
import torch.distributed.fsdp
from helpers import evaluation_context, run_context

from bench.config.overrides import load_config
from bench.evaluation import generation
from bench.storage.run_folder import RunFolder
from bench.training import distributed, execution, metrics_logger, trainer


def training(world, folder, stop=(), poison=(), different=(), failing=(), every_step=True):
    """Train a run; `stop`, `poison`, `different` and `failing` are the (rank, step) of an event."""
    run, steps = RunFolder(Path(folder)), []
    before, build = trainer.train_step, trainer.architectures.build

    def step(state, *rest):
        loss = before(state, *rest)
        steps.append(state.images)
        if [world.rank, len(steps)] == list(failing):
            raise ValueError("images.npy is gone")
        if [world.rank, len(steps)] == list(poison):
            with torch.no_grad():
                next(state.net.parameters()).mul_(torch.nan)
        return loss

    def other(*args, **more):
        net = build(*args, **more)
        with torch.no_grad():
            next(net.parameters()).add_(1)
        return net

    trainer.train_step, execution.BACKEND = step, "aot_eager"
    if different and world.rank == different[0]:
        trainer.architectures.build = other
    if every_step:
        metrics_logger.MetricsLogger.due = lambda self: True
    try:
        trainer.train(run_context(run, world=world, stop_requested=lambda: is_stop_due(world, steps, stop)))
    except distributed.StopRequested:
        return ["stopped", steps[-1]]
    return ["done", steps[-1] if steps else 0]


def is_stop_due(world, steps, stop):
    return [world.rank, len(steps)] == list(stop)


def sampling(world, folder, stop=()):
    run, batches = RunFolder(Path(folder)), []

    def stop_requested():
        batches.append(1)
        time.sleep(0.2 if stop else 0)
        return is_stop_due(world, batches, stop)

    try:
        generation.generate(evaluation_context(run, world=world, stop_requested=stop_requested))
    except distributed.StopRequested:
        return ["stopped", len(batches)]
    return ["done", len(batches)]


def waiting(world, folder, ends):
    def check():
        if world.rank == 1 and ends == "is stopped elsewhere":
            raise distributed.StopRequested

    def work():
        for _ in range(50 if ends == "is stopped elsewhere" else 3):
            world.check(check)
            time.sleep(0.1)
        if ends == "stops":
            raise distributed.StopRequested
        if ends == "fails":
            raise OSError("no space left on device")

    try:
        world.alone(work, check)
    except distributed.StopRequested:
        return "stopped"
    return "done"


def describe_rank(world, folder):
    """Return the rank and collective results that a process sees."""
    values = [world.rank, world.local_rank, world.size, world.agree(world.rank, 7), world.total(world.rank + 1)]
    return [*values, world.gather(world.rank), world.of_first(lambda: "first")]


def set_submitit_environment(request, rank):
    """Set the environment variables of submitit's local executor."""
    os.environ |= {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_NTASKS": str(request["size"]), "SUBMITIT_FOLDER": "."}
    os.environ |= {"SUBMITIT_LOCAL_GLOBALID": str(rank), "SUBMITIT_LOCAL_LOCALID": str(rank)}
    os.environ |= {"SUBMITIT_LOCAL_JOB_ID": str(request["job"]), "SUBMITIT_LOCAL_JOB_NUM_NODES": "1"}


def child(request, rank):
    torch.set_num_threads(1)
    set_submitit_environment(request, rank)
    check, folder = globals()[request["check"]], Path(request["folder"])
    config = load_config(folder)
    with (folder / f"rank{rank}.txt").open("a") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    try:
        with distributed.join_world(config) as world:
            answer = check(world, folder, **request.get("args", {}))
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    (folder / f"rank{rank}.json").write_text(json.dumps(answer))


def fork(request, rank):
    pid = os.fork()
    if pid:
        return pid
    try:
        child(request, rank)
    finally:
        os._exit(0)


def main():
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        request["job"] = f"{socket.gethostname()}-{os.getpid()}-{time.monotonic_ns()}"
        answers = [Path(request["folder"]) / f"rank{rank}.json" for rank in range(request["size"])]
        for path in answers:
            path.unlink(missing_ok=True)
        pids = [fork(request, rank) for rank in range(request["size"])]
        deadline = time.monotonic() + 100
        while pids and time.monotonic() < deadline:
            pids = [pid for pid in pids if os.waitpid(pid, os.WNOHANG) == (0, 0)]
            time.sleep(0.02)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        print(json.dumps([json.loads(p.read_text()) if p.exists() else "no answer" for p in answers]), flush=True)


if __name__ == "__main__":
    main()
