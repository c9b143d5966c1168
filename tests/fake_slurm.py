"""Fake sacct, squeue, scancel and scontrol with scripted output, which log their calls."""

import os
from pathlib import Path


class FakeSlurm:
    """Fake clients in a folder that is first on PATH."""

    def __init__(self, folder, monkeypatch):
        self.folder = Path(folder)
        self.folder.mkdir()
        monkeypatch.setenv("PATH", f"{self.folder}{os.pathsep}{os.environ['PATH']}")
        for name in ("sacct", "squeue", "scancel", "scontrol"):
            self.answer(name, "")

    def answer(self, name, text, *, error="", status=0, seconds=0):
        """Set the output of a client."""
        (self.folder / f"{name}.out").write_text("".join(f"{line}\n" for line in text.splitlines()))
        (self.folder / f"{name}.err").write_text(error)
        lines = [f'echo "{name} $*" >> "$0.calls"', f"sleep {seconds}" if seconds else ":"]
        lines += ['cat "$0.out"', 'cat "$0.err" >&2', f"exit {status}"]
        (self.folder / name).write_text("\n".join(["#!/bin/sh", *lines, ""]))
        (self.folder / name).chmod(0o755)

    def calls(self, name):
        """Return the command lines of a client so far."""
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []
