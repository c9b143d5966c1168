"""The output of bench.status: table, failures, JSON and --watch."""

import json
import sys
import time
from pathlib import Path

import pytest
from run_folders import AT_7, CHAIN, DONE, TRAINING, WAITS, make, sacct

from bench import status
from bench.cluster import live_table, run_status, status_table

ROOT = Path(__file__).parents[2]


def test_a_nan_loss_is_shown_and_null_in_json(tmp_path, capsys):
    bad = {"loss": "nan", "rate": "inf", "fid": {"name": "fid", "value": "nan", "images": 5}}
    make(tmp_path, "dit", status=TRAINING | bad)
    make(tmp_path, "new", status={"event": None, "time": None})
    assert status.main(["--results", str(tmp_path)]) == 0
    assert " ".join(capsys.readouterr().out.splitlines()[1].split()).startswith("dit training 43 k/111 k 39% nan 0")
    assert status.main(["--results", str(tmp_path), "--json"]) == 0
    run = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["runs"][0]
    assert (run["loss"], run["rate"], run["fid"]["value"]) == (None, None, None)


def test_without_slurm_the_files_are_shown_with_a_note(tmp_path, fake, capsys):
    for name in ("sacct", "squeue"):
        fake.answer(name, "", error="Unable to contact slurm controller\n", status=1)
    make(tmp_path, "dit", status=AT_7, jobs=CHAIN)
    make(tmp_path, "new", jobs={"train": "9"})
    assert status.main(["--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("note: squeue failed (Unable to contact slurm controller); is SLURM up?; the table below")
    assert "2 runs: 1 training, 1 queued" in out


def test_failures_show_the_last_lines_of_their_error(tmp_path, fake, capsys, monkeypatch):
    monkeypatch.setattr(run_status, "mark_failed", lambda *_: "")
    fake.answer("sacct", sacct(j7="FAILED", j8="CANCELLED", j17="OUT_OF_MEMORY", j18="CANCELLED", j27="FAILED"))
    make(tmp_path, "a", status=AT_7 | {"event": "failed"}, jobs=CHAIN, error="Trace\n" * 9 + "ValueError: no data\n")
    make(tmp_path, "b", jobs={"train": "17", "evaluate": "18"}, log="exceeded memory limit\n\n")
    make(tmp_path, "c", jobs={"evaluate": "27"})
    assert status.main(["--results", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    a, b, c = (text.partition(f"\n{name} failed:\n")[2] for name in "abc")
    assert a.splitlines()[:5] == [
        *["    Trace"] * 3,
        "    ValueError: no data",
        "    its evaluation is cancelled: its training failed",
    ]
    assert b.startswith("    exceeded memory limit\n    its evaluation is cancelled: its training failed\n")
    assert f"log {tmp_path / 'runs' / 'jobs' / '17_0_log.out'}" in b
    assert c.startswith("    evaluate job: FAILED, exit code 1:0 on node1\n")


def test_equal_failures_are_shown_once(tmp_path, fake, capsys):
    for name in "abcde":
        make(tmp_path, name, status={"event": "failed"}, error="OSError: no space\n")
    fake.answer("sacct", sacct(j7="CANCELLED by 654321", j8="CANCELLED"))
    make(tmp_path, "f", jobs=CHAIN)
    assert status.main(["--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[6].split()[:4] == ["f", "cancelled", "(by", "654321)"]
    assert lines[7:9] == ["a, b, c and 2 more failed:", "    OSError: no space"] and len(lines) == 11


def test_the_table_has_a_column_for_each_value(tmp_path, fake, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake.answer("sacct", sacct(j7="RUNNING"))
    fake.answer("squeue", "7|RUNNING|node1|0:07|None")
    fid = {"name": "fid", "value": 12.345, "images": 37000}
    make(Path("results"), "dit", status=AT_7 | {"fid": fid, "rollbacks": 1}, jobs=CHAIN)
    make(Path("results"), "unet", status={"event": "done"}, record=DONE)
    assert status.main([]) == 0
    heads, dit, unet, total = capsys.readouterr().out.splitlines()
    assert heads.split() == list(status_table.COLUMNS)
    assert " ".join(dit.split()) == (
        "dit training 43 k/111 k 39% 850 80 s 0.1234 12.35 @ 37 k 0 +1 rolled back node1 jobs/7_0_log.out"
    )
    assert " ".join(unet.split()).startswith("unet done 111 k/111 k 100% 0.8731 @ 111 k 0")
    assert total == "2 runs: 1 training, 1 done; logs are in results/runs"


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_tables_fit_the_terminal_and_keep_names_apart(width, tmp_path, fake):
    fake.answer("squeue", "7_1|PENDING||0:00|ReqNodeNotAvail, UnavailableNodes:node2\n7_2|RUNNING|node1|0:01|None")
    for i in (1, 2):
        name = f"dit-with-a-name-that-is-longer-than-a-line-of-a-narrow-terminal-{i}"
        make(tmp_path, name, status=TRAINING | {"job": f"7_{i}"}, jobs={"train": f"7_{i}", "evaluate": f"8_{i}"})
    rows, _ = run_status.query_runs(run_status.find_runs(tmp_path))
    lines = status_table.status_page(rows, "", tmp_path / "runs", width, 24)
    assert max(map(len, lines)) <= width
    names = [line.split()[0] for line in lines if line.startswith("dit")]
    assert len(set(names)) == 2
    left = {60: "loss, restarts, node, log", 80: "node, log", 100: "log"}.get(width)
    hint = f"; omitted for lack of width: {left}" if left else f"; logs are in {tmp_path}/runs"
    assert lines[-1] == f"2 runs: 1 training, 1 requeued{hint}"[:width]
    assert left or "jobs/7_1_0_log.out" in lines[2]


def test_json_holds_everything(tmp_path, fake, capsys):
    fake.answer("sacct", sacct(j7="RUNNING"))
    fake.answer("squeue", f"7|RUNNING|node1|0:07|None\n{WAITS}")
    make(tmp_path, "dit", status=AT_7, jobs=CHAIN)
    assert status.main(["--results", str(tmp_path), "--json"]) == 0
    run = json.loads(capsys.readouterr().out)["runs"][0]
    assert run.keys() == run_status.RunStatus.__dataclass_fields__.keys()
    assert (run["jobs"], run["alive"], run["eta_seconds"], run["rate"]) == (CHAIN, ["7", "8"], 80, 850.0)


def test_runs_are_chosen_by_name_state_and_failure(tmp_path, capsys):
    make(tmp_path, "dit-a", status=TRAINING)
    make(tmp_path, "dit-b", status=TRAINING | {"event": "failed"})
    make(tmp_path, "unet-c", status=TRAINING | {"event": "stopped"})

    def shown(*words):
        code = status.main(["--results", str(tmp_path), "--json", *words])
        return code, [r["run"] for r in json.loads(capsys.readouterr().out)["runs"]]

    assert shown("dit") == (0, ["dit-a", "dit-b"])
    assert shown("*-[bc]") == (0, ["dit-b", "unet-c"])
    assert shown("--state", "stopped") == (0, ["unet-c"])
    assert shown("--failed") == (1, ["dit-b"])
    assert shown("--failed", "unet") == (0, [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--results", "nowhere"], "there is no folder nowhere; name a results folder with --results"),
        (["nothing"], "no run of . matches 'nothing'; python -m bench.status shows them all"),
        (["--watch", "1"], "--watch is 1; it must be at least 5 s, to spare SLURM"),
        (["--watch", "nan"], "--watch is nan; it must be at least 5 s, to spare SLURM"),
        (["--watch", "--json"], "--json and --watch cannot be combined"),
    ],
)
def test_mistakes_get_one_sentence_and_status_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert status.main(["--results", ".", *words]) == 2
    assert capsys.readouterr().err == f"bench.status: {message}\n"


def test_watch_in_a_log_and_on_a_terminal(tmp_path, monkeypatch, capsys):
    path = make(tmp_path, "dit", status=TRAINING)
    make(tmp_path, "unet", status=TRAINING | {"event": "stopped"})

    def done(seconds):
        assert seconds == live_table.WATCH_SECONDS
        (path / "record.json").write_text(json.dumps(DONE))

    monkeypatch.setattr(time, "sleep", done)
    assert status.main(["--results", str(tmp_path), "--watch"]) == 0
    lines = [line[9:] for line in capsys.readouterr().out.splitlines()]
    assert [line.split()[:2] for line in lines] == [
        *(["dit:", "training"], ["unet:", "stopped"], ["2", "runs:"], ["dit:", "done"], ["2", "runs:"]),
    ]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert status.main(["--results", str(tmp_path), "--watch"]) == 0
    assert "\x1b[" in capsys.readouterr().out
