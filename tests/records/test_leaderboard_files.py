"""leaderboard.csv and leaderboard.md: content, concurrent writers, speed."""

import dataclasses
import json
import multiprocessing
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from factories import COST, config_of, full_record, many_records, short_record
from leaderboard_views import published

from bench import leaderboard
from bench.config.identity import RESOLVED, SEED, configuration_key
from bench.experiments import suites
from bench.records import leaderboard_files, record, text_tables


def test_reference_rows_are_never_ranked(tmp_path):
    for r in (short_record("a", 3.0), short_record("noise", 0.1, kind="reference"), short_record("b", 1.0)):
        record.publish_record(tmp_path, r)
    text = leaderboard_files.write_leaderboard(tmp_path)
    lines = [x for x in text.splitlines() if x.startswith("|")]
    assert [x.split("|")[1].strip() for x in lines[2:]] == ["1", "2", "–"]
    assert "noise" in lines[-1]
    csv = pd.read_csv(tmp_path / "leaderboard.csv")
    assert csv[csv["kind"] == "reference"]["rank"].isna().all()


def test_csv_has_each_run_with_statistics_of_its_entry(tmp_path):
    runs = [full_record(config_of(seed=s), fid=1 + s / 10) for s in range(3)]
    leaderboard_files.write_leaderboard(published(tmp_path, *runs))
    table = pd.read_csv(tmp_path / "leaderboard.csv")
    assert list(table["fid[digits-cnn] ↓"]) == [1.0, 1.1, 1.2] and list(table["seed"]) == [0, 1, 2]
    for name, value in {"fid[digits-cnn] mean": 1.1, "fid[digits-cnn] deviation": 0.1, "rank_low": 0.8515862}.items():
        np.testing.assert_allclose(table[name], value, rtol=1e-6)
    assert set(table["rank"]) == set(table["rank_worst"]) == {1} and set(table["seeds"]) == {3}
    assert {f"{kind}[digits-cnn] ↑" for kind in ("is", "precision", "recall", "class_accuracy")} < set(table)
    costs = ["params", "macs", "training_flops", "accelerator_hours", "images_per_second"]
    assert not table[[*costs, "incidents", "date", "commit", "link"]].isna().any(axis=None)
    assert all((tmp_path / link).is_file() for link in table["link"])


def test_training_flops_beyond_64_bits_keep_every_digit(tmp_path):
    cost = dataclasses.replace(COST, training_flops=3 * 10**20 + 1)
    leaderboard_files.write_leaderboard(
        published(tmp_path, dataclasses.replace(short_record("a"), cost=cost), short_record("noise", kind="reference"))
    )
    assert f",{3 * 10**20 + 1}," in (tmp_path / "leaderboard.csv").read_text()


def test_folder_without_records_is_refused(tmp_path, capsys):
    assert leaderboard.main(["--results", str(tmp_path)]) == 2
    assert "has no records yet; python -m bench.run makes them" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


SECONDS, MEMORY = 5.0, 2**30


