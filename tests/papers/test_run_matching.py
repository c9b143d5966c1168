"""Test bench.run --checkpoint: published weights are sampled and evaluated without training."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from helpers import TINY, tiny_config

from architectures import IOSpec, from_official, official_layout, to_official
from architectures.official_ctor import PUBLISHED
from bench import run
from bench.config.schema import BudgetConfig, DiffusionConfig, ModelConfig, RunConfig
from bench.experiments import presets, pretrained_weights
from bench.records import leaderboard_files, record

CTOR = dict(input_size=8, patch_size=2, in_channels=1, hidden_size=32, depth=1, num_heads=2, num_classes=10)
FEW = [f"--set={k}={v}" for k, v in TINY.items() if k.startswith(("evaluation.", "compute."))]


@pytest.fixture
def file(tmp_path):
    """Save a tiny DiT for digits in the format of the published code."""
    torch.manual_seed(0)
    shapes = official_layout("dit", **CTOR)
    net = from_official("dit", {k: torch.randn(s) * 0.1 for k, s in shapes.items()}, **CTOR)
    torch.save(to_official(net), tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


def go(path, results, *more):
    return run.main(["--checkpoint", str(path), "--results", str(results), "--cluster", "debug", *FEW, *more])


HEADS = "--set=model.args.num_heads=2"


def test_published_weights_become_an_unranked_row(file, tmp_path, capsys):
    results = tmp_path / "results"
    assert go(file, results, HEADS) == 0
    (published,) = [r for r in record.read_records(results) if r.kind == "model"]
    assert published.protocol["training"] == {"track": "published"}
    assert published.checkpoint["weights"] == published.config["model"]["weights"]
    assert published.cost.training_flops is None and published.cost.images_per_second is None
    assert published.config["diffusion"] == dataclasses.asdict(DiffusionConfig(variance="learned_range"))
    assert [
        row["rank"] for row in leaderboard_files.csv_rows(record.read_records(results)) if row["kind"] == "model"
    ] == [None]
    (folder,) = (results / "runs").glob("dit-*")
    assert '"train"' not in (folder / "log.jsonl").read_text()
    assert str(tmp_path) not in json.dumps(published.config)
    assert "unranked" in capsys.readouterr().out
    assert go(file, results, HEADS) == 0
    assert "all of this is done already" in capsys.readouterr().out


def test_a_snapshot_of_ours_gives_the_samples_of_its_run(tmp_path):
    """Equal weights, process and evaluation give equal bytes."""
    config, results = tiny_config(), tmp_path / "results"
    flags = [f"--set={k}={v}" for k, v in {**TINY, "model.args.depth": 1, "model.args.width": 32}.items()]
    flags += ["--set=model.args.heads=2", "--data", "digits", "--results", str(results), "--cluster", "debug"]
    assert run.main(flags) == 0
    (trained,) = (results / "runs").glob("dit-*")
    snapshot = trained / "snapshots" / f"{config.budget.images:012d}.safetensors"
    assert go(snapshot, results) == 0
    (again,) = (results / "runs").glob("dit-*weights*")
    one = trained / "samples" / f"{config.budget.images:012d}.npz"
    with np.load(one) as a, np.load(again / "samples" / f"{0:012d}.npz") as b:
        np.testing.assert_array_equal(a["arr_0"], b["arr_0"])


def loaded_checkpoint(family, name):
    """Return a published checkpoint as it would be loaded, on the meta device."""
    ctor = PUBLISHED[family][name]
    tensors = {k: torch.empty(s, device="meta") for k, s in official_layout(family, **ctor).items()}
    return pretrained_weights.LoadedCheckpoint(net=from_official(family, tensors), family=family, sha256="0" * 64)


EXPECTED = {
    ("dit", "DiT-XL/2 256"): ("XL/2", "imagenet256-latents", DiffusionConfig(variance="learned_range")),
    ("dit", "DiT-XL/2 512"): ("XL/2", "imagenet512-latents", DiffusionConfig(variance="learned_range")),
    ("uvit", "cifar10_uvit_small"): ("S/2", "cifar10-uncond", DiffusionConfig(schedule="vp", time="continuous")),
    ("uvit", "celeba64_uvit_small"): ("S/4", "celeba64", DiffusionConfig(schedule="vp", time="continuous")),
    ("uvit", "imagenet64_uvit_mid"): ("M/4", "imagenet64", DiffusionConfig(schedule="vp", time="continuous")),
    ("uvit", "imagenet256_uvit_large"): (
        "L/2",
        "imagenet256-latents",
        DiffusionConfig(schedule="vp", time="continuous"),
    ),
    ("uvit", "imagenet256_uvit_huge"): (
        "H/2",
        "imagenet256-latents",
        DiffusionConfig(schedule="sqrt_linear", time="count"),
    ),
    ("adm", "64x64"): ("ADM-64", "imagenet64", DiffusionConfig(schedule="cosine", variance="learned_range")),
    ("adm", "256x256"): ("ADM-256", "imagenet256", DiffusionConfig(variance="learned_range")),
    ("adm", "256x256 unconditional"): ("ADM-256", None, DiffusionConfig(variance="learned_range")),
    ("adm", "512x512"): ("ADM-512", "imagenet512", DiffusionConfig(variance="learned_range")),
}


def configured(checkpoint, wish):
    spec = checkpoint.spec
    return presets.checkpoint_config(
        wish,
        arch=spec.arch,
        size=checkpoint.size(),
        args=spec.args,
        io=spec.io,
        weights=checkpoint.sha256,
        process=None,
    )


@pytest.mark.parametrize(("family", "name"), EXPECTED, ids=lambda v: v)
def test_published_checkpoint_implies_size_data_and_process(family, name):
    size, data, process = EXPECTED[family, name]
    checkpoint = loaded_checkpoint(family, name)
    assert checkpoint.size() == size
    if data is None:  # trained without classes on a set that has them, so the data set must be named
        with pytest.raises(ValueError, match="without classes are of no known data set; name it"):
            configured(checkpoint, presets.RunRequest())
        data = {"ADM-256": "imagenet256"}[size]
    config = configured(checkpoint, presets.RunRequest(data=data))
    assert (config.data.name, config.diffusion, config.track) == (data, process, "published")
    assert presets.network_io(config) == checkpoint.spec.io
    native = configured(checkpoint, presets.RunRequest(data=data, track="native"))
    sampled = presets.published_sampling(checkpoint.spec.arch, size)
    assert native.evaluation.sampler == sampled["sampler"] and native.evaluation.steps == sampled["steps"]


@pytest.mark.parametrize("name", ["cin256-v2", "cin-ldm-vq-f8"])
def test_ldm_with_its_class_table_is_sampled_in_its_own_latents(name):
    ctor = {**PUBLISHED["ldm"][name], "n_classes": 1001}
    tensors = {k: torch.empty(s, device="meta") for k, s in official_layout("ldm", **ctor).items()}
    checkpoint = pretrained_weights.LoadedCheckpoint(net=from_official("ldm", tensors), family="ldm", sha256="0" * 64)
    config = configured(checkpoint, presets.RunRequest())
    assert config.data.name == {"cin256-v2": "imagenet256-vq4", "cin-ldm-vq-f8": "imagenet256-vq8"}[name]
    assert config.diffusion.schedule == "ldm"


@pytest.mark.parametrize(
    ("family", "name", "words"),
    [
        ("uvit_t2i", "mscoco_uvit_small", "takes a text, which no data set here has"),
        ("adm", "64 to 256", "takes an image to upsample"),
        ("ldm", "cin256-v2", "takes a text"),
    ],
)
def test_a_condition_that_no_data_has_is_refused(family, name, words):
    with pytest.raises(ValueError, match=words):
        configured(loaded_checkpoint(family, name), presets.RunRequest())


MISTAKES = {
    "heads": ([], r"do not show the number of heads: pass num_heads, with --set model\.args\.num_heads=N"),
    "size": ([HEADS, "--size", "S/2"], "brings its own network; leave --size out"),
    "match": ([HEADS, "--match", "unet:nano"], "brings its own network; leave --match out"),
    "family": ([HEADS, "--arch", "uvit"], r"tiny\.pt: .*(patch_embed|x_embedder)"),
    "unet": (["--arch", "unet"], r"tiny\.pt: "),
    "no such arch": (["--arch", "genvit"], "genvit has no published checkpoints"),
    "data": (
        [HEADS, "--data", "imagenet64"],
        "imagenet64 has 3x64x64 images of 1000 classes; these weights",
    ),
    "argument": ([HEADS, "--set=model.args.num_head=2"], "dit has no argument 'num_head'; did you mean"),
    "suite": (["--suite", "quickstart"], "chooses its own checkpoint"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_a_sentence_and_writes_nothing(file, tmp_path, capsys, name):
    flags, words = MISTAKES[name]
    assert go(file, tmp_path / "results", *flags) == 2
    err = capsys.readouterr().err
    assert re.search(words, err) and err.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("content", ["truncated", "pickle"])
def test_a_bad_file_writes_nothing(file, tmp_path, capsys, content):
    if content == "truncated":
        file.write_bytes(file.read_bytes()[:-2000])
    else:
        torch.save({"state_dict": {}, "trainer": DiffusionConfig()}, file)
    assert go(file, tmp_path / "results", HEADS) == 2
    assert "truncated" in (err := capsys.readouterr().err) or "needs unpickling" in err
    assert not (tmp_path / "results").exists()


def test_guidance_needs_a_null_class(tmp_path, capsys):
    ctor = {**CTOR, "class_dropout_prob": 0.0}
    torch.save({k: torch.randn(s) * 0.1 for k, s in official_layout("dit", **ctor).items()}, tmp_path / "x.pt")
    more = [HEADS, "--set=model.args.class_dropout_prob=0.0"]
    assert go(tmp_path / "x.pt", tmp_path / "results", *more, "--set=evaluation.guidance=2") == 2
    assert "no null class, so there is no guidance" in capsys.readouterr().err


def test_only_published_weights_go_without_training():
    with pytest.raises(ValueError, match=r"budget\.images is 0"):
        RunConfig(budget=BudgetConfig(images=0, points=1))
    with pytest.raises(ValueError, match="track published"):
        RunConfig(track="published")
    with pytest.raises(ValueError, match="track published"):
        RunConfig(model=ModelConfig(weights="ab", io=dataclasses.asdict(IOSpec(channels=1, size=8))))


def test_only_the_reference_is_needed(tmp_path):
    from bench.data import sources

    folder = tmp_path / "imagenet64"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"put reference\.npy \(M, 3, H, W\) uint8, the real images, there"):
        sources.load_reference(sources.open_source("imagenet64", str(tmp_path)))
    np.save(folder / "reference.npy", np.zeros((3, 3, 64, 64), np.uint8))
    assert len(sources.load_reference(sources.open_source("imagenet64", str(tmp_path))).reference) == 3
    with pytest.raises(ValueError, match="imagenet64 is not in"):
        sources.load_dataset("imagenet64", str(tmp_path))
