import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from helpers import evaluation_context, make_run, replaced, run_context, tiny_config
from PIL import Image
from safetensors.torch import load_file, save_file

import architectures
from bench.config.overrides import load_config
from bench.data import sources
from bench.evaluation import feature_extraction, feature_store, generation, image_io, run_metrics
from bench.evaluation.extractors import extractor_registry
from bench.experiments import presets
from bench.reports import run_pictures
from bench.storage import run_folder, shards, tensor_files
from bench.training.distributed import World

CPU = torch.device("cpu")
DIE = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from bench.evaluation import generation
from bench.storage.run_folder import RunFolder
from helpers import evaluation_context
run, lease_checks = RunFolder(Path(sys.argv[1])), []
def die():
    lease_checks.append(1)
    if len(lease_checks) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
generation.generate(evaluation_context(run, check_lease=die))
"""


@pytest.fixture
def run(results):
    """A run with a snapshot that was not trained, at its one evaluation point; it exports an .npz, as digits do."""
    config = tiny_config("dit", budget__points=1, evaluation__samples=43, evaluation__batch=10)
    new_run = make_run(results, config)
    torch.manual_seed(0)
    net = architectures.build("dit", config.model.size, io=presets.network_io(config), args=config.model.network)
    for p in net.parameters():
        p.data = torch.randn(p.shape) * 0.2
    tensor_files.save_tensors(new_run.snapshot_path(96), net.state_dict(), spec=net.spec.to_dict(), images=96)
    return new_run


def go(run, config=None, check=lambda: None, **more):
    generation.generate(evaluation_context(run, config, check_lease=check, **more))


def files(run):
    """{path: bytes} of everything that sampling leaves."""
    paths = [p for stage in ("features", "samples") for p in sorted((run.path / stage).rglob("*")) if p.is_file()]
    return {str(p.relative_to(run.path)): p.read_bytes() for p in paths}


def all_at_once(run, config=None):
    """The files of the samples, which are then removed."""
    go(run, config)
    contents = files(run)
    for stage in ("features", "samples"):
        shutil.rmtree(run.path / stage, ignore_errors=True)
    return contents


def images(data):
    """arr_0 of the bytes of an .npz."""
    return np.load(BytesIO(data))["arr_0"].astype(int)


NPZ, STORE = "samples/000000000096.npz", "features/000000000096"


def test_samples_become_features_and_an_npz_export(run):
    go(run)
    assert sorted(files(run)) == [
        *(f"{STORE}/{name}" for name in ("64.npy", "logits.npy", "pictures.npy", "statistics.npz", "store.json")),
        NPZ,
    ]
    with np.load(run.path / NPZ, allow_pickle=False) as z:
        assert z["arr_0"].shape == (43, 8, 8, 1) and z["arr_0"].dtype == np.uint8 and z["arr_0"].std() > 10
        assert z["labels"].tolist() == [i % 10 for i in range(43)]
    store = feature_store.FeatureStore(run.features_path(96))
    rows = store.features()
    assert {k: (v.shape, v.dtype) for k, v in rows.items()} == {
        "64": ((43, 64), np.float32),
        "logits": ((43, 10), np.float32),
    }
    assert all(isinstance(x, np.memmap) for x in rows.values())
    assert store.labels.tolist() == [i % 10 for i in range(43)]


def test_without_export_only_features_are_kept(run):
    go(run, replaced(load_config(run.path), "compute", export="none"))
    assert not (run.path / "samples").exists()
    assert {p.name for p in (run.path / "features").iterdir()} == {"000000000096"}


def test_the_features_are_those_of_the_images(run, cache):
    go(run)
    weights, _ = extractor_registry.prepare_weights("digits-cnn", "", cache)
    net = extractor_registry.build_network("digits-cnn", weights, ("64", "logits"))
    store = feature_store.FeatureStore(run.features_path(96))
    pixels = images((run.path / NPZ).read_bytes()).astype(np.uint8).transpose(0, 3, 1, 2)
    for layer, x in extractor_registry.extract_features(net, pixels).items():
        np.testing.assert_allclose(store.features()[layer], x, rtol=1e-5, atol=1e-5)
    moments = np.cov(store.features()["64"].astype(np.float64), rowvar=False)
    np.testing.assert_allclose(store.statistics({"fid": "64"})["64"].sigma, moments, atol=1e-9)
    pictures, labels = store.grid_images()
    assert np.array_equal(pictures, pixels) and labels.tolist() == store.labels.tolist()


def test_a_sampler_that_is_killed_ends_with_the_same_bytes(run):
    whole = all_at_once(run)
    done = subprocess.run(
        [sys.executable, "-c", DIE, str(run.path)], env={**os.environ, "PYTHONPATH": ".:tests"}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    for stage in ("features", "samples"):
        shard_names = sorted(p.name for p in (run.path / stage / "000000000096.parts").glob("*.npz"))
        assert shard_names == ["00000000-00000009-1.npz", "00000010-00000019-1.npz"]
    counts = []
    go(run, stop_requested=lambda: counts.append(1))
    assert len(counts) == 3  # the two that were there are not made again
    assert files(run) == whole


@pytest.mark.parametrize("where", [feature_store.FeatureStoreWriter, image_io.NpzExport])
def test_resumes_after_a_failed_assembly(run, monkeypatch, where):
    whole = all_at_once(run)

    def no(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(where, "assemble", no)
        go(run)
    counts = []
    go(run, stop_requested=lambda: counts.append(1))
    assert files(run) == whole and not counts


class Stop(Exception):
    pass


def stop():
    raise Stop


def shard(run, stage):
    (path,) = (run.path / stage / "000000000096.parts").glob("*.npz")
    return path


@pytest.mark.parametrize("stage", ["features", "samples"])
@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn"])
def test_a_damaged_batch_is_named_and_made_again(run, damage, stage):
    whole = all_at_once(run)
    with pytest.raises(Stop):
        go(run, check=stop)
    shard(run, stage).write_bytes(damage)
    name = shard(run, stage).name
    go(run)
    assert files(run) == whole
    assert [e["file"] for e in run.events()[0] if e["event"] == "damaged"] == [f"{stage}/000000000096.parts/{name}"]


@pytest.mark.parametrize("stage", ["features", "samples"])
def test_damaged_shard_is_named_and_not_assembled(run, stage):
    with pytest.raises(Stop):
        go(run, check=stop)
    rotten = shard(run, stage)
    content = bytearray(rotten.read_bytes())
    content[-900 if stage == "features" else -400] ^= 1  # within the last array, which is not compressed
    rotten.write_bytes(content)
    with pytest.raises(ValueError, match=f"{rotten.name} is damaged"):
        go(run)
    assert not (run.path / stage / "000000000096").exists() and not (run.path / stage / "000000000096.npz").exists()


def test_features_of_other_weights_are_not_gone_on_with(run, cache, tmp_path):
    with pytest.raises(Stop):
        go(run, check=stop)
    other = tmp_path / "other.safetensors"
    save_file({k: 2 * v for k, v in load_file(cache / "digits-cnn.safetensors").items()}, other)
    config = replaced(load_config(run.path), "evaluation", weights=str(other))
    go(run, config)
    assert [e["file"][-23:] for e in run.events()[0] if e["event"] == "damaged"] == ["00000000-00000009-1.npz"]
    with pytest.raises(ValueError, match=r"holds features of digits-cnn with weights .*, not of digits-cnn with"):
        go(run)


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_makes_the_same_bytes(run, tmp_path, world):
    config = load_config(run.path)
    go(run)
    other = run_folder.RunFolder(tmp_path / "parted" / "runs" / "x")
    other.path.mkdir(parents=True)
    (other.results / "cache").symlink_to(run.cache)
    targets = generation.target_factory(evaluation_context(other, config))(96)

    def net():
        return generation.load_snapshot(run.snapshot_path(96), CPU)

    for rank in reversed(range(world)):
        assert not any(target.done for target in targets)
        there = {target: target.shards.scan() for target in targets}
        context = run_context(other, config, world=World(rank=rank, size=world))
        generation.make_missing_images(context, net, there, lambda *_: None)
        for target in targets:
            target.finish()
    assert files(other) == files(run)


def test_another_batch_size_finishes_the_same_images(run):
    alone = all_at_once(run)
    with pytest.raises(Stop):
        go(run, check=stop)
    other = all_at_once(run, replaced(load_config(run.path), "evaluation", batch=16))
    one, two = images(alone[NPZ]), images(other[NPZ])
    assert np.abs(one - two).max() <= 1 and (one == two).mean() > 0.999


def test_shards_of_several_ranks_are_read_in_order(tmp_path):
    parts = shards.ArrayShards(tmp_path, 2500)
    for rank in range(2):
        for block in shards.missing_batches(np.zeros(2500, bool), 300, rank, 2):
            parts.add(block, x=np.broadcast_to(block[:, None], (len(block), 3)))
    assert parts.scan().all()
    blocks = list(parts.iterate_rows("x", size=100))
    assert max(len(b) for b in blocks) == 100
    assert np.array_equal(np.concatenate(blocks)[:, 0], np.arange(2500))


def test_later_export_does_not_extract_features_again(run, monkeypatch):
    whole = all_at_once(run)
    go(run, replaced(load_config(run.path), "compute", export="none"))
    before = files(run)
    monkeypatch.setattr(extractor_registry, "build_network", None)
    go(run)
    assert files(run) == whole == {**before, NPZ: whole[NPZ]}


def test_exported_pngs_are_the_images_of_the_npz(run):
    go(run)
    go(run, replaced(load_config(run.path), "compute", export="png"))
    folder = run.export_path(96, "png")
    names = sorted(p.name for p in folder.iterdir())
    assert names == [f"{i:08d}.png" for i in range(43)]
    pngs = np.stack([np.asarray(Image.open(folder / name)) for name in names])
    assert np.array_equal(pngs[..., None], images((run.path / NPZ).read_bytes()))


@pytest.mark.parametrize("classes", [0, 3, 10, 1000])
def test_the_pictures_are_those_that_a_grid_of_all_images_shows(classes, tmp_path):
    count = 9500 if classes == 1000 else 150
    numbers = np.arange(count)
    every = np.random.RandomState(0).randint(0, 256, (count, 8, 8, 1)).astype(np.uint8)
    provenance = feature_store.FeatureProvenance(extractor="none", weights="w", sha256="0")
    features = feature_store.FeatureStoreWriter(
        tmp_path / "s", count, classes, provenance, {"fid": "f"}, lambda _, x: {"f": flat(x)}
    )
    for block in shards.missing_batches(np.zeros(count, bool), 400, 0, 1):
        features.add(block, every[block])
    features.finish()
    run_pictures.save_sample_grid(*feature_store.FeatureStore(tmp_path / "s").grid_images(), tmp_path / "some.png")
    run_pictures.save_sample_grid(
        every.transpose(0, 3, 1, 2), numbers % classes if classes else None, tmp_path / "all.png"
    )
    assert (tmp_path / "some.png").read_bytes() == (tmp_path / "all.png").read_bytes()


def flat(x):
    return x.reshape(len(x), -1)[:, :5].astype(np.float32)


def spoil(folder, name, old, new):
    content = (folder / name).read_bytes()
    assert old in content or not old
    (folder / name).write_bytes(content.replace(old, new) if old else content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("64.npy", b"", b"", "64.npy is damaged: its content has changed"),
        ("logits.npy", b"NUMPY", b"NUMPI", "logits.npy is damaged"),
        ("statistics.npz", b"PK", b"KP", "statistics.npz is damaged"),
        ("store.json", b'"layers"', b'"lagers"', "is no feature store, or is damaged"),
        ("store.json", b'"count": 43', b'"count": 42', "64.npy is damaged"),
    ],
)
def test_a_store_that_was_damaged_is_refused(run, name, old, new, words, digits, cache):
    go(run)
    spoil(run.features_path(96), name, old, new)
    context = evaluation_context(run, dataset=digits)
    with pytest.raises(ValueError, match=words):
        run_metrics.evaluate(context)


def test_metrics_of_the_store_are_those_of_the_images(run, digits, cache):
    go(run)
    evaluator = evaluation_context(run, dataset=digits).evaluator
    pixels = images((run.path / NPZ).read_bytes()).astype(np.uint8).transpose(0, 3, 1, 2)
    stored = evaluator.measure_stored(feature_store.FeatureStore(run.features_path(96)), intervals=True)
    direct = evaluator.measure(pixels, np.arange(43) % 10, intervals=True)
    for name, metric in direct.items():
        assert stored[name]["value"] == pytest.approx(metric["value"], rel=1e-6)
        assert stored[name]["interval"]["low"] == pytest.approx(metric["interval"]["low"], rel=1e-5)


def test_nonfinite_features_name_the_sample(monkeypatch):
    broken = np.ones((5, 2), np.float32)
    broken[3] = np.nan
    monkeypatch.setattr(feature_extraction, "extract_features", lambda net, x: {"f": broken[: len(x)]})
    with pytest.raises(ValueError, match="sample 13 has features with NaN"):
        feature_extraction.extract_in_batches(None, np.arange(10, 15), np.zeros((5, 1, 8, 8), np.uint8))


def test_what_is_exported_is_no_part_of_a_runs_identity():
    one, two = tiny_config(compute__export="none"), tiny_config(compute__export="png")
    assert one.name == two.name and one != two
    assert (
        sources.open_source("digits").size == 8
        and presets.compose_config(presets.RunRequest(data="digits")).compute.export == "npz"
    )
    assert one.identity() == two.identity()


@pytest.mark.parametrize("kind", ["npz", "png"])
def test_processes_that_assemble_at_once_all_succeed(run, kind):
    """Eight processes, for each of a store of features and an export."""
    config = replaced(load_config(run.path), "compute", export=kind)
    whole = all_at_once(run, config)
    fork = multiprocessing.get_context("fork")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards.ShardedOutput, "finish", lambda self: None)
        go(run, config)
    start, context = fork.Event(), evaluation_context(run, config)

    def finish():
        start.wait()
        for target in generation.target_factory(context)(96):
            target.finish()
            assert target.done

    many = [fork.Process(target=finish) for _ in range(8)]
    for p in many:
        p.start()
    start.set()
    for p in many:
        p.join()
    assert [p.exitcode for p in many] == [0] * 8
    assert files(run) == whole
