"""A wheel, built from this checkout and installed elsewhere without its dependencies, runs the commands."""

import os
import subprocess
import sys

import pytest

from bench.storage.paths import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder that the wheel is installed into."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT]
    subprocess.run([*pip, *build], check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("bench.run --arch dit --data digits --dry-run", "nano/2"),
        ("bench.run --arch dit --data digits --dry-run --cluster slurm --profile conda", "#SBATCH"),
        ("bench.cost dit_xl_2", "exact"),
        ("bench.tables dit-table1", "DiT"),
        ("bench.tables --list", "dit-figure5"),
    ],
)
def test_a_wheel_has_the_files_its_commands_read(site, tmp_path, command, expected):
    (tmp_path / "results").mkdir()
    env = {**os.environ, "PYTHONPATH": str(site)}
    options = dict(cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    imported = subprocess.run([sys.executable, "-c", "import bench; print(bench.__file__)"], **options)
    assert imported.stdout.startswith(str(site))
    done = subprocess.run([sys.executable, "-m", *command.split()], **options)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
