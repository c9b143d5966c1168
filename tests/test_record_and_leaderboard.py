import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench import leaderboard, record
from bench.protocol import fingerprint

EVALUATION = {
    "data": "digits",
    "extractor": "digits-cnn",
    "samples": 100,
    "reference_count": 1348,
    "sampler": "ddim",
    "steps": 20,
    "guidance": 1.5,
    "guidance_channels": "all",
}
COST = record.Cost(
    params=10,
    macs=20,
    flops=40,
    training_flops=120,
    guidance_multiplier=2,
    sampling_flops_per_image=80,
    images_per_second=5.0,
    mfu=None,
    peak_memory_bytes=1,
    accelerator_hours=0.1,
)


def metric(value, interval=True):
    own = record.Interval(low=value - 0.1, high=value + 0.1, method="test") if interval else None
    return record.Metric(value=value, direction="lower", samples=100, interval=own)


def made(label="dit", fid=1.0, kind="model", seed=0, **evaluation):
    protocol = {"evaluation": {**EVALUATION, **evaluation}}
    if kind == "model":
        protocol["training"] = {"track": "shared", "images": 1000, "match": {"by": "none"}}
    config = {"seed": seed} if kind == "model" else {}
    whole = fingerprint(protocol)
    return record.Record(
        id=record.identity(label, config, whole),
        kind=kind,
        label=label,
        created="2026-11-22T00:00:00+00:00",
        config=config,
        protocol=protocol,
        fingerprint=whole,
        evaluation_fingerprint=fingerprint(protocol["evaluation"]),
        metrics={"fid[digits-cnn]": metric(fid)},
        cost=COST if kind == "model" else None,
        checkpoint={"crc32": "0", "images": 1000, "weights": "ema"} if kind == "model" else None,
    )


def test_a_record_survives_the_way_to_disk_and_back(tmp_path):
    one = made()
    assert record.read(record.publish(tmp_path, one)) == one


ALTERED = {
    "fingerprint": (lambda d: d.update(fingerprint="0" * 12), "fingerprint is not that of the protocol"),
    "protocol": (lambda d: d["protocol"]["evaluation"].update(samples=5), "fingerprint is not that"),
    "config": (lambda d: d["config"].update(seed=9), "id is not that of config"),
    "nan": (lambda d: d["metrics"]["fid[digits-cnn]"].update(value=float("nan")), "NaN is not allowed"),
    "unknown field": (lambda d: d.update(hello=1), "hello"),
    "text for a number": (lambda d: d["cost"].update(macs="many"), "cost.macs"),
    "no cost": (lambda d: d.update(cost=None), "needs its cost"),
    "no metrics": (lambda d: d.update(metrics={}), "without metrics"),
    "another schema": (lambda d: d.update(schema=2), "this version reads 1"),
}


@pytest.mark.parametrize("change", ALTERED)
def test_an_altered_record_is_refused_in_a_sentence(tmp_path, change):
    path = record.publish(tmp_path, made())
    data = json.loads(path.read_text())
    alter, sentence = ALTERED[change]
    alter(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError) as caught:
        record.read(path)
    assert sentence in str(caught.value) and path.name in str(caught.value)


def test_a_truncated_record_is_refused(tmp_path):
    path = record.publish(tmp_path, made())
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match="no valid record"):
        record.read(path)


def test_a_record_under_another_name_is_refused(tmp_path):
    path = record.publish(tmp_path, made())
    other = path.rename(path.with_name("other.json"))
    with pytest.raises(ValueError, match="its id is"):
        record.read(other)


def test_nan_is_never_written(tmp_path):
    bad = dataclasses.replace(made(), metrics={"fid[digits-cnn]": metric(float("nan"))})
    with pytest.raises(ValueError):
        record.publish(tmp_path, bad)
    assert not list(record.folder(tmp_path).glob("*")) if record.folder(tmp_path).exists() else True


def test_rows_are_ranked_within_one_protocol_only():
    table = leaderboard.rows([made("a", 3.0), made("b", 1.0), made("c", 2.0, samples=500)])
    ranks = dict(zip(table["model"], table["rank"], strict=True))
    assert ranks == {"a": 2, "b": 1, "c": 1}


def test_reference_rows_are_never_ranked(tmp_path):
    for r in (made("a", 3.0), made("noise", 0.1, kind="reference"), made("b", 1.0)):
        record.publish(tmp_path, r)
    text = leaderboard.write(tmp_path)
    lines = [x for x in text.splitlines() if x.startswith("|")]
    assert [x.split("|")[1].strip() for x in lines[2:]] == ["1", "2", "–"]
    assert "noise" in lines[-1]
    csv = pd.read_csv(tmp_path / "leaderboard.csv")
    assert csv[csv["kind"] == "reference"]["rank"].isna().all()


def test_equal_values_share_a_rank():
    assert list(leaderboard.rows([made("a"), made("b"), made("c", 2.0)])["rank"]) == [1, 1, 3]


def test_seeds_of_one_configuration_are_one_row_with_mean_deviation_and_number(tmp_path):
    runs = [made("a", value, seed=seed) for seed, value in enumerate((1.0, 2.0, 3.0))]
    for r in (*runs, made("b", 1.9)):
        record.publish(tmp_path, r)
    text = leaderboard.write(tmp_path)
    lines = [[cell.strip() for cell in x.split("|")] for x in text.splitlines() if x.startswith("| ")]
    assert [(x[1], x[2]) for x in lines[1:]] == [("1", "b"), ("2", "a")]
    assert lines[2][3] == "2.000 ± 1.000 (3)" and "0, 1, 2" in lines[2]
    assert all(r.id in text for r in runs)
    csv = pd.read_csv(tmp_path / "leaderboard.csv").sort_values("seed")
    assert sorted(csv[csv["model"] == "a"]["rank"]) == [2, 2, 2] and set(csv["seeds"]) == {3, 1}


def test_seeds_are_records_of_their_own():
    assert len({made(seed=s).id for s in range(3)}) == 3


def test_the_leaderboard_needs_no_torch():
    code = "import sys, bench.leaderboard, bench.plots, bench.submit, bench.record; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_answers_a_missing_folder_in_a_sentence(tmp_path, capsys):
    assert leaderboard.main(["--results", str(tmp_path / "nowhere")]) == 2
    assert "is no folder" in capsys.readouterr().err


REPOSITORY = Path(__file__).parent.parent / "results"


def test_the_committed_leaderboard_is_fresh():
    csv, text = leaderboard.build(REPOSITORY)
    assert (REPOSITORY / "leaderboard.csv").read_text() == csv, "run python -m bench.leaderboard"
    assert (REPOSITORY / "leaderboard.md").read_text() == text, "run python -m bench.leaderboard"


def test_the_committed_quickstart_keeps_its_bars():
    """FID below a tenth of noise's and accuracy above 90 % for three backbones of equal cost."""
    records = list(record.read_all(REPOSITORY))
    noise = next(r for r in records if r.label == "noise").metrics["fid[digits-cnn]"].value
    models = {r.label: r for r in records if r.kind == "model" and r.protocol["training"]["match"]["to"] == "unet:nano"}
    assert {"dit", "uvit", "unet"} <= set(models)
    for r in models.values():
        assert r.metrics["fid[digits-cnn]"].value < noise / 10
        assert r.metrics["class_accuracy[digits-cnn]"].value > 0.9
        assert abs(r.cost.macs / models["unet"].cost.macs - 1) <= 0.02
