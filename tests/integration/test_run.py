"""The door, as a user meets it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import LONG, SMALLEST, TINY, readme_block, words_of
from PIL import Image

from bench import run
from bench.cluster import local_queue
from bench.records import record
from bench.records.record import read_records

ROOT = Path(__file__).parents[2]


def settings(arch="dit", **more):
    values = {**TINY, **SMALLEST.get(arch, {}), **{k.replace("__", "."): v for k, v in more.items()}}
    return words_of(values)


def door(*words, cwd=None, **kwargs):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "bench.run", *words], capture_output=True, text=True, cwd=cwd or ROOT, env=env, **kwargs
    )


def test_help_is_quick_and_reads_like_a_manual():
    before = os.times()
    done = door("--help")
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert done.returncode == 0 and seconds < 1.5, "of computing, however busy the machine; about half a second"
    for word in (
        "what to run",
        "recipe, cost and settings",
        "execution",
        "recipe.lr=FLOAT",
        "default: dit",
        "[0.9999]",
    ):
        assert word in done.stdout


def test_the_list_shows_everything(capsys):
    assert run.main(["--list"]) == 0
    out = capsys.readouterr().out
    for word in ("XL/2", "S-deep/2", "ADM-256", "imagenet256-latents", "shapes-256", "PATH@SIZE", "quickstart"):
        assert word in out


MISTAKES = [
    (["--arch", "dti"], "did you mean dit?"),
    (["--arch", "dit", "--size", "XL2"], "did you mean XL/2"),
    (["--arch", "dit", "--size", "H/2"], "size 'H/2' belongs to uvit"),
    (["--data", "digit"], "did you mean digits?"),
    (["--suite", "quikstart"], "did you mean quickstart?"),
    (["--suite", "quickstart", "--arch", "dit"], "leave --arch out"),
    (["--arch", "dit", "--size", "XL/2"], "use --data digits, which works at once"),
    (["--set", "recipe.lr"], "write KEY=VALUE"),
    (["--set", "recipe.lr=-1"], "it must be greater than 0"),
    (["--set", "budget.images=-5"], "budget.images is -5"),
    (["--set", "model.args.patch=3"], "image size 8 is not divisible by 3"),
    (["--set", "model.args.patches=3"], "unexpected keyword argument 'patches'"),
    (["--set", "model.args.heads=5"], "not divisible by 5"),
    (["--set", "model.args.conditioning=film"], "choose one of adaln_zero"),
    (["--arch", "unet", "--set", "model.args.channels=20"], "group norm has 8 groups"),
    (["--match", "unet"], "write [macs|params]:ARCH:SIZE"),
    (["--match", "unet:nano", "--set", "model.tolerance=1e-9"], "the nearest is"),
    (["--arch", "no.such:Net"], "cannot import 'no.such'"),
    (["--arch", "architectures.dit:Dit"], "did you mean DiT"),
    (["--seed", "-1"], "seed is -1"),
    (["--parallel", "0"], "--parallel is 0"),
    (["--set", "model.args.depth=-1"], "depth is -1; it must be at least 1"),
    (["--set", "budget.images=1e16"], "at most 10^15"),
    (["--match", "foo:dit:nano/2"], "one of macs, params"),
    (["--data", "README.md"], "README.md has no known format"),
    (["--track", "native", "--arch", "architectures.dit:DiT", "--set", "model.args.depth=1"], "no published recipe"),
    (["--cluster", "slurm"], "needs sbatch"),
    (["--profile", "defualt"], "did you mean default?"),
    (["--set", "compute.device=cuda"], "use cpu or auto"),
    (["--set", "evaluation.extractor=vgg"], "choose one of inception-v3-compat, digits-cnn"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[" ".join(w) for w, _ in MISTAKES])
def test_a_mistake_gets_one_sentence_and_leaves_nothing(words, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    results = tmp_path / "results"
    assert run.main([*words, "--results", str(results)]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.startswith("bench.run: ") and err.count("\n") == 1
    assert not results.exists()


@pytest.mark.parametrize("words", [["--sice", "XL/2"], ["--size", ""], ["--results", ""], ["--seed", "1.5"]])
def test_a_bad_flag_gets_a_sentence(words, capsys):
    with pytest.raises(SystemExit) as caught:
        run.main(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unwritable_results_folder_gets_a_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run.main(["--data", "digits", "--results", str(tmp_path / "file" / "results")]) == 2
    assert "choose another folder with --results" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--arch", "dit", "--size", "XL/2"], ["--arch", "uvit", "--size", "H/2"], ["--suite", "quickstart"]]
)
def test_a_dry_run_shows_the_cost_and_writes_nothing(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.main([*words, "--dry-run"]) == 0
    out = capsys.readouterr().out
    for word in ("params", "MACs", "training FLOPs", "optimiser", "activations", "about"):
        assert word in out
    if "XL/2" in words:
        assert "675 M" in out and "119 G" in out and "TFLOP/s" in out
    assert not list(tmp_path.iterdir())


def test_one_run_from_nothing_to_its_row(results, capsys):
    words = ["--arch", "unet", "--data", "digits", "--cluster", "debug", "--results", str(results), *settings("unet")]
    assert run.main(words) == 0
    out = capsys.readouterr().out
    records = {r.label: r for r in read_records(results)}
    assert set(records) == {"unet nano channels=32", "held-out", "noise"}
    one = records["unet nano channels=32"]
    assert one.config["recipe"]["batch"] == 16 and one.cost.params > 0 and one.checkpoint["images"] == 96
    assert [p["images"] for p in one.curve] == [48, 96]
    assert one.environment["packages"]["torch"] and one.protocol["training"]["images"] == 96
    folder = next((results / "runs").glob("unet*"))
    for name in ("samples.png", "curves.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert name != "samples.png" or str(folder / name) in out
    with Image.open(record.sample_grid_path(results, one.id)) as picture:
        assert picture.format == "WEBP" and picture.size == (10 * 50, 4 * 50)
    assert one.losses[-1][0] == 96 and all(loss > 0 for _, loss in one.losses)
    with np.load(folder / "samples" / "000000000096.npz") as z:
        assert z["arr_0"].shape == (40, 8, 8, 1) and z["arr_0"].dtype == np.uint8
    assert "held-out" in out.splitlines()[-4] or "noise" in out
    assert run.main(words) == 0
    assert "all of this is done already; --fresh starts it over" in capsys.readouterr().out
    first = (folder / "record.json").stat().st_mtime_ns
    assert run.main([*words, "--fresh"]) == 0
    assert (folder / "record.json").stat().st_mtime_ns > first


def test_a_finished_run_makes_its_images_when_they_are_asked_for(results, capsys):
    words = ["--arch", "dit", "--data", "digits", "--cluster", "debug", "--results", str(results), *settings("dit")]
    assert run.main([*words, "--export", "none"]) == 0
    folder = next((results / "runs").glob("dit*"))
    assert not (folder / "samples").exists()
    before = {p: p.read_bytes() for p in [folder / "record.json", *(folder / "features").rglob("*.*")]}
    assert run.main(words) == 0  # the default of digits is no wish
    assert "all of this is done already" in capsys.readouterr().out and not (folder / "samples").exists()
    assert run.main([*words, "--export", "png"]) == 0
    assert [len(list((folder / "samples" / point).iterdir())) for point in ("000000000048", "000000000096")] == [40, 40]
    assert {p: p.read_bytes() for p in before} == before
    assert run.main([*words, "--set", "compute.export=png"]) == 0
    capsys.readouterr()
    for snapshot in (folder / "snapshots").iterdir():
        snapshot.unlink()
    assert run.main([*words, "--export", "npz"]) == 2
    assert "has no snapshots any more, so no images can be made" in capsys.readouterr().err


@pytest.mark.parametrize(("more", "export"), [([], "png"), (["--export", "none"], "none")])
def test_a_resumed_run_keeps_its_export_setting(more, export, tmp_path, monkeypatch):
    words = ["--arch", "dit", "--data", "digits", "--results", str(tmp_path), *settings("dit")]
    monkeypatch.setattr("bench.runs.dispatch.dispatch_runs", lambda *_: None)  # nothing is done, so nothing is finished
    monkeypatch.setattr("bench.runs.planning.prepare_extractors", lambda *_: None)
    for flags in (["--export", "png"], more):
        assert run.main([*words, *flags]) == 1
    saved = json.loads(next((tmp_path / "runs").glob("dit*/config.json")).read_text())
    assert saved["compute"]["export"] == export and saved["compute"]["threads"] == 1


def test_a_failed_run_says_why_and_where(results, capsys):
    words = ["--arch", "dit", "--data", "digits", "--cluster", "local", "--results", str(results)]
    extra = settings("dit", recipe__lr="1e30", recipe__warmup="0", recipe__clip="0")
    assert run.main([*words, *extra]) == 1
    err = capsys.readouterr().err
    assert "failed: bench.training.checkpointing.Diverged: the loss is" in err and "error.txt" in err


@pytest.mark.parametrize("cluster", ["debug", pytest.param("local", marks=pytest.mark.slow)])
def test_a_run_whose_checkpoints_are_all_damaged_says_so(results, capsys, cluster):
    words = ["--arch", "dit", "--data", "digits", "--cluster", cluster, "--results", str(results), *settings("dit")]
    assert run.main(words) == 0
    folder = next((results / "runs").glob("dit*"))
    (folder / "record.json").unlink()
    for path in [*(folder / "checkpoints").iterdir(), *(folder / "snapshots").iterdir()]:
        path.write_bytes(path.read_bytes()[:50])
        if path.parent.name == "snapshots":
            path.unlink()
    capsys.readouterr()
    assert run.main(words) == 2
    assert "no checkpoint can be resumed" in capsys.readouterr().err


def test_a_killed_suite_goes_on_and_ends_as_if_it_had_not_been(results, tmp_path, cache):
    """SIGKILL to the door; its processes save and end by themselves, and the next command goes on."""
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    (quiet / "cache").symlink_to(cache)
    words = ["--arch", "dit", "--data", "digits", "--cluster", "local"]
    extra = settings("dit", budget__images="24000", compute__checkpoint_seconds="0.5")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bench.run", *words, *extra]
    process = subprocess.Popen([*command, "--results", str(results)], env=env, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + LONG
    while not list((results / "runs").glob("dit*/checkpoints/*.safetensors")):
        assert time.monotonic() < deadline and process.poll() is None, "it never came to a checkpoint"
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run.main([*words, *extra, "--results", str(results)]) == 0
    assert run.main(["--arch", "dit", "--data", "digits", "--cluster", "debug", *extra, "--results", str(quiet)]) == 0
    ours, theirs = ({r.label: r for r in read_records(path)} for path in (results, quiet))
    name = "dit nano/2 depth=1 heads=2 width=32"
    assert ours[name].checkpoint == theirs[name].checkpoint
    assert ours[name].metrics == theirs[name].metrics and ours[name].id == theirs[name].id
    assert [i["kind"] for i in ours[name].incidents] == ["restart"] and not theirs[name].incidents


def test_ctrl_c_ends_in_one_sentence_and_the_run_goes_on(results):
    words = ["--arch", "dit", "--data", "digits", "--cluster", "local", "--results", str(results)]
    command = [sys.executable, "-m", "bench.run", *words, *settings("dit", budget__images="4800")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + LONG
    while not list((results / "runs").glob("dit*/checkpoints/*.safetensors")):
        assert time.monotonic() < deadline and process.poll() is None, "it never came to a checkpoint"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the door and all it has started
    out, err = process.communicate(timeout=LONG)
    assert process.returncode == 130, out + err
    assert err.strip() == "bench.run: stopped; progress is saved, the same command continues from there"
    assert run.main(command[3:]) == 0
    assert '"stopped"' in next((results / "runs").glob("dit*/log.jsonl")).read_text()
    assert next((results / "runs").glob("dit*/record.json")).is_file()


def test_what_is_submitted_to_slurm_is_left_to_the_cluster(results, capsys, monkeypatch):
    monkeypatch.setattr(local_queue, "resolve_cluster", lambda name: "slurm")
    monkeypatch.setattr(
        "bench.cluster.job_chains.submit_runs", lambda wanted, train, _: (f"{run.path.name}: train 42" for run in train)
    )
    words = ["--arch", "dit", "--data", "digits", "--cluster", "slurm", "--results", str(results), *settings("dit")]
    assert run.main(words) == 0
    out = capsys.readouterr().out
    assert "train 42" in out and "bench.status" in out and "you can log out" in out
    (path,) = (results / "runs").glob("dit*/config.json")
    assert json.loads(path.read_text())["compute"]["threads"] == 1
    (code,) = (results / "runs" / "jobs" / "code").iterdir()
    assert (code / "bench" / "runs" / "job.py").is_file()


def test_the_readmes_backbone_runs_against_the_dit(results, tmp_path):
    code = readme_block("architectures/README.md", "mynet.py")
    assert len(code.strip().splitlines()) <= 30
    (tmp_path / "mynet.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    check = subprocess.run(
        [sys.executable, "-m", "architectures.check", "mynet:MyNet"], env=env, capture_output=True, text=True
    )
    assert check.returncode == 0, check.stdout
    common = ["--data", "digits", "--match", "macs:dit:nano/2", "--results", str(results), *words_of(TINY)]
    done = door("--arch", "mynet:MyNet", *common, "--cluster", "local", cwd=tmp_path, timeout=LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert run.main(["--arch", "dit", *common, "--cluster", "debug"]) == 0
    rows = [r for r in read_records(results) if r.kind == "model"]
    assert {r.label for r in rows} == {"MyNet", "dit"} and len({r.fingerprint for r in rows}) == 1
    assert abs(rows[0].cost.macs / rows[1].cost.macs - 1) <= 0.02


def test_a_class_that_breaks_the_contract_is_told_where(tmp_path):
    (tmp_path / "bad.py").write_text(
        "from torch import nn\n"
        "class Bad(nn.Module):\n"
        "    def __init__(self, io):\n"
        "        super().__init__()\n"
        "        self.conv, self.unused = nn.Conv2d(io.channels, io.out_channels, 1), nn.Linear(2, 2)\n"
        "    def forward(self, x, t, cond=None):\n"
        "        return self.conv(x - x.mean(0))\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "architectures.check", "bad:Bad"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    for broken in ("no gradient for unused.weight", "the label has no effect", "the time has no effect", "in a batch"):
        assert broken in done.stdout
    assert re.search(r"\d+ passed, \d failed", done.stdout)


def test_the_config_saved_with_a_run_is_the_whole_resolved_one(results):
    words = ["--arch", "uvit", "--data", "digits", "--match", "unet:nano", "--cluster", "debug"]
    tiny = [word for k, v in TINY.items() for word in ("--set", f"{k}={v}")]
    assert run.main([*words, "--results", str(results), *tiny]) == 0
    saved = json.loads(next((results / "runs").glob("uvit*/config.json")).read_text())
    assert saved["model"]["solved"]["depth"] == 6 and saved["recipe"]["name"] == "shared-toy"
