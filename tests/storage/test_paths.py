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


def test_the_code_hash_of_this_checkout_covers_its_packages():
    modules = {path.name for name in paths.PACKAGES for path in (paths.ROOT / name).rglob("*.py")}
    assert {"dit.py", "job.py", "trainer.py"} <= modules


@pytest.mark.parametrize("in_checkout", [True, False])
def test_a_data_file_is_in_the_checkout_or_shipped(tmp_path, monkeypatch, in_checkout):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    shipped = tmp_path / "bench" / "_shipped" / "slurm"
    shipped.mkdir(parents=True)
    if in_checkout:
        (tmp_path / "slurm").mkdir()
    assert paths.data_file("slurm") == (tmp_path / "slurm" if in_checkout else shipped)
