"""The main job, small: images are encoded, and a network trained on the latents, sampled, decoded and measured."""

import json
import re

import pytest
from helpers import SMALLEST, save_images, save_vae, state_of, until, words_of

from bench import encode, run
from bench.config.overrides import load_config
from bench.experiments import presets
from bench.experiments.resolve import resolve
from bench.records import protocol, record
from bench.runs import launch
from bench.runs.planning import check_prerequisites
from bench.storage.run_folder import RunFolder

FEW = {
    "budget.images": 32,
    "budget.points": 1,
    "recipe.batch": 8,
    "evaluation.samples": 20,
    "evaluation.steps": 2,
    "evaluation.guidance": 1.5,
    "evaluation.batch": 10,
    "compute.threads": 1,
    "slurm.gpus_per_node": 0,
    "slurm.cpus_per_task": 1,
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with pictures, an autoencoder, and latents: data/cats-latents."""
    monkeypatch.chdir(tmp_path)
    save_images(tmp_path / "data" / "cats", count=24)
    save_vae(tmp_path / "models" / "vae")
    assert encode.main(["data/cats", "--vae", "models/vae", "--threads", "1", "--flips", "2"]) == 0
    return tmp_path


def test_latents_to_leaderboard_on_a_cluster(slurm, here, inception, capsys):
    jobs = {}
    for arch in ("dit", "uvit", "unet"):
        words = ["--arch", arch, "--data", "latents:data/cats-latents", "--cluster", "slurm"]
        words += words_of({**FEW, **SMALLEST[arch], "evaluation.weights": inception})
        assert run.main(words) == 0
        jobs[arch] = (
            words,
            *re.search(r"submitted (\S+): train \d+ -> evaluate (\d+)", capsys.readouterr().out).groups(),
        )
    for words, name, job in jobs.values():
        assert until(lambda job=job: state_of(job) not in ("", "PENDING", "RUNNING"))
        log = (here / "results" / "runs" / name / "log.jsonl").read_text()
        assert state_of(job) == "COMPLETED", log
        assert run.main(words) == 0
        assert "done already" in capsys.readouterr().out
    records = [r for r in record.read_records(here / "results") if r.kind == "model"]
    assert {r.config["model"]["arch"] for r in records} == set(jobs)
    assert len({r.fingerprint for r in records}) == 1, "they are compared with each other"
    texts = [path.read_text() for path in (here / "results" / "records").rglob("*.json")]
    assert len(texts) >= 3 and all(str(here) not in text for text in texts), "no path is in a record"
    (sha256,) = {r.protocol["evaluation"]["decoder"] for r in records}
    assert sha256 == json.loads((here / "data" / "cats-latents" / "manifest.json").read_text())["vae"]["sha256"]
    assert (here / "results" / "leaderboard.md").read_text().count("## Protocol ") == 1


def resolved(results=None, threads=1, **settings):
    values = {**FEW, **SMALLEST["dit"], **{k.replace("__", "."): v for k, v in settings.items()}}
    request = presets.RunRequest(
        data="latents:data/cats-latents",
        settings={k: str(v) for k, v in values.items() if not k.startswith("slurm.") and k != "compute.threads"},
    )
    return resolve(request, threads=threads, results=results)


def test_the_decoder_hash_but_not_its_path_is_in_the_protocol(here):
    config = resolved().config
    assert config.evaluation.decoder == str(here / "models" / "vae")
    (here / "models" / "vae").rename(here / "models" / "moved")
    moved = resolved(evaluation__decoder="models/moved").config
    assert moved.evaluation.decoder == "models/moved" and moved.name == config.name
    save_vae(here / "models" / "other", seed=1)
    other = resolved(evaluation__decoder="models/other").config
    halves = [
        protocol.evaluation_protocol(c, extractor_hash="", reference_hash="", reference_count=1)
        for c in (config, moved, other)
    ]
    assert halves[0] == halves[1] != halves[2] and other.name != config.name


def refused(config):
    with pytest.raises(ValueError) as caught:
        check_prerequisites([config])
    return str(caught.value)


def test_a_missing_or_wrong_decoder_is_refused_at_once(here):
    config = resolved()
    (here / "models" / "vae").rename(here / "models" / "moved")
    assert f"evaluation.decoder is {here / 'models' / 'vae'}; pass --set evaluation.decoder=PATH" in refused(config)
    save_vae(here / "models" / "vae", seed=1)
    assert "does not hold the autoencoder" in refused(config)
    save_vae(here / "models" / "f4", down=3)
    assert "has latents (4, 4, 4) for images of 16 pixels" in refused(resolved(evaluation__decoder="models/f4"))


def test_a_run_that_goes_on_takes_the_decoders_new_place(here):
    results = here / "results"
    first = resolved(results)
    config, folder = first.config, RunFolder.of(results, first.config.name)
    launch.write_configs({config.name: folder}, {config.name: first})
    (here / "models" / "vae").rename(here / "models" / "moved")
    moved = resolved(results, threads=2, evaluation__decoder="models/moved")
    launch.write_configs({config.name: folder}, {config.name: moved})
    written = load_config(folder.path)
    assert written.evaluation.decoder == "models/moved" and written.compute.threads == 1
    assert written.name == config.name


def test_pixels_have_no_decoder_in_their_protocol(digits):
    config = resolve(presets.RunRequest(data="digits")).config
    half = protocol.evaluation_protocol(config, extractor_hash="", reference_hash="", reference_count=1)
    assert half["decoder"] == "" and config.evaluation.decoder == ""


def test_a_damaged_shard_ends_the_run_with_its_name(here, inception, capsys):
    shard = here / "data" / "cats-latents" / "shard-00000.npy"
    shard.write_bytes(shard.read_bytes()[:128] + bytes(shard.stat().st_size - 128))
    words = ["--data", "latents:data/cats-latents", "--cluster", "debug"]
    words += words_of({**FEW, **SMALLEST["dit"], "evaluation.weights": inception, "slurm.time": "1:00:00"})
    assert run.main(words) == 2
    assert "shard-00000.npy is damaged: the CRC-32 of image" in capsys.readouterr().err
    (folder,) = (here / "results" / "runs").glob("dit-*")
    assert not list(folder.glob("snapshots/*"))
