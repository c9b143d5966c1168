"""Open data sets of every format by path; the tests write small ones."""

import json
import tarfile
import threading

import numpy as np
import pytest
from image_files import picture, png, write_images
from PIL import Image

from bench.config import naming, overrides, schema
from bench.data import archives, dataset, image_folder, sources
from bench.experiments import presets
from bench.records import protocol


def class_folders(path, size=40):
    write_images(path / "cats", 4, width=size)
    write_images(path / "ants", 3, first=4, width=size)
    (path / "notes.txt").write_text("no image")
    return path


def cifar10(path, python=False):
    path.mkdir()
    rng = np.random.RandomState(0)
    for name in (*archives.TRAIN_BATCHES, archives.TEST_BATCH):
        rows = rng.randint(0, 256, (4, archives.BYTES_PER_IMAGE)).astype(np.uint8)
        rows[:, 0] = rng.randint(0, 10, 4)
        (path / (name.removesuffix(".bin") if python else name)).write_bytes(rows.tobytes())
    return path


def packed(folder, path):
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return path


def huggingface_set(names=True, seeds=range(6), **more):
    import datasets

    label = datasets.ClassLabel(names=["ant", "bee", "cat"]) if names else datasets.Value("int64")
    features = datasets.Features({"image": datasets.Image(), "label": label})
    rows = {"image": [{"bytes": png(s, **more), "path": None} for s in seeds], "label": [s % 3 for s in seeds]}
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    """Move Hugging Face's cache into the test's folder."""
    import datasets

    from bench.data import huggingface

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()
    huggingface.open_splits.cache_clear()


def make(kind, path):
    """Write a small data set of one kind; return its --data string, for 16 pixels."""
    if kind == "class folders":
        class_folders(path / "set")
        return f"{path / 'set'}@16"
    if kind == "ImageNet's layout":
        class_folders(path / "set" / "train")
        class_folders(path / "set" / "val")
        return f"{path / 'set'}@16"
    if kind == "a flat folder":
        write_images(path / "set", 7, ending="jpg")
        return f"{path / 'set'}@16"
    if kind == "CIFAR-10, packed":
        return f"{packed(cifar10(path / 'cifar-10-batches-bin'), path / 'cifar-10-binary.tar.gz')}@16"
    if kind == "CIFAR-10, unpacked":
        return f"{cifar10(path / 'cifar-10-batches-bin')}@16"
    if kind == "npz":
        np.savez(path / "set.npz", arr_0=np.zeros((7, 16, 16, 3), np.uint8), arr_1=np.arange(7) % 3)
        return str(path / "set.npz")
    if kind == "parquet":
        (path / "set" / "data").mkdir(parents=True)
        huggingface_set().to_parquet(path / "set" / "data" / "train-00000-of-00001.parquet")
        huggingface_set(seeds=[9]).to_parquet(path / "set" / "data" / "validation-00000-of-00001.parquet")
        return f"{path / 'set'}@16"
    if kind == "parquet without words":
        huggingface_set(names=False).to_parquet(path / "set.parquet")
        return f"{path / 'set.parquet'}@16"
    huggingface_set().save_to_disk(path / "set")
    return f"{path / 'set'}@16"


