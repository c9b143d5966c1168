"""Sets of latents: the files of bench.encode, the inputs of training, and damaged files."""

import json
import threading

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from helpers import save_images, save_vae

from bench import encode
from bench.data import latents, prefetch, sources
from bench.experiments import presets
from bench.training import training_batch

FLAGS = ["--batch", "4", "--shard-mib", "0.03", "--threads", "1", "--device", "cpu"]


def encoded(folder, pictures, vae, *more):
    assert encode.main([str(pictures), "--vae", str(vae), "--out", str(folder), *FLAGS, *more]) == 0
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return save_images(tmp_path_factory.mktemp("data") / "cats", count=50)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return save_vae(tmp_path_factory.mktemp("models") / "vae", scaling_factor=0.5, shift_factor=0.1)


@pytest.fixture(scope="module")
def latent_set(tmp_path_factory, pictures, vae):
    return encoded(tmp_path_factory.mktemp("data") / "cats-latents", pictures, vae, "--flips", "2", "--reference", "7")


@pytest.fixture
def copy(latent_set, tmp_path):
    """A copy of the set that a test may damage."""
    for path in latent_set.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@torch.inference_mode()
def posterior(vae, images):
    x = torch.from_numpy(images.copy()).float() / 127.5 - 1
    return AutoencoderKL.from_pretrained(vae).eval().encode(x).latent_dist


@pytest.mark.parametrize("flip", [0, 1])
def test_a_set_holds_mean_and_std_of_images_and_mirror_images(latent_set, pictures, vae, flip):
    images = np.load(pictures / "images.npy")
    expected = posterior(vae, images[..., ::-1] if flip else images)
    stored = latents.load_latents(latent_set).images.read(np.arange(50), np.full(50, flip))
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored[:, 0], expected.mean, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(stored[:, 1], expected.std, rtol=1e-3, atol=1e-5)


def test_the_manifest_describes_the_set_without_folders(latent_set, vae):
    m, source = latents.read_manifest(latent_set), sources.open_source(f"latents:{latent_set}")
    assert (m.images, m.flips, m.resolution, m.shape, m.counts) == (50, 2, 16, (4, 8, 8), (17, 17, 16))
    assert (m.vae.kind, m.vae.scaling_factor, m.vae.shift_factor) == ("AutoencoderKL", 0.5, 0.1)
    assert len(m.shards) == 4 and m.reference.bytes == (latent_set / "reference.npy").stat().st_size
    assert (source.channels, source.size, source.num_classes, source.latent, source.vq) == (4, 8, 3, True, False)
    assert str(vae.parent) not in json.dumps(m.identity()) and source.hash == m.digest()[:16]


def test_reference_and_labels_are_those_of_the_source(latent_set, pictures):
    arrays = sources.load_dataset(f"latents:{latent_set}")
    images = np.load(pictures / "images.npy")
    assert np.array_equal(arrays.reference, images[np.linspace(0, 49, 7).round().astype(int)])
    assert np.array_equal(arrays.labels, np.arange(50) % 3)


def test_training_samples_posterior_and_flip_anew(latent_set, vae):
    arrays = sources.load_dataset(f"latents:{latent_set}")
    rows = np.full(4000, 9)
    drawn = arrays.model_inputs(rows, seed=5)
    sides = [(latents.widen_float16(arrays.images.read(rows[:1], np.array([f])))[0]) for f in (0, 1)]
    expected = [((mean - 0.1) * 0.5, std * 0.5) for mean, std in sides]
    flips = np.array([abs(z - expected[0][0]).sum() > abs(z - expected[1][0]).sum() for z in drawn])
    assert 0.45 < flips.mean() < 0.55
    for flip, (mean, std) in enumerate(expected):
        share = drawn[flips == flip]
        np.testing.assert_allclose(share.mean(0), mean, atol=6 * std.max() / len(share) ** 0.5)
        np.testing.assert_allclose(share.std(0), std, rtol=0.12)
    assert not np.array_equal(drawn, arrays.model_inputs(rows, seed=6))


@pytest.mark.parametrize("share", [slice(0, 37), slice(37, 100), slice(5, 5), slice(99, 100)], ids=str)
def test_a_share_of_a_batch_is_those_rows_of_the_whole(latent_set, share):
    arrays = sources.load_dataset(f"latents:{latent_set}")
    rows = arrays.stream_rows(0, 30, 100)
    assert np.array_equal(arrays.model_inputs(rows, 3, share), arrays.model_inputs(rows, 3)[share])


def test_rows_are_scaled_means(latent_set, vae):
    arrays, rows = sources.load_dataset(f"latents:{latent_set}"), np.array([3, 49, 3])
    mean = latents.widen_float16(arrays.images.read(rows, np.zeros(3, int))[:, 0])
    np.testing.assert_allclose(arrays.images[rows], (mean - 0.1) * 0.5, rtol=1e-6)
    assert np.array_equal(arrays.images[3:5], arrays.images[np.array([3, 4])])
    assert arrays.images.shape == (50, 4, 8, 8) and len(arrays.images) == 50


def test_every_finite_half_is_widened_exactly():
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    assert np.array_equal(latents.widen_float16(halves), halves.astype(np.float32))


def test_noise_is_normal_and_depends_on_the_position_only():
    drawn = latents.posterior_noise(1, 0, 4095)(64)
    assert abs(drawn.mean()) < 0.01 and abs(drawn.std() - 1) < 0.01
    assert abs((drawn**4).mean() - 3) < 0.1 and abs(drawn).max() > 4
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.01
    assert np.array_equal(latents.posterior_noise(1, 40, 4095)(24), drawn[40:])


