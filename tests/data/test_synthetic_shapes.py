import hashlib

import numpy as np
import pytest
from extractor_helpers import features_of_images
from helpers import few_shapes

from bench.config.schema import DataConfig
from bench.data import sources, synthetic_shapes
from bench.evaluation.extractors import small_cnn
from bench.experiments import presets

ROWS = np.array([0, 1, 5, 3 * synthetic_shapes.IMAGES_PER_SEED + 7, synthetic_shapes.FIRST_REFERENCE_ROW + 2])


def test_an_image_is_a_function_of_its_row_alone():
    whole = synthetic_shapes.draw_images(ROWS, 32)
    assert whole.shape == (5, 3, 32, 32) and whole.dtype == np.uint8
    for i, row in enumerate(ROWS):
        assert np.array_equal(synthetic_shapes.draw_images(np.array([row]), 32)[0], whole[i])
    assert np.array_equal(synthetic_shapes.draw_images(ROWS[::-1], 32)[::-1], whole)


def test_batches_that_are_drawn_in_pieces_are_the_same(monkeypatch):
    whole = synthetic_shapes.draw_images(np.arange(9), 16)
    monkeypatch.setattr(synthetic_shapes, "PIXELS_PER_CHUNK", 600)
    assert np.array_equal(synthetic_shapes.draw_images(np.arange(9), 16), whole)


def test_the_bytes_are_those_that_every_machine_draws():
    """Integers and single float32 sums, products, quotients and roots are rounded alike by all processors.

    Sines and cosines of angles differ by 1e-16.  After rounding to float32 one in 10^8 of them still differs.
    """
    drawn = synthetic_shapes.draw_images(np.arange(500), 32)
    assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == "e909b0c17ff04295"
    assert (
        hashlib.sha256(synthetic_shapes.class_labels(np.arange(500)).tobytes()).hexdigest()[:16] == "8329dffa43bb7be1"
    )


@pytest.mark.parametrize("seed", [0, 1, 77])
def test_streams_of_two_seeds_share_no_rows(seed):
    arrays = sources.load_dataset("shapes")
    rows = arrays.stream_rows(seed, 0, 3000)
    images = arrays.images[rows].reshape(3000, -1)
    assert len(np.unique(images, axis=0)) == 3000
    parts = np.concatenate([arrays.stream_rows(seed, p, 1000) for p in (0, 1000, 2000)])
    assert np.array_equal(parts, rows)
    others = np.concatenate([arrays.stream_rows(s, 0, 3000) for s in range(80) if s != seed])
    assert not np.intersect1d(rows, others).size


def test_no_stream_contains_evaluation_images():
    arrays = sources.load_dataset("shapes")
    last = arrays.stream_rows(synthetic_shapes.MAX_SEEDS - 1, synthetic_shapes.IMAGES_PER_SEED - 10, 10)[-1]
    assert (
        last
        < synthetic_shapes.FIRST_REFERENCE_ROW
        < synthetic_shapes.FIRST_HELD_OUT_ROW
        < synthetic_shapes.FIRST_EXTRACTOR_ROW
        < 2**63 - synthetic_shapes.IMAGES_PER_SEED
    )
    other_sets = [
        synthetic_shapes.draw_images(first + np.arange(50), 32)
        for first in (
            synthetic_shapes.FIRST_REFERENCE_ROW,
            synthetic_shapes.FIRST_HELD_OUT_ROW,
            synthetic_shapes.FIRST_EXTRACTOR_ROW,
        )
    ]
    assert np.array_equal(arrays.reference[:50], other_sets[0])
    assert arrays.held_out is not None and np.array_equal(arrays.held_out[:50], other_sets[1])
    every = np.concatenate([*other_sets, arrays.images[arrays.stream_rows(0, 0, 500)]])
    assert len(np.unique(every.reshape(len(every), -1), axis=0)) == len(every)


@pytest.mark.parametrize(
    ("seed", "position"), [(synthetic_shapes.MAX_SEEDS, 0), (0, synthetic_shapes.IMAGES_PER_SEED - 1)]
)
def test_beyond_the_last_stream_there_is_a_sentence(seed, position):
    with pytest.raises(ValueError, match="is beyond the shapes that can be drawn: seeds below 4,194,304"):
        sources.load_dataset("shapes").stream_rows(seed, position, 2)


