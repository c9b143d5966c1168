"""What SLURM runs in tests of chains, where a real job would cost seconds."""

import importlib
import os
from pathlib import Path


class Stub:
    """Leaves where the module SAY was found in its run's folder; a run that holds a file `broken` fails in training."""

    def __init__(self, folder, stage, notice):
        self.folder, self.stage, self.notice = Path(folder), stage, notice

    def __call__(self):
        if self.stage == "train" and (self.folder / "broken").exists():
            raise RuntimeError("this one is broken")
        where = importlib.import_module(os.environ.get("SAY", "slownet")).__file__
        (self.folder / f"{self.stage}.txt").write_text(f"{where} {self.notice:g}")