def test_ldms_latents_have_no_posterior_and_are_not_scaled(tmp_path, pictures):
    save_vae(tmp_path / "vq", "VQModel", latents=3, num_vq_embeddings=16)
    latent_set = encoded(tmp_path / "latent_set", pictures, tmp_path / "vq")
    arrays, source = sources.load_dataset(f"latents:{latent_set}"), sources.open_source(f"latents:{latent_set}")
    x = torch.from_numpy(np.load(pictures / "images.npy")[:4]).float() / 127.5 - 1
    with torch.inference_mode():
        expected = VQModel.from_pretrained(tmp_path / "vq").eval().encode(x).latents
    assert source.vq and latents.read_manifest(latent_set).moments == ("mean",) and not arrays.flip
    np.testing.assert_allclose(arrays.model_inputs(np.arange(4), 0), expected, rtol=1e-3, atol=1e-4)


def test_a_set_without_mirror_images_is_not_mirrored(tmp_path, pictures, vae):
    arrays = sources.load_dataset(f"latents:{encoded(tmp_path / 'latent_set', pictures, vae, '--flips', '1')}")
    assert not arrays.flip and arrays.images.read(np.arange(2), np.zeros(2, int)).shape == (2, 2, 4, 8, 8)
    with pytest.raises(ValueError, match="no mirrored latents"):
        latents.LatentDataset(images=arrays.images, labels=arrays.labels, reference=arrays.reference, flip=True)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def reshape(path):
    array = np.load(path)
    np.save(path, array.reshape(array.shape[::-1]))


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("shard-00002.npy", cut_short),
        ("shard-00002.npy", lambda p: p.unlink()),
        ("shard-00002.npy", reshape),
        ("labels.npy", flip_a_bit),
        ("checks.npy", flip_a_bit),
        ("reference.npy", cut_short),
    ],
)
def test_missing_or_damaged_files_are_named_before_training(copy, name, harm):
    harm(copy / name)
    with pytest.raises(ValueError, match=rf"{name} is (damaged|missing).*run the same bench\.encode again"):
        sources.load_dataset(f"latents:{copy}")


def test_a_changed_bit_is_never_trained_on(copy):
    flip_a_bit(copy / "shard-00002.npy")
    arrays = sources.load_dataset(f"latents:{copy}")
    rows = 2 * latents.read_manifest(copy).rows
    with pytest.raises(ValueError, match=r"shard-00002\.npy is damaged: the CRC-32 of image \d+ is wrong"):
        for seed in range(20):  # each seed draws the image or its mirror image
            arrays.model_inputs(np.arange(rows, rows + latents.read_manifest(copy).rows), seed)
    assert len(arrays.model_inputs(np.arange(rows), 0)) == rows


def test_a_shard_that_shrinks_in_training_is_named(copy):
    config = presets.compose_config(presets.RunRequest(data=f"latents:{copy}"))
    arrays = sources.load_dataset(f"latents:{copy}")
    cut_short(copy / "shard-00001.npy")
    with pytest.raises(ValueError, match=r"shard-00001\.npy shrank from"):
        training_batch.draw_batch(config, arrays, 3, 0, 0, 8)


@pytest.mark.parametrize("name", ["shard-00001.npy", "reference.npy", "labels.npy"])
def test_verify_names_damaged_files(copy, capsys, name):
    assert encode.main([str(copy), "--verify"]) == 0
    assert "is intact: 7 files of 50 latents" in capsys.readouterr().out
    flip_a_bit(copy / name)
    assert encode.main([f"latents:{copy}", "--verify"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bench.encode: ")]
    assert len(errors) == 1 and f"{name} is damaged: its SHA-256" in errors[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "manifest.json cannot be read"),
        ('{"format": 1}', "manifest.json cannot be read: data is missing"),
        (None, "no manifest.json, so it is not a finished set"),
    ],
)
def test_a_bad_manifest_gets_a_sentence(copy, text, words):
    (copy / "manifest.json").unlink() if text is None else (copy / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        sources.open_source(f"latents:{copy}")


def test_a_manifest_of_another_format_gets_a_sentence(copy):
    text = (copy / "manifest.json").read_text().replace('"format": 1', '"format": 9')
    (copy / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="is of format 9; this version reads 1"):
        sources.load_dataset(f"latents:{copy}")


def test_a_known_name_opens_latents_of_its_shape_only(tmp_path, pictures, vae):
    encoded(tmp_path / "imagenet256-latents", pictures, vae)
    with pytest.raises(ValueError, match="has latents of size 8; imagenet256-latents means 32"):
        sources.open_source("imagenet256-latents", str(tmp_path))
    encoded(tmp_path / "mine", pictures, vae)
    assert isinstance(sources.load_dataset(str(tmp_path / "mine")), latents.LatentDataset)


def test_loader_threads_draw_latents_in_constant_memory(latent_set):
    config = presets.compose_config(presets.RunRequest(data=f"latents:{latent_set}"))
    arrays, before = sources.load_dataset(f"latents:{latent_set}"), set(threading.enumerate())
    steps = [(i, i * 64, 64) for i in range(300)]

    def draw(step, images, size):
        return training_batch.draw_batch(config, arrays, 3, step, images, size)

    def private():
        with open("/proc/self/status") as f:
            return int(next(line for line in f if line.startswith("RssAnon")).split()[1]) * 1024

    resident = []
    with prefetch.PrefetchLoader(draw, steps, 2) as batches:
        for step, batch in zip(steps, batches, strict=True):
            if step[0] < 3:
                assert all(torch.equal(a, b) for a, b in zip(batch, draw(*step), strict=True))
            resident.append(private())
    assert max(resident[150:]) - resident[50] < 4 * 2**20  # a batch is 130 KiB, an epoch one batch
    assert set(threading.enumerate()) == before
