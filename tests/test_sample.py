import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_run, replaced, tiny_config

import architectures
from bench import checkpoint, presets, sample
from bench.evaluate import load_samples

CPU = torch.device("cpu")
DIE = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from bench import sample
from bench.runfolder import RunFolder
run, made = RunFolder(Path(sys.argv[1])), []
def die():
    made.append(1)
    if len(made) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
sample.sample(run, run.config(), False, torch.device("cpu"), die)
"""


@pytest.fixture
def run(tmp_path):
    """A run with a snapshot that was not trained, at its one evaluation point."""
    config = tiny_config("dit", budget__points=1, evaluation__samples=43, evaluation__batch=10)
    made = make_run(tmp_path, config)
    torch.manual_seed(0)
    net = architectures.build("dit", config.model.size, io=presets.io_of(config), args=config.model.network)
    for p in net.parameters():
        p.data = torch.randn(p.shape) * 0.2
    checkpoint.save(made.file("snapshots", 96, "safetensors"), net.state_dict(), spec=net.spec.to_dict(), images=96)
    return made


def all_at_once(run, config=None):
    sample.sample(run, config or run.config(), False, CPU, lambda: None)
    target = run.file("samples", 96, "npz")
    data = target.read_bytes()
    target.unlink()
    return data


def test_samples_are_in_adms_layout(run):
    sample.sample(run, run.config(), False, CPU, lambda: None)
    with np.load(run.file("samples", 96, "npz"), allow_pickle=False) as z:
        assert z["arr_0"].shape == (43, 8, 8, 1) and z["arr_0"].dtype == np.uint8 and z["arr_0"].std() > 10
        assert z["labels"].tolist() == [i % 10 for i in range(43)]
    assert [p.name for p in (run.path / "samples").iterdir()] == ["000000000096.npz"]
    assert load_samples(run.file("samples", 96, "npz"))[0].shape == (43, 1, 8, 8)


def test_a_sampler_that_is_killed_ends_with_the_same_bytes(run):
    whole = all_at_once(run)
    done = subprocess.run(
        [sys.executable, "-c", DIE, str(run.path)], env={**os.environ, "PYTHONPATH": "."}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    kept = sorted(p.name for p in (run.path / "samples" / "000000000096").glob("*.npz"))
    assert kept == ["00000000-00000009-1.npz", "00000010-00000019-1.npz"]
    counts = []
    sample.sample(run, run.config(), False, CPU, lambda: counts.append(1))
    assert len(counts) == 3  # the two that were there are not made again
    assert run.file("samples", 96, "npz").read_bytes() == whole
    assert not (run.path / "samples" / "000000000096").exists()


def test_one_that_was_stopped_between_the_last_batch_and_the_end_goes_on(run, monkeypatch):
    whole = all_at_once(run)

    def no(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(sample, "assemble", no)
        sample.sample(run, run.config(), False, CPU, lambda: None)
    assert all_at_once(run) == whole


class Stop(Exception):
    pass


def stop():
    raise Stop


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn"])
def test_a_damaged_batch_is_named_and_made_again(run, damage):
    whole = all_at_once(run)
    with pytest.raises(Stop):
        sample.sample(run, run.config(), False, CPU, stop)
    (shard,) = (run.path / "samples" / "000000000096").glob("*.npz")
    shard.write_bytes(damage)
    assert all_at_once(run) == whole
    assert [e["file"] for e in run.events()[0] if e["event"] == "damaged"] == [f"samples/000000000096/{shard.name}"]


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_makes_the_same_images(run, world):
    config = run.config()
    sample.sample(run, config, False, CPU, lambda: None)
    alone, _ = load_samples(run.file("samples", 96, "npz"))
    target = Path(run.path) / "samples" / "parted.npz"

    def net():
        return sample.load_network(run.file("snapshots", 96, "safetensors"), CPU)

    ended = [
        sample.sample_point(net, config, False, CPU, target, lambda *_: None, rank=rank, world=world)
        for rank in reversed(range(world))
    ]
    assert ended == [False] * (world - 1) + [True]
    together, _ = load_samples(target)
    assert np.abs(alone.astype(int) - together).max() <= 1 and (alone == together).mean() > 0.999


def test_another_batch_size_makes_the_same_images_and_may_finish_what_one_began(run):
    alone = all_at_once(run)
    with pytest.raises(Stop):
        sample.sample(run, run.config(), False, CPU, stop)
    other = all_at_once(run, replaced(run.config(), "evaluation", batch=16))
    one, two = (np.load(_file(run, name, data))["arr_0"].astype(int) for name, data in (("a", alone), ("b", other)))
    assert np.abs(one - two).max() <= 1 and (one == two).mean() > 0.999


def _file(run, name, data):
    path = run.path / f"{name}.npz"
    path.write_bytes(data)
    return path


def test_parts_of_several_processes_are_put_together_in_order_some_rows_at_a_time(tmp_path):
    shards = sample.Shards(tmp_path, 2500)
    for rank in range(2):
        for block in sample.batches(np.zeros(2500, bool), 300, rank, 2):
            shards.add(block, np.broadcast_to(block[:, None, None, None] % 251, (len(block), 2, 2, 3)).astype(np.uint8))
    assert shards.look().all()
    blocks = list(shards.rows(size=100))
    assert max(len(b) for b in blocks) == 100
    assert np.array_equal(np.concatenate(blocks)[:, 0, 0, 0], np.arange(2500) % 251)


def test_images_that_rot_on_disk_are_named_instead_of_put_together(run):
    with pytest.raises(Stop):
        sample.sample(run, run.config(), False, CPU, stop)
    (shard,) = (run.path / "samples" / "000000000096").glob("*.npz")
    data = bytearray(shard.read_bytes())
    data[-400] ^= 1  # within the images, which lie last and are not compressed
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=f"{shard.name} is damaged"):
        sample.sample(run, run.config(), False, CPU, lambda: None)
    assert not run.file("samples", 96, "npz").exists()
