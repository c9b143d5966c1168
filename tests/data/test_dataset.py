import numpy as np
import pytest

from bench.data import dataset, sources


def test_digits_have_a_fixed_split_without_overlap(digits):
    assert (len(digits.images), len(digits.held_out)) == (1348, 449)
    assert digits.images.shape[1:] == (1, 8, 8) and digits.images.dtype == np.uint8
    assert (digits.images.min(), digits.images.max()) == (0, 255)
    assert digits.reference_hash() == sources.load_dataset("digits").reference_hash()


def test_normalised_pixels_fill_minus_one_to_one(digits):
    x = dataset.normalise(digits.images)
    assert (x.min(), x.max(), x.dtype) == (-1, 1, np.float32)


def test_the_stream_visits_every_image_once_an_epoch():
    seen = dataset.stream_indices(3, 0, 50, 100)
    assert sorted(seen[:50]) == sorted(seen[50:]) == list(range(50))
    assert list(seen[:50]) != list(seen[50:])


@pytest.mark.parametrize("split", [1, 7, 49, 50, 51, 99])
def test_the_stream_does_not_depend_on_the_batch_size(split):
    whole = dataset.stream_indices(3, 0, 50, 120)
    parts = [dataset.stream_indices(3, p, 50, min(split, 120 - p)) for p in range(0, 120, split)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_another_seed_gives_another_order():
    assert not np.array_equal(dataset.stream_indices(0, 0, 50, 50), dataset.stream_indices(1, 0, 50, 50))


def write_folder(path, images=(12, 3, 16, 16), dtype=np.uint8, labels=None, reference=None):
    path.mkdir(exist_ok=True)
    np.save(path / "images.npy", np.zeros(images, dtype))
    np.save(path / "labels.npy", np.arange(images[0]) % 3 if labels is None else labels)
    if reference:
        np.save(path / "reference.npy", np.zeros(reference, np.uint8))


def test_a_folder_of_arrays_is_a_data_set(tmp_path):
    write_folder(tmp_path / "mine")
    source = sources.open_source(str(tmp_path / "mine"))
    assert (source.channels, source.size, source.num_classes, source.latent) == (3, 16, 3, False)
    assert len(sources.load_dataset(str(tmp_path / "mine")).reference) == 12


def test_a_known_name_is_looked_for_below_the_root(tmp_path):
    write_folder(tmp_path / "imagenet256-latents", (6, 4, 32, 32), np.float16, reference=(6, 3, 256, 256))
    arrays = sources.load_dataset("imagenet256-latents", str(tmp_path))
    assert arrays.images.dtype == np.float16 and arrays.reference.shape == (6, 3, 256, 256)


def test_missing_data_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"bench.encode imagenet256 --vae PATH .*--data digits, which works at once"):
        sources.load_dataset("imagenet256-latents", str(tmp_path))


def test_unknown_data_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean digits"):
        sources.open_source("digit")


BAD_FOLDERS = [
    (dict(labels=np.zeros(5)), r"must be \(12,\)"),
    (dict(labels=np.full(12, -1)), "labels start at 0"),
    (dict(images=(12, 16, 16)), "size, size"),
    (dict(dtype=np.float16), "no reference.npy"),
]


@pytest.mark.parametrize(("wrong", "sentence"), BAD_FOLDERS, ids=["labels", "negative", "shape", "reference"])
def test_a_misshapen_folder_gets_a_sentence(tmp_path, wrong, sentence):
    write_folder(tmp_path / "mine", **wrong)
    with pytest.raises(ValueError, match=sentence):
        sources.load_dataset(str(tmp_path / "mine"))


def test_a_truncated_array_gets_a_sentence(tmp_path):
    write_folder(tmp_path / "mine")
    whole = (tmp_path / "mine" / "images.npy").read_bytes()
    (tmp_path / "mine" / "images.npy").write_bytes(whole[:200])
    with pytest.raises(ValueError, match=r"images\.npy cannot be read"):
        sources.load_dataset(str(tmp_path / "mine"))


def test_a_known_name_with_another_shape_is_refused(tmp_path):
    write_folder(tmp_path / "cifar10")
    with pytest.raises(ValueError, match="cifar10 means"):
        sources.load_dataset("cifar10", str(tmp_path))
