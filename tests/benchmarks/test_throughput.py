"""bench.throughput runs on a CPU at toy sizes, and reports a network that does not fit into memory as a row."""

import csv

import numpy as np
import pytest
import torch
from helpers import SMALLEST

from bench import throughput as throughput_command
from bench.benchmarks import throughput, workloads

CPU = torch.device("cpu")
QUICK = ["--rounds", "1", "--seconds", "0.01", "--batch", "4", "--steps", "4", "--set", "recipe.batch=4"]
TINY = [word for key, value in SMALLEST["dit"].items() for word in ("--set", f"{key}={value}")]


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """(rows of training, rows of inference) of a DiT in bf16, and what was printed."""
    out = tmp_path_factory.mktemp("out")
    settings = ["--set", "compute.precision=bf16", "--set", "evaluation.precision=bf16"]
    words = ["--net", "dit:nano/2", "--mode", *throughput.MODES, "--workers", "0", "2", *QUICK, *TINY, *settings]
    assert throughput_command.main([*words, "--out", str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["benchmark-infer-bf16-cpu.csv", "benchmark-train-bf16-cpu.csv"]
    return table(out / "benchmark-train-bf16-cpu.csv"), table(out / "benchmark-infer-bf16-cpu.csv")


def test_each_mode_has_a_row_of_ours_and_of_the_published_way(tables):
    train, infer = tables
    rows = [(r["mode"], r["way"], r["precision"]) for r in [*train, *infer]]
    assert rows == [
        ("train", "ours", "bf16"),
        ("train", "eager", "fp32"),
        ("loader", "0 workers", ""),
        ("loader", "2 workers", ""),
        ("forward", "ours", "bf16"),
        ("forward", "eager", "fp32"),
        ("sample", "ours", "bf16"),
        ("sample", "eager", "fp32"),
    ]
    assert [list(r) for r in tables[0] + tables[1]] == [list(throughput.COLUMNS)] * 8


def test_the_numbers_of_a_row_agree_with_each_other(tables):
    for row in [r for r in tables[0] + tables[1] if r["mode"] != "loader"]:
        rate, macs = float(row["images_per_second"]), 1e9 * float(row["gmacs"])
        assert rate == pytest.approx(1e3 * int(row["batch"]) / float(row["latency_ms"]), rel=1e-3)
        flops = macs * {"train": 6, "forward": 2, "sample": 2 * 2 * 4}[row["mode"]]
        assert float(row["tflops"]) == pytest.approx(rate * flops / 1e12, rel=1e-3)
        assert float(row["mfu"]) == pytest.approx(float(row["tflops"]) / float(row["peak_tflops"]), rel=1e-3)
        assert float(row["relative"]) == 1 or row["way"] == "ours"


def test_a_row_measured_again_replaces_the_earlier_one(tmp_path):
    path = tmp_path / "table.csv"
    throughput.write_csv(
        path, [{"model": "a", "mode": "train", "mfu": 0.1}, {"model": "b", "mode": "train", "mfu": 0.2}]
    )
    graphs = {"model": "a", "mode": "train", "compile": "graphs", "mfu": 0.4}
    throughput.write_csv(path, [{"model": "a", "mode": "train", "mfu": 0.3}, graphs])
    rows = [(r["model"], r["compile"], r["mfu"]) for r in table(path)]
    assert rows == [("b", "", "0.2"), ("a", "", "0.3"), ("a", "graphs", "0.4")], "compile modes share no row"


def test_an_unwritable_folder_is_refused_before_measuring(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert throughput_command.main([*QUICK, "--out", str(tmp_path / "file" / "out")]) == 2
    assert "bench.throughput: [Errno" in capsys.readouterr().err


def test_the_loader_is_measured_on_data_by_path(tmp_path):
    images = np.zeros((8, 8, 8, 3), np.uint8)
    for name in ("one", "two"):
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(8) % 2)
    words = ["--net", f"dit:nano/2@{tmp_path / 'one.npz'}", "--mode", "train", "loader", "--out", str(tmp_path / "out")]
    assert (
        throughput_command.main([*QUICK, *TINY, *words, "--data", str(tmp_path / "one.npz"), str(tmp_path / "two.npz")])
        == 0
    )
    rows = table(tmp_path / "out" / "benchmark-train-fp32-cpu.csv")
    assert [r["model"] for r in rows] == ["dit:nano/2@one", "dit:nano/2@one", "one", "two"]


def test_samples_of_both_ways_are_near_each_other(tables):
    ours, eager = (r for r in tables[1] if r["mode"] == "sample")
    assert 0 < float(ours["difference"]) < 0.05 and eager["difference"] == ""
    assert ours["steps"] == eager["steps"] == "4"


def test_loader_rows_are_relative_to_the_fastest_network(tables):
    fastest = max(float(r["images_per_second"]) for r in tables[0] if r["mode"] == "train")
    for row in [r for r in tables[0] if r["mode"] == "loader"]:
        assert float(row["relative"]) == pytest.approx(float(row["images_per_second"]) / fastest, rel=1e-3)


def test_a_network_that_does_not_fit_is_a_row_with_the_reason(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore")

    monkeypatch.setattr(workloads, "published_training_workload", full)
    monkeypatch.setattr(workloads, "forward_workload", full)
    out = ["--out", str(tmp_path), "--net", "dit:nano/2", "--mode", "train", "forward"]
    assert throughput_command.main([*QUICK, *TINY, *out]) == 0
    ours, eager = table(tmp_path / "benchmark-train-fp32-cpu.csv")
    assert float(ours["images_per_second"]) > 0 and not eager["images_per_second"]
    assert eager["note"] == "out of memory: CUDA out of memory. Tried to allocate 9 GiB"
    assert [r["images_per_second"] for r in table(tmp_path / "benchmark-infer-fp32-cpu.csv")] == ["", ""]


MISTAKES = [
    (["--rounds", "0"], "--rounds must be at least 1"),
    (["--net", "dit:XXL/2"], "unknown size 'XXL/2'"),
    (["--net", "dti:XL/2"], "did you mean dit"),
    (["--set", "compute.precision=fp8"], "compute.precision is 'fp8'"),
    (["--set", "recipe"], "write KEY=VALUE"),
    (["--set", "compute.precision=tf32", "--net", "dit:nano/2"], "which only GPUs support"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES)
def test_nonsense_is_answered_in_a_sentence(capsys, tmp_path, words, sentence):
    if "tf32" in str(words) and torch.cuda.is_available():
        pytest.skip("a GPU has it")
    assert throughput_command.main([*words, "--out", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_networks_of_the_gpus_suite_can_all_be_planned():
    flags = throughput_command.parser().parse_args(["--suite", "h100"])
    configs = throughput.network_configs(flags, CPU)
    assert len(configs) == 8 and {c.recipe.batch for c in configs.values()} == {256}
    assert all(c.data.name == "imagenet256-latents" for c in configs.values())


def test_the_published_step_is_a_step_of_the_same_training(monkeypatch):
    same = ["recipe.warmup=0", "recipe.clip=0", "recipe.ema_ramp=false", "recipe.ema=0.9"]
    words = [*QUICK, *TINY, "--net", "dit:nano/2", *(w for s in same for w in ("--set", s))]
    (config,) = throughput.network_configs(throughput_command.parser().parse_args(words), CPU).values()
    states, new_state = [], workloads.new_training_state
    monkeypatch.setattr(workloads, "new_training_state", lambda *args: states.append(new_state(*args)) or states[-1])
    for make in (workloads.training_workload, workloads.published_training_workload):
        call, _ = make(config, CPU)
        call()
    for ours, theirs in zip(*((*s.net.parameters(), *s.ema.parameters()) for s in states), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-2 * config.recipe.lr)
    start = new_state(config, workloads.presets.network_io(config), CPU)
    moved = [
        (a - b).abs().max().item() for a, b in zip(states[0].net.parameters(), start.net.parameters(), strict=True)
    ]
    assert max(moved) == pytest.approx(config.recipe.lr, rel=0.1)
