"""Interruptions of bench.encode, several processes, and refused inputs."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import save_images, save_vae, until
from PIL import Image

from bench import encode
from bench.config.schema import DataConfig
from bench.data import autoencoder, latent_encoding, latent_plan, latent_workers, latents, sources
from bench.storage import process_identity
from bench.terminal.progress_bar import ProgressBar

FLAGS = ["--flips", "2", "--batch", "3", "--shard-mib", "0.016", "--threads", "1", "--device", "cpu"]
"""8 images a shard."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """(pictures, autoencoder)."""
    folder = tmp_path_factory.mktemp("inputs")
    return save_images(folder / "cats", count=60), save_vae(folder / "vae")


@pytest.fixture(scope="module")
def digest(inputs, tmp_path_factory):
    """Digest of the set that one uninterrupted process encodes."""
    return encode_and_verify(tmp_path_factory.mktemp("unbroken") / "out", inputs)


def words(out, inputs, *more):
    return [str(inputs[0]), "--vae", str(inputs[1]), "--out", str(out), *FLAGS, *more]


def encode_and_verify(out, inputs, *more):
    assert encode.main(words(out, inputs, *more)) == 0
    assert encode.main([str(out), "--verify"]) == 0
    return latents.read_manifest(out).digest()


@pytest.mark.long
def test_a_killed_encoding_goes_on_with_the_same_bytes(inputs, tmp_path):
    inputs, out = (save_images(tmp_path / "cats", count=240), inputs[1]), tmp_path / "out"
    digest = encode_and_verify(tmp_path / "unbroken", inputs)
    command = [sys.executable, "-m", "bench.encode", *words(out, inputs, "--processes", "2")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as first:
        assert until(lambda: list(out.glob("shard-*.json")), wait=0.002)
        children = offspring(first.pid)
        first.kill()
    assert len(children) >= 2
    assert until(lambda: not any(process_identity.start_time(pid) for pid in children)), "children outlive their parent"
    before = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.npy") if path.with_suffix(".json").exists()}
    assert before and not (out / "manifest.json").exists()
    assert encode_and_verify(out, inputs) == digest
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "finished shards were encoded again"
    shards = {f"shard-{i:05d}.npy" for i in range(30)}
    assert {path.name for path in out.iterdir()} == {
        "manifest.json",
        "labels.npy",
        "checks.npy",
        "reference.npy",
    } | shards


def offspring(pid):
    output = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True).stdout
    return [int(word) for word in output.split()]


def test_the_last_srun_task_writes_the_manifest(inputs, digest, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    for rank in (2, 0, 1):
        assert not (out / "manifest.json").exists()
        monkeypatch.setenv("SLURM_PROCID", str(rank))
        assert encode.main(words(out, inputs)) == 0
        assert rank == 1 or len(list(out.glob("shard-*.json"))) == {2: 2, 0: 5}[rank]
    assert latents.read_manifest(out).digest() == digest


def test_a_finished_set_is_left_as_it_is(inputs, digest, tmp_path, capsys):
    out = tmp_path / "out"
    assert encode_and_verify(out, inputs) == digest
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert encode.main(words(out, inputs)) == 0
    assert "is finished already: 60 latents of cats, 8 shards" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_only_removed_files_are_encoded_again(inputs, digest, tmp_path):
    out = tmp_path / "out"
    encode_and_verify(out, inputs)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    (out / "shard-00003.npy").unlink()
    (out / "checks.npy").unlink()
    assert encode_and_verify(out, inputs) == digest
    changed = {path.name for path in out.glob("shard-*") if path.stat().st_mtime_ns != before[path.name]}
    assert changed == {"shard-00003.npy"}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(("more", "what"), [(["--batch", "4"], r"batch \(3, not 4\)"), (["--images", "9"], "images")])
def test_another_set_in_the_same_folder_is_refused(inputs, tmp_path, capsys, finished, more, what):
    out = tmp_path / "out"
    if finished:
        encode_and_verify(out, inputs)
    else:
        options = latent_plan.EncodingOptions.from_flags(encode.parser().parse_args(words(out, inputs)))
        latent_encoding.begin_latents(out, latent_plan.plan_encoding(options)[0].spec)
    assert encode.main(words(out, inputs, *more)) == 2
    kind = "finished" if finished else "unfinished"
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bench.encode: ")]
    assert re.search(f"holds {kind} latents of another {what}.*name another --out", message)


def test_the_first_images_only(inputs, tmp_path):
    encode_and_verify(tmp_path / "out", inputs, "--images", "20")
    assert latents.read_manifest(tmp_path / "out").images == 20


def test_a_dry_run_prints_the_size_and_writes_nothing(inputs, tmp_path, capsys):
    assert encode.main(words(tmp_path / "out", inputs, "--dry-run")) == 0
    message = capsys.readouterr().err
    assert "60 images of cats at 16 pixels, original and mirrored, to 4x8x8 (mean and std): 8 shards" in message
    assert not (tmp_path / "out").exists()


def with_other_things(tmp_path, inputs):
    (tmp_path / "thesis.tex").write_text("years of work")
    return words(tmp_path, inputs)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (lambda t, g: words(t / "out", g, "--batch", "0"), "--batch is 0; it must be greater than 0"),
        (lambda t, g: words(t / "out", g, "--processes", "-1"), "--processes is -1; it must be at least 0"),
        (lambda t, g: words(t / "out", g, "--images", "61"), "--images is 61; "),
        (lambda t, g: words(t / "out", g, "--precision", "bf16"), "bf16 is for GPUs; on a CPU use fp32"),
        (lambda t, g: ["digits", "--vae", str(g[1])], "images of 1 channel; an autoencoder takes RGB"),
        (lambda t, g: ["imagenet256-latents", "--vae", str(g[1])], "has latents; an autoencoder"),
        (lambda t, g: [str(g[0])], "name the autoencoder's folder with --vae PATH"),
        (lambda t, g: [str(g[0]), "--vae", str(t)], "has no config.json"),
        (lambda t, g: [str(t / "nowhere"), "--vae", str(g[1])], "unknown data set"),
        (lambda t, g: [str(t), "--verify"], "is not a finished set of latents"),
        (with_other_things, "holds files that are not latents"),
        (
            lambda t, g: [str(save_images(t / "odd", size=20)), "--vae", str(save_vae(t / "f8", down=4))],
            "multiple of 8",
        ),
    ],
)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(inputs, tmp_path, capsys, command, sentence):
    command = command(tmp_path, inputs)
    before = sorted(tmp_path.rglob("*"))
    assert encode.main([*command, "--root", str(tmp_path)]) == 2
    message = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bench.encode: ")]
    assert len(message) == 1 and sentence in message[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_is_reported_before_the_work(inputs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latent_plan.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert encode.main(words(tmp_path / "out", inputs)) == 2
    assert "GiB more, and its disk has" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "message"), [(-9, "was killed by signal 9"), (1, "ended with status 1")])
def test_a_process_that_dies_is_reported(status, message):
    queue = SimpleNamespace(empty=lambda: True)
    with pytest.raises(ValueError, match=f"a process {message}.*run the same command again"):
        latent_workers.watch_workers(
            [SimpleNamespace(exitcode=None), SimpleNamespace(exitcode=status)], queue, ProgressBar("x", 1)
        )


def test_the_error_of_a_process_is_reported(inputs):
    words = ["cats/1.png is damaged"]
    queue = SimpleNamespace(empty=lambda: not words, get=words.pop)
    with pytest.raises(ValueError, match=r"cats/1\.png is damaged"):
        latent_workers.watch_workers([SimpleNamespace(exitcode=2)], queue, ProgressBar("x", 1))


def test_the_autoencoder_hash_ignores_the_file_format(inputs, tmp_path):
    vae = autoencoder.read_autoencoder(str(inputs[1]))
    vae.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    config = json.loads((tmp_path / "pickled" / "config.json").read_text())
    again = autoencoder.hash_autoencoder(
        str(tmp_path / "pickled"), autoencoder.read_autoencoder(str(tmp_path / "pickled"))
    )
    assert again == autoencoder.hash_autoencoder(str(inputs[1]), vae)
    (tmp_path / "pickled" / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.3}))
    assert autoencoder.hash_autoencoder(str(tmp_path / "pickled"), vae) != again
    other = save_vae(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="does not hold the autoencoder"):
        autoencoder.load_autoencoder(str(other), again)


def test_class_folders_keep_names_and_are_mirrored(inputs, tmp_path):
    for i in range(12):
        folder = tmp_path / "pets" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 20 * i, np.uint8)).save(folder / f"{i}.png")
    command = [f"{tmp_path}/pets@16", "--vae", str(inputs[1]), "--root", str(tmp_path), "--threads", "1"]
    assert encode.main(command) == 0
    m = latents.read_manifest(tmp_path / "pets-16-latents")
    assert (m.data, m.classes, m.counts, m.flips, m.resolution) == ("pets@16", ("cat", "dog"), (6, 6), 2, 16)
    assert m.data_hash == sources.open_source(f"{tmp_path}/pets@16").hash != ""
    assert sources.open_dataset(sources.resolve_data(DataConfig(name=f"latents:{tmp_path}/pets-16-latents"))).flip


def test_shapes_are_encoded_without_mirroring(inputs, tmp_path):
    command = ["shapes", "--vae", str(inputs[1]), "--out", str(tmp_path / "out"), "--threads", "1"]
    assert encode.main([*command, "--images", "12", "--reference", "5"]) == 0
    m, arrays = latents.read_manifest(tmp_path / "out"), sources.load_dataset("shapes")
    assert (m.data, m.flips, m.num_classes, m.shape, m.references) == ("shapes", 1, 10, (4, 16, 16), 5)
    assert np.array_equal(sources.load_dataset(f"latents:{tmp_path}/out").labels, arrays.labels[np.arange(12)])
    with pytest.raises(ValueError, match=r"no mirrored latents: use data\.flip=never, or encode them with --flips 2"):
        sources.open_dataset(sources.resolve_data(DataConfig(name=f"latents:{tmp_path}/out", flip="always")))


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "close"), [("fp32", 1e-3), ("tf32", 5e-3), ("bf16", 5e-2)])
def test_a_gpu_encodes_as_a_cpu_does(inputs, precision, close):
    images = np.load(inputs[0] / "images.npy")[:8]
    cpu, gpu = (torch.device(name) for name in ("cpu", "cuda"))
    expected = autoencoder.make_encoder(autoencoder.read_autoencoder(str(inputs[1])), cpu, "fp32")(images).astype(
        np.float32
    )
    encoded = autoencoder.make_encoder(autoencoder.read_autoencoder(str(inputs[1])), gpu, precision)(images).astype(
        np.float32
    )
    assert np.abs(encoded - expected).max() < close * np.abs(expected).max()
