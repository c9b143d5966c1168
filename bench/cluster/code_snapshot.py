"""A copy of the code for queued jobs, so that editing the checkout does not change them.  Imports no torch.

results/runs/jobs/code/HASH/ holds architectures/, bench/, the users' own modules that the runs name, and source.json
with the commit.  Equal code is copied once.  Jobs read no data file (slurm/, results/published/): only commands do.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.storage.atomic import atomic_folder
from bench.storage.paths import PACKAGES, ROOT

SOURCE_FILE = "source.json"


def copy_code(jobs: Path, modules: Iterable[str] = ()) -> Path:
    """Copy this project and the top-level packages of `modules` below `jobs`; return the folder for PYTHONPATH.

    Installed modules (in site-packages) are not copied.  ValueError for a module that cannot be found.
    """
    files = dict(list_code_files(modules))
    version = json.dumps(code_version(), sort_keys=True)
    digest = hashlib.sha256(version.encode())
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0".encode() + path.read_bytes())
    target = jobs / "code" / digest.hexdigest()[:16]
    if not target.is_dir():
        with atomic_folder(target) as partial:
            for name, path in files.items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, partial / name)
            (partial / SOURCE_FILE).write_text(version)
    return target.absolute()


def list_code_files(modules: Iterable[str]) -> Iterable[tuple[str, Path]]:
    """Yield (name inside the copy, file) for every file of the copy."""
    for package in PACKAGES:
        yield from _list_files(ROOT / package, package)
    for name in {module.partition(".")[0] for module in modules} - set(PACKAGES):
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            raise ValueError(f"no module {name!r} can be found; run from its folder, or add that folder to PYTHONPATH")
        path = Path(spec.origin).resolve()
        if "site-packages" in path.parts:
            continue
        yield from _list_files(path.parent, name) if path.name == "__init__.py" else [(path.name, path)]


def _list_files(folder: Path, name: str) -> Iterable[tuple[str, Path]]:
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"{name}/{path.relative_to(folder)}", path


def code_version() -> dict[str, Any]:
    """Return {"commit", "dirty"} of the running code: from source.json in a copy, from git in a checkout."""
    if (ROOT / SOURCE_FILE).is_file():
        version: dict[str, Any] = json.loads((ROOT / SOURCE_FILE).read_text())
        return version
    return {
        "commit": run_git("rev-parse", "--short=12", "HEAD"),
        "dirty": bool(run_git("status", "--porcelain", "--", *PACKAGES, "pyproject.toml")),
    }


def run_git(*arguments: str) -> str | None:
    """Run git in the folder of this code and return its output; None outside a repository."""
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
