"""Stub of a SLURM job for tests of job chains."""

import importlib
import os
from pathlib import Path


class Stub:
    """Writes the path of module SAY into the run folder; training fails if the folder has a file `broken`."""

    def __init__(self, folder, stage, notice):
        self.folder, self.stage, self.notice = Path(folder), stage, notice

    def __call__(self):
        if self.stage == "train" and (self.folder / "broken").exists():
            raise RuntimeError("this one is broken")
        where = importlib.import_module(os.environ.get("SAY", "slownet")).__file__
        (self.folder / f"{self.stage}.txt").write_text(f"{where} {self.notice:g}")