KINDS = {  # classes, images, held out, mirrored, title
    "class folders": (2, 7, None, True, "set@16"),
    "ImageNet's layout": (2, 7, 7, True, "set@16"),
    "a flat folder": (0, 7, None, True, "set@16"),
    "CIFAR-10, packed": (10, 20, 4, True, "cifar-10-binary@16"),
    "CIFAR-10, unpacked": (10, 20, 4, True, "cifar-10-batches-bin@16"),
    "npz": (3, 7, None, False, "set"),
    "parquet": (3, 6, 1, True, "set@16"),
    "parquet without words": (3, 6, None, True, "set@16"),
    "Hugging Face's own": (3, 6, None, True, "set@16"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_is_a_data_set(tmp_path, kind):
    name, (classes, count, held_out, flip, title) = make(kind, tmp_path), KINDS[kind]
    source, arrays = sources.open_source(name), sources.load_dataset(name)
    assert (source.channels, source.size, source.num_classes, source.latent) == (3, 16, classes, False)
    assert arrays.images.shape == (count, 3, 16, 16) and arrays.reference.shape == (count, 3, 16, 16)
    batch = arrays.images[np.array([2, 0])]
    assert batch.dtype == np.uint8 and np.array_equal(batch[::-1], arrays.images[:3][[0, 2]])
    assert (len(arrays.labels) == count and arrays.labels[:].max() == max(classes - 1, 0)) or classes == 10
    assert (arrays.held_out and len(arrays.held_out)) == held_out and arrays.flip == source.flip == flip
    assert naming.dataset_title(name) == title and len(source.hash) == 16
    assert len(arrays.reference_hash()) == 64
    resolved = presets.compose_config(presets.RunRequest(data=name))
    assert (resolved.data.hash, resolved.data.flip) == (source.hash, "always" if flip else "never")
    assert str(tmp_path) not in json.dumps([resolved.identity(), resolved.name])


@pytest.mark.parametrize("kind", ["class folders", "npz", "parquet", "CIFAR-10, packed", "Hugging Face's own"])
def test_the_hash_follows_the_content_and_not_the_place(tmp_path, kind):
    one, two = tmp_path / "a", tmp_path / "b"
    one.mkdir()
    name = make(kind, one)
    before = sources.open_source(name).hash
    one.rename(two)
    moved = name.replace(str(one), str(two))
    assert sources.open_source(moved).hash == before
    file = max((f for f in two.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    file.with_name(f"z{file.name}" if kind == "class folders" else file.name).write_bytes(content)
    assert sources.open_source(moved).hash != before


def test_pixels_of_a_folder_equal_its_files(tmp_path):
    class_folders(tmp_path / "set", size=32)
    arrays = sources.load_dataset(str(tmp_path / "set"))
    pixels = [np.asarray(picture(s, width=32)).transpose(2, 0, 1) for s in (4, 5, 6, 0, 1, 2, 3)]
    assert np.array_equal(arrays.images[:], pixels) and arrays.labels[:].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert sources.open_source(str(tmp_path / "set")).classes == ("ants", "cats")


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA"])
def test_images_of_any_mode_become_rgb(tmp_path, mode):
    write_images(tmp_path / "set", 1, ending="jpg" if mode == "CMYK" else "png", mode=mode)
    with Image.open(next((tmp_path / "set").iterdir())) as image:
        assert image.mode == mode
    assert sources.load_dataset(f"{tmp_path / 'set'}@32").images[:].shape == (1, 3, 32, 32)


def test_planes_and_labels_of_cifar_10_match_its_binary_files(tmp_path):
    folder = cifar10(tmp_path / "cifar-10-batches-bin")
    arrays = sources.load_dataset(str(folder))
    raw = np.frombuffer((folder / "data_batch_2.bin").read_bytes(), np.uint8).reshape(4, -1)
    assert arrays.labels[np.array([5])] == raw[1, 0]
    assert np.array_equal(arrays.images[np.array([5])][0, 1].ravel(), raw[1, 1 + 1024 : 1 + 2048])


@pytest.mark.parametrize("python", [True, False], ids=["packed", "unpacked"])
def test_the_pickle_of_cifar_10_is_never_read(tmp_path, python):
    location = cifar10(tmp_path / "cifar-10-batches-py", python=True)
    location = packed(location, tmp_path / "cifar-10-python.tar.gz") if python else location
    with pytest.raises(ValueError, match=r"a pickle, which could run code.*cifar-10-binary\.tar\.gz"):
        sources.load_dataset(str(location))


def test_a_known_name_takes_the_images_themselves(tmp_path):
    class_folders(tmp_path / "imagenet64")
    with pytest.raises(ValueError, match="imagenet64 has 2 classes; imagenet64 has 1000"):
        sources.open_source("imagenet64", str(tmp_path))
    write_images(tmp_path / "celeba64", 3)
    assert sources.load_dataset("celeba64", str(tmp_path)).images.shape == (3, 3, 64, 64)
    packed(cifar10(tmp_path / "cifar-10-batches-bin"), tmp_path / "cifar-10-binary.tar.gz")
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar-10-binary.tar.gz").rename(tmp_path / "cifar10" / "cifar-10-binary.tar.gz")
    assert sources.load_dataset("cifar10", str(tmp_path)).images.shape == (20, 3, 32, 32)
    free = sources.open_source("cifar10-uncond", str(tmp_path))
    assert free.num_classes == 0 and free.hash == sources.open_source("cifar10", str(tmp_path)).hash
    assert sources.load_dataset("cifar10-uncond", str(tmp_path)).images.shape == (20, 3, 32, 32)


def damaged(path):
    class_folders(path, size=32)
    file = path / "cats" / "001.png"
    file.write_bytes(file.read_bytes()[:500])


def of_other_sizes(path):
    class_folders(path, size=32)
    picture(0, width=64, height=64).save(path / "cats" / "001.png")


def text(path):
    class_folders(path, size=32)
    (path / "cats" / "001.png").write_text("not an image")


BAD_IMAGES = {
    "cut short": (damaged, r"cats/001\.png cannot be read as an image \(.*truncated.*\); replace or remove it"),
    "of another size": (of_other_sizes, r"cats/001\.png is 64x64, but the first image is 32x32; add a size .*PATH@64"),
    "no image": (text, r"cats/001\.png cannot be read as an image"),
}


@pytest.mark.parametrize(("spoil", "sentence"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_bad_image_is_named_when_it_is_read(tmp_path, spoil, sentence):
    spoil(tmp_path / "set")
    arrays = sources.load_dataset(str(tmp_path / "set"))
    assert len(arrays.images[np.array([0, 1, 2, 3])]) == 4
    for rows in (np.arange(7), np.array([4])):
        with pytest.raises(ValueError, match=sentence) as error:
            arrays.images[rows]
        assert "\n" not in str(error.value)


def test_a_folder_keeps_no_threads_and_no_images(tmp_path):
    class_folders(tmp_path / "set", size=32)
    before, arrays = threading.active_count(), sources.load_dataset(str(tmp_path / "set"))
    arrays.model_inputs(np.arange(7), 0)
    assert threading.active_count() == before
    assert not any(isinstance(value, np.ndarray) for value in vars(arrays.images).values())


def test_mirroring_is_the_runs_choice(tmp_path):
    name = make("class folders", tmp_path)
    flips = {f: sources.open_dataset(schema.DataConfig(name=name, flip=f)).flip for f in ("auto", "never", "always")}
    assert flips == {"auto": True, "never": False, "always": True}
    arrays = sources.open_dataset(schema.DataConfig(name=name))
    seen = np.concatenate([arrays.model_inputs(np.zeros(64, int), seed) for seed in range(4)])
    as_it_is, mirrored = dataset.normalise(arrays.images[:1])[0], dataset.normalise(arrays.images[:1])[0, ..., ::-1]
    share = np.mean([np.array_equal(x, mirrored) for x in seen])
    assert all(np.array_equal(x, as_it_is) or np.array_equal(x, mirrored) for x in seen) and 0.35 < share < 0.65


def test_a_run_refuses_data_that_have_changed(tmp_path):
    name = make("class folders", tmp_path)
    planned = sources.resolve_data(schema.DataConfig(name=name))
    write_images(tmp_path / "set" / "cats", 1, first=50)
    with pytest.raises(ValueError, match="has changed since this run was planned"):
        sources.open_dataset(planned)


def test_an_opened_source_is_not_opened_again(tmp_path, monkeypatch):
    data = schema.DataConfig(name=make("class folders", tmp_path))
    source = sources.open_source(data.name, data.root)
    monkeypatch.setattr(sources, "open_source", lambda *_: pytest.fail("the source was opened again"))
    planned = sources.resolve_data(data, source)
    assert len(sources.open_dataset(planned, source).images) == 7 and planned.hash == source.hash


def test_sets_of_one_name_do_not_share_a_run_or_a_protocol(tmp_path):
    class_folders(tmp_path / "a" / "set")
    class_folders(tmp_path / "b" / "set", size=50)
    one, two = (presets.compose_config(presets.RunRequest(data=f"{tmp_path / p / 'set'}@16")) for p in "ab")
    assert one.name != two.name and one.data.title == two.data.title
    halves = [protocol.training_protocol(c, native={}, match_target=None) for c in (one, two)]
    assert halves[0] != halves[1]
    mirrored = overrides.apply_overrides(one, {"data.flip": "never"})
    assert protocol.training_protocol(mirrored, native={}, match_target=None) != halves[0]


def empty(path):
    path.mkdir()


def both(path):
    class_folders(path)
    write_images(path, 1)


def oblong(path):
    class_folders(path, size=40)


def no_images(path):
    import datasets

    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(path)


def cut_parquet(path):
    path.mkdir()
    (path / "train.parquet").write_bytes(b"PAR1 and no more")


def short_batch(path):
    cifar10(path)
    (path / "data_batch_3.bin").write_bytes(b"123")


def no_batch(path):
    cifar10(path)
    (path / "data_batch_3.bin").unlink()


BAD_SETS = {
    "an empty folder": (empty, "has no images .*, no class folders of images, and no images.npy"),
    "images beside class folders": (both, r"has images at its top level \(000.png\) and in folders \(ants\)"),
    "oblong images and no size": (
        oblong,
        r"ants/004.png is 40x32; add a size to crop all images to, as in --data PATH@64",
    ),
    "no column of images": (no_images, "has the columns text, none of which holds images"),
    "a damaged parquet file": (cut_parquet, "cannot be read as parquet"),
    "a short batch": (short_batch, "data_batch_3.bin of .* has 3 bytes, not a multiple of 3,073"),
    "a missing batch": (no_batch, "lacks data_batch_3.bin of CIFAR-10's binary version"),
}


@pytest.mark.parametrize(("spoil", "sentence"), BAD_SETS.values(), ids=BAD_SETS)
def test_a_bad_set_gets_a_sentence(tmp_path, spoil, sentence):
    spoil(tmp_path / "set")
    with pytest.raises(ValueError, match=sentence) as error:
        sources.load_dataset(str(tmp_path / "set"))
    assert "\n" not in str(error.value)


BAD_NPZ = {
    "no images": (dict(x=np.zeros(3)), "holds x; it needs arr_0 or images"),
    "floats": (dict(arr_0=np.zeros((2, 8, 8, 3))), "arr_0 of .* is float64; images must be uint8"),
    "oblong": (dict(images=np.zeros((2, 8, 9, 3), np.uint8)), r"shape \(2, 8, 9, 3\); it must be"),
    "labels": (dict(arr_0=np.zeros((2, 8, 8, 3), np.uint8), arr_1=np.zeros(3, int)), r"must be integers \(2,\)"),
    "negative": (dict(images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.array([-1, 0])), "labels start at 0"),
    "pickled": (dict(images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.array([{}, {}])), "cannot be read"),
}


@pytest.mark.parametrize(("content", "sentence"), BAD_NPZ.values(), ids=BAD_NPZ)
def test_a_bad_npz_gets_a_sentence(tmp_path, content, sentence):
    np.savez(tmp_path / "set.npz", **content)
    with pytest.raises(ValueError, match=sentence):
        sources.load_dataset(str(tmp_path / "set.npz"))


@pytest.mark.parametrize("layout", ["channels last", "channels first", "grey"])
def test_an_npz_has_its_channels_first_or_last(tmp_path, layout):
    images = np.random.RandomState(0).randint(0, 256, (5, 1 if layout == "grey" else 3, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "set.npz", images=images if layout == "channels first" else images.transpose(0, 2, 3, 1))
    arrays = sources.load_dataset(str(tmp_path / "set.npz"))
    assert np.array_equal(arrays.images[:], images) and sources.open_source(str(tmp_path / "set.npz")).num_classes == 0


NAMES = {
    "a size out of range": ("{here}@2", "asks for images of 2 pixels; it must be from 4 to 4096"),
    "an archive of something": ("{here}/x.tar.gz", "is not a tar archive, or is damaged or truncated"),
    "an .npz of something": ("{here}/x.npz", "is not an .npz, or is damaged or truncated$"),
    "a size in letters": ("{here}@abc", "'abc' is not a size; write .*@64 to crop to 64 pixels"),
    "shapes with a crop": ("shapes@16", "shapes are drawn at their size; write shapes-16"),
    "another file": ("{here}/x.txt", "has no known format; name a folder of images"),
    "too few pixels": ("shapes-8", "must be from 16 to 1024"),
    "a near miss": ("shape", "did you mean shapes"),
}


@pytest.mark.parametrize(("name", "sentence"), NAMES.values(), ids=NAMES)
def test_a_bad_name_gets_a_sentence(tmp_path, name, sentence):
    for file in ("x.tar.gz", "x.npz", "x.txt"):
        (tmp_path / file).write_text("nonsense")
    with pytest.raises(ValueError, match=sentence):
        sources.load_dataset(name.format(here=tmp_path))


@pytest.mark.parametrize("inside", [".", "data", "train", "default/train"])
def test_parquet_is_found_where_the_hub_has_it(tmp_path, inside):
    (tmp_path / "set" / inside).mkdir(parents=True, exist_ok=True)
    huggingface_set().to_parquet(tmp_path / "set" / inside / "train-0.parquet")
    assert len(sources.load_dataset(f"{tmp_path / 'set'}@16").images) == 6


def test_class_folders_are_not_searched_for_parquet(tmp_path):
    class_folders(tmp_path / "set")
    huggingface_set().to_parquet(tmp_path / "set" / "cats" / "x.parquet")
    assert len(sources.load_dataset(f"{tmp_path / 'set'}@16").images) == 7


def test_a_listing_is_cached_until_the_folder_changes(tmp_path):
    class_folders(tmp_path / "set")
    one = image_folder.list_folder(tmp_path / "set")
    assert image_folder.list_folder(tmp_path / "set") is one
    write_images(tmp_path / "set" / "cats", 1, first=60)
    assert len(image_folder.list_folder(tmp_path / "set").files) == 8
