"""Where code and data files are found: in a checkout, and in a wheel installed elsewhere."""

import os
import subprocess
import sys

import pytest

from bench.storage import paths


def checkout(root):
    for name in ("architectures/dit.py", "bench/runs/launch.py", "bench/training/trainer.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1\n")
    return root


@pytest.mark.parametrize("name", ["architectures/dit.py", "bench/runs/launch.py", "bench/training/trainer.py"])
def test_code_hash_covers_every_module(tmp_path, name):
    before = paths.code_hash(checkout(tmp_path))
    (tmp_path / name).write_text("x = 2\n")
    assert paths.code_hash(tmp_path) != before


def test_code_hash_covers_the_path_of_a_module(tmp_path):
    before = paths.code_hash(checkout(tmp_path))
    (tmp_path / "bench/training/trainer.py").rename(tmp_path / "bench/trainer.py")
    assert paths.code_hash(tmp_path) != before


def test_code_hash_covers_this_package():
    modules = [p for name in paths.PACKAGES for p in (paths.ROOT / name).rglob("*.py")]
    assert len(modules) > 100 and paths.code_hash() == paths.code_hash(paths.ROOT)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A wheel of this checkout, installed without dependencies in a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, paths.ROOT]
    subprocess.run([*pip, *build], check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("bench.run --arch dit --data digits --dry-run", "nano/2"),
        ("bench.run --arch dit --data digits --dry-run --cluster slurm --profile conda", "#SBATCH"),
        ("bench.cost dit_xl_2", "exact"),
        ("bench.tables dit-table1", "DiT"),
        ("bench.tables --list", "dit-figure5"),
    ],
)
def test_a_wheel_holds_what_its_commands_read(installed, tmp_path, command, shown):
    (tmp_path / "results").mkdir()
    env = {**os.environ, "PYTHONPATH": str(installed)}
    origin = "import bench; print(bench.__file__)"
    where = subprocess.run([sys.executable, "-c", origin], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert where.stdout.startswith(str(installed))
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