@pytest.mark.slow
def test_10000_records_become_a_leaderboard_in_5_s(tmp_path):
    """Of processor time, which other work on the machine does not lengthen."""
    record.records_folder(tmp_path).mkdir(parents=True)
    for r in many_records(10_000):
        data = {k: v for k, v in dataclasses.asdict(r).items() if k != "error"}
        (record.records_folder(tmp_path) / f"{r.id}.json").write_text(json.dumps(data, indent=2))
    code = (
        "import os, sys; from pathlib import Path; from bench import leaderboard\n"
        "assert leaderboard.main(['--results', sys.argv[1]]) == 0 and 'torch' not in sys.modules\n"
        "(kib,) = [x.split()[1] for x in Path('/proc/self/status').read_text().splitlines() if x.startswith('VmHWM')]\n"
        "print(sum(os.times()[:2]), int(kib) * 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    seconds, memory = map(float, done.stdout.splitlines()[-1].split())
    print(f"{seconds:.2f} s, {memory / 2**20:.0f} MiB")
    assert seconds < SECONDS and memory < MEMORY
    assert len(pd.read_csv(tmp_path / "leaderboard.csv")) == 10_000


def test_missing_folder_is_refused_in_a_sentence(tmp_path, capsys):
    assert leaderboard.main(["--results", str(tmp_path / "nowhere")]) == 2
    assert "is no folder" in capsys.readouterr().err


REPOSITORY = Path(__file__).parents[2] / "results"


def test_committed_leaderboard_is_fresh():
    csv, text = leaderboard_files.build_leaderboard(REPOSITORY)
    assert (REPOSITORY / "leaderboard.csv").read_text() == csv, "run python -m bench.leaderboard"
    assert (REPOSITORY / "leaderboard.md").read_text() == text, "run python -m bench.leaderboard"


def test_committed_quickstart_meets_its_thresholds():
    """FID below a tenth of noise's and accuracy above 90 % for three backbones of equal cost."""
    records = list(record.read_records(REPOSITORY))
    noise = next(r for r in records if r.label == "noise").metrics["fid[digits-cnn]"].value
    keys = suites.variant_keys("quickstart", "digits").values()
    models = {r.label: r for r in records if r.kind == "model" and configuration_key(r.config, SEED + RESOLVED) in keys}
    assert set(models) == {"dit", "uvit", "unet"}
    for r in models.values():
        assert r.metrics["fid[digits-cnn]"].value < noise / 10
        assert r.metrics["class_accuracy[digits-cnn]"].value > 0.9
        assert abs(r.cost.macs / models["unet"].cost.macs - 1) <= 0.02


def publish_many(results, who, go):
    go.wait()
    for i in range(25):
        record.publish_record(results, short_record("all", float(i + 1), seed=-1))  # which every process writes
        record.publish_record(results, short_record(f"process {who}", float(i + 1), seed=i))
    leaderboard_files.write_leaderboard(results)


def test_concurrent_writers_neither_tear_nor_lose_records(tmp_path):
    """8 processes with 25 records each, and one that all of them write, while this one reads."""
    fork = multiprocessing.get_context("fork")
    go = fork.Event()
    many = [fork.Process(target=publish_many, args=(tmp_path, who, go)) for who in range(8)]
    for p in many:
        p.start()
    leaderboard_files.write_leaderboard(tmp_path)
    go.set()
    seen = []
    while any(p.is_alive() for p in many):
        seen.append(len(list(record.read_records(tmp_path))))  # a torn one is a ValueError
        text = (tmp_path / "leaderboard.md").read_text()
        assert text.startswith("# Leaderboard") and text.endswith(text_tables.LEGEND)
        csv = (tmp_path / "leaderboard.csv").read_text()
        assert not csv.strip() or len(pd.read_csv(StringIO(csv))) > 0
    assert all(p.exitcode == 0 for p in many)
    assert seen == sorted(seen) and len(set(seen)) > 3  # they were watched while they came, and none went
    assert len(list(record.read_records(tmp_path))) == 8 * 25 + 1
    shown = [(tmp_path / f"leaderboard.{ending}").read_text() for ending in ("csv", "md")]
    assert shown == list(leaderboard_files.build_leaderboard(tmp_path))
    assert len(pd.read_csv(tmp_path / "leaderboard.csv")) == 8 * 25 + 1
    assert {p.suffix for p in record.records_folder(tmp_path).iterdir()} == {".json"}


def test_overtaken_leaderboard_is_rebuilt(tmp_path, monkeypatch):
    record.publish_record(tmp_path, short_record("a"))
    build = leaderboard_files.build_leaderboard

    def overtaken(results):
        text = build(results)
        record.publish_record(tmp_path, short_record("b"))
        monkeypatch.setattr(leaderboard_files, "build_leaderboard", build)
        return text

    monkeypatch.setattr(leaderboard_files, "build_leaderboard", overtaken)
    leaderboard_files.write_leaderboard(tmp_path)
    assert set(pd.read_csv(tmp_path / "leaderboard.csv")["model"]) == {"a", "b"}
