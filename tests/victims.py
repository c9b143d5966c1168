"""Server process that imports everything once and forks one process per run, so that tests can kill runs cheaply.

A request is a line of JSON on stdin: {"start": FOLDER, "at": MOMENT or null, "mark": PATH}, answered by a process
id; or {"wait": PID}, answered by its exit status, or minus the signal that ended it.
"""

import fnmatch
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from bench.costs import counting, matching  # noqa: F401
from bench.data import sources  # noqa: F401
from bench.evaluation import feature_store, generation, run_metrics  # noqa: F401
from bench.reports import run_pictures  # noqa: F401
from bench.runs import job
from bench.storage import atomic, lease, tensor_files  # noqa: F401
from bench.storage.run_folder import RunFolder
from bench.training import metrics_logger, trainer

FASTER = 50
"""Factor by which the trainer's clock runs faster, so that it logs and saves often."""


class Hurried:
    """Replacement for the module time whose monotonic clock runs faster."""

    def __getattr__(self, name):
        return getattr(time, name)

    @staticmethod
    def monotonic():
        return time.monotonic() * FASTER


class Moment:
    """Stop at the nth write of a path that matches: {"path": PATTERN, "nth": N, "how": HOW}.

    HOW is torn (the partial file is half written), whole (the partial file is complete), after (the file is
    renamed) or limit (the kernel kills the process in the middle of the write).  Except for limit, the process
    creates its mark and waits to be killed.
    """

    def __init__(self, mark, path, nth, how):
        self.mark, self.path, self.nth, self.how = Path(mark), path, nth, how
        self.put, self.beside, self.link = atomic.move_into_place, atomic.partial_path, os.link
        atomic.move_into_place, atomic.partial_path, os.link = self.watched_put, self.watched_beside, self.watched_link

    def now(self, path):
        if fnmatch.fnmatch(str(path), self.path):
            self.nth -= 1
            return self.nth == 0
        return False

    def wait(self):
        self.mark.touch()
        while True:
            signal.pause()

    def watched_put(self, partial, path):
        if self.how == "limit" or not self.now(path):
            return self.put(partial, path)
        if self.how == "torn":
            for half in [partial] if partial.is_file() else sorted(partial.iterdir())[::2]:
                os.truncate(half, half.stat().st_size // 2)
        if self.how == "after":
            self.put(partial, path)
        self.wait()

    def watched_beside(self, path):
        if self.how == "limit" and self.now(path):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000,) * 2)
        return self.beside(path)

    def watched_link(self, partial, path):
        there = self.now(path)
        if there and self.how == "whole":
            self.wait()
        self.link(partial, path)
        if there:
            self.wait()


def work(order):
    """Run in the forked child: execute the run, then exit."""
    out = os.open(f"{order['start']}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(out, number)
    os.close(0)
    torch.set_num_threads(1)
    trainer.time = metrics_logger.time = Hurried()
    if order["at"]:
        Moment(order["mark"], **order["at"])
    try:
        job.execute_run(RunFolder(Path(order["start"])))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main():
    print("ready", flush=True)
    children = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            children.discard(order["wait"])
            print(os.waitstatus_to_exitcode(status), flush=True)
        elif pid := os.fork():
            children.add(pid)
            print(pid, flush=True)
        else:
            work(order)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