def test_classes_come_equally_often_and_are_the_labels():
    counts = np.bincount(synthetic_shapes.class_labels(np.arange(20_000)))
    assert len(counts) == 10 and counts.min() > 1800
    arrays = sources.load_dataset("shapes-64")
    rows = arrays.stream_rows(4, 9, 20)
    assert np.array_equal(arrays.labels[rows], synthetic_shapes.class_labels(rows))


def per_class(count, size):
    rows = np.arange(count * 30)
    labels = synthetic_shapes.class_labels(rows)
    return {c: synthetic_shapes.draw_images(rows[labels == c][:count], size).astype(float) for c in range(10)}


def test_within_a_class_everything_else_varies():
    for images in per_class(40, 32).values():
        centred = images - images.mean((2, 3), keepdims=True)
        weight = np.abs(centred).sum(1)
        place = (weight.sum(1) * np.arange(32)).sum(1) / weight.sum((1, 2))
        assert images.mean((2, 3)).std(0).min() > 20  # colours
        assert place.std() > 0.5  # places


def test_edges_are_smooth_and_pictures_scale_with_resolution():
    rows = np.arange(60)
    small, large = (
        synthetic_shapes.draw_images(rows, 32).astype(float),
        synthetic_shapes.draw_images(rows, 256).astype(float),
    )
    shrunk = large.reshape(60, 3, 32, 8, 32, 8).mean((3, 5))
    assert np.abs(small - shrunk).mean() < 3


def test_a_shape_is_inside_the_picture():
    radius, x, y = synthetic_shapes.shape_positions(synthetic_shapes.random_numbers(np.arange(400)))
    for centre in (x, y):
        assert (centre - radius).min() >= 0 and (centre + radius).max() <= 1 and centre.std() > 0.03


@pytest.mark.parametrize(
    ("name", "size", "real"), [("shapes", 32, 10_000), ("shapes-256", 256, 2_500), ("shapes-40", 40, 10_000)]
)
def test_shapes_of_any_resolution_are_not_held_in_memory(name, size, real):
    source, arrays = sources.open_source(name), sources.load_dataset(name)
    assert (source.size, source.num_classes, source.hash, source.flip) == (size, 10, "", False)
    assert arrays.reference.shape == (real, 3, size, size) and isinstance(
        arrays.reference, synthetic_shapes.ShapeImages
    )
    assert arrays.images[np.arange(2)].shape == (2, 3, size, size)
    of_run = sources.open_dataset(DataConfig(name=name))
    assert of_run.stream_rows(2, 5, 3).tolist() == arrays.stream_rows(2, 5, 3).tolist()


@pytest.mark.parametrize("arch", ["dit", "uvit", "unet", "genvit"])
def test_shapes_imply_a_laptops_setting(arch):
    config = presets.compose_config(presets.RunRequest(arch=arch, data="shapes"))
    assert config.model.size in ("nano/4", "nano-32") and config.evaluation.extractor == "shapes-cnn"
    assert config.budget.images <= 100_000 and config.data.flip == "never"
    assert presets.compose_config(presets.RunRequest(arch=arch, size=config.model.size)) == config


def test_the_extractor_is_retrained_to_the_same_bytes(monkeypatch):
    monkeypatch.setitem(small_cnn.DESIGNS, "shapes-cnn", few_shapes())
    one, two = (small_cnn.train_small_cnn("shapes-cnn") for _ in range(2))
    assert all(one[k].equal(two[k]) and (one[k] * small_cnn.WEIGHT_RESOLUTION % 1 == 0).all() for k in one)


def test_the_extractor_averages_larger_images_down(tmp_path, monkeypatch):
    monkeypatch.setitem(small_cnn.DESIGNS, "shapes-cnn", few_shapes())
    path = small_cnn.prepare_small_cnn("shapes-cnn", "", tmp_path)
    small = synthetic_shapes.draw_images(np.arange(8), 32)
    features, upsampled = (features_of_images("shapes-cnn", path, x) for x in (small, small.repeat(2, 2).repeat(2, 3)))
    assert features["64"].shape == (8, 64) and features["logits"].shape == (8, 10)
    assert np.allclose(features["64"], upsampled["64"], atol=1e-5)
