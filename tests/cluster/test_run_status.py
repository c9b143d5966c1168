"""bench.status and bench.cancel, over runs as their files and SLURM tell of them."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from run_folders import DONE, TRAINING, make, thousand

from bench import cancel, status
from bench.cluster import cancellation, run_status, status_table
from bench.storage.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
CHAIN = {"train": "7", "evaluate": "8"}
AT_7 = TRAINING | {"job": "7"}
BEFORE = "2026-11-23T03:00:00"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    return FakeSlurm(tmp_path / "bin", monkeypatch)


@pytest.fixture
def ended():
    """The number of a process that is over."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def sacct(**jobs):
    """Rows of j7="RUNNING" and the like."""
    return "\n".join(f"{id_[1:]}|{BEFORE}|{word}|1:0|60|node1|None" for id_, word in jobs.items())


def one(results, *, reap=False, **files):
    make(results, "dit", **files)
    rows, _ = run_status.query_runs(run_status.find_runs(results), reap=reap)
    return rows[0]


WAITS = "8|PENDING||0:00|Dependency"
SLURM = [
    ("queued", "Priority", None, {}, f"7|PENDING||0:00|Priority\n{WAITS}"),
    ("training", "", None, {"j7": "RUNNING"}, f"7|RUNNING|node1|0:07|None\n{WAITS}"),
    ("training", "", AT_7, {"j7": "RUNNING"}, f"7|RUNNING|node1|0:07|None\n{WAITS}"),
    ("sampling", "", AT_7 | {"event": "sample", "job": "8"}, {"j7": "COMPLETED"}, "8|RUNNING|node1|0:07|None"),
    ("sampling", "", AT_7, {"j7": "COMPLETED"}, "8|RUNNING|node1|0:07|None"),
    ("evaluating", "", AT_7 | {"event": "evaluate", "job": "8"}, {"j7": "COMPLETED"}, "8|RUNNING|node1|0:07|None"),
    ("requeued", "PREEMPTED, BeginTime", AT_7, {"j7": "PREEMPTED"}, f"7|PENDING||0:00|BeginTime\n{WAITS}"),
    ("requeued", "NODE_FAIL, BeginTime", AT_7, {"j7": "NODE_FAIL"}, f"7|PENDING||0:00|BeginTime\n{WAITS}"),
    ("requeued", "BeginTime", AT_7 | {"event": "requeued"}, {}, f"7|PENDING||0:00|BeginTime\n{WAITS}"),
    ("waiting", "for its training", AT_7 | {"event": "trained"}, {"j7": "COMPLETED"}, WAITS),
    ("queued", "Priority", AT_7 | {"event": "trained"}, {"j7": "COMPLETED"}, "8|PENDING||0:00|Priority"),
    ("queued", "Priority", AT_7 | {"event": "trained"}, {}, "8|PENDING||0:00|Priority"),
    ("failed", "train job: FAILED, exit code 1:0 on node1", AT_7, {"j7": "FAILED", "j8": "CANCELLED"}, ""),
    ("failed", "train job: OUT_OF_MEMORY, exit code 1:0 on node1", AT_7, {"j7": "OUT_OF_MEMORY"}, WAITS),
    ("stopped", "train job: NODE_FAIL; run the command again", AT_7, {"j7": "NODE_FAIL", "j8": "CANCELLED"}, ""),
    ("failed", "no disk", AT_7 | {"event": "failed", "error": "no disk"}, {"j7": "FAILED", "j8": "CANCELLED"}, ""),
    ("diverged", "", AT_7 | {"event": "diverged"}, {"j7": "FAILED", "j8": "CANCELLED"}, ""),
    ("cancelled", "by root", AT_7 | {"event": "stopped"}, {"j7": "CANCELLED by 0", "j8": "CANCELLED by 0"}, ""),
    ("stopped", "", AT_7 | {"event": "stopped", "job": "8"}, {"j7": "COMPLETED", "j8": "COMPLETED"}, ""),
    ("lost", "SLURM has no train job of it any more", AT_7, {}, ""),
    ("lost", "its jobs ended without a record", AT_7, {"j7": "COMPLETED", "j8": "COMPLETED"}, ""),
]


@pytest.mark.parametrize(("state", "why", "files", "accounted", "queue"), SLURM)
def test_a_run_on_slurm_is_in_the_state_its_files_and_jobs_tell(state, why, files, accounted, queue, tmp_path, fake):
    fake.answer("sacct", sacct(**accounted))
    fake.answer("squeue", queue)
    row = one(tmp_path, status=files, jobs=CHAIN)
    assert (row.state, row.why) == (state, why)


def test_every_state_is_reached_by_some_case():
    local = {"done", "training", "stopped", "lost", "failed"}
    assert {case[0] for case in SLURM} | local == set(run_status.RUN_STATES)


def test_a_finished_run_asks_slurm_nothing(tmp_path, fake):
    row = one(tmp_path, status={"event": "done", "job": "8", "starts": 2}, jobs=CHAIN, record=DONE)
    assert (row.state, row.restarts, row.stage_images, row.fid["value"]) == ("done", 0, 111000, 0.8731)
    assert not fake.calls("sacct") and not fake.calls("squeue")


@pytest.mark.parametrize(
    ("state", "files"),
    [
        ("training", TRAINING),
        ("training", {"event": "start"}),
        ("sampling", TRAINING | {"event": "sample"}),
        ("stopped", TRAINING | {"event": "stopped"}),
        ("failed", TRAINING | {"event": "failed", "error": "x"}),
        ("lost", TRAINING | {"host": "elsewhere", "time": time.time() - 7200}),
        ("training", TRAINING | {"host": "elsewhere"}),
        ("stopped", None),
    ],
)
def test_a_run_of_this_machine_is_in_the_state_its_files_and_process_tell(state, files, tmp_path):
    row = one(tmp_path, status=files)
    assert row.state == state
    assert (row.pid == os.getpid()) == (state in ("training", "sampling") and "host" not in files)


def test_a_run_whose_process_is_gone_is_lost_also_when_its_number_lives_again(tmp_path, ended):
    assert one(tmp_path / "a", status=TRAINING | {"pid": ended}).state == "lost"
    assert one(tmp_path / "b", status=TRAINING | {"time": time.time() - 10**8}).state == "lost"


def test_a_run_that_went_on_outside_slurm_is_no_longer_asked_about_there(tmp_path, fake):
    row = one(tmp_path, status=TRAINING, jobs=CHAIN, submitted=time.time() - 99)
    assert (row.state, row.jobs) == ("training", {}) and not fake.calls("sacct")


def test_a_lost_status_is_folded_from_the_log_again(tmp_path):
    path = make(tmp_path, "old")
    run = RunFolder(path)
    run.log("start", pid=1)
    for i in range(3000):
        run.log("train", images=i, of=3000, loss=0.5, rate=10.0)
    run.log("evaluate", images=1, of=2, **{"fid[digits-cnn]": 3.25})
    run.log("failed", error="OSError: gone")
    (path / "status.json").unlink()
    row = run_status.query_runs(run_status.find_runs(tmp_path))[0][0]
    assert (row.state, row.loss, row.fid["value"], row.error) == ("failed", 0.5, 3.25, ["OSError: gone"])


def test_files_torn_by_a_crash_are_no_crash(tmp_path):
    path = make(tmp_path, "dit", status=TRAINING)
    for name in ("status.json", "jobs.json", "record.json"):
        (path / name).write_text('{"event": "tr')
    assert run_status.query_runs(run_status.find_runs(tmp_path))[0][0].state == "stopped"


def test_a_loss_that_is_no_number_is_shown_and_is_null_in_json(tmp_path, capsys):
    bad = {"loss": "nan", "rate": "inf", "fid": {"name": "fid", "value": "nan", "images": 5}}
    make(tmp_path, "dit", status=TRAINING | bad)
    make(tmp_path, "new", status={"event": None, "time": None})
    assert status.main(["--results", str(tmp_path)]) == 0
    assert " ".join(capsys.readouterr().out.splitlines()[1].split()).startswith("dit training 43k/111k 39% nan 0")
    assert status.main(["--results", str(tmp_path), "--json"]) == 0
    run = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["runs"][0]
    assert (run["loss"], run["rate"], run["fid"]["value"]) == (None, None, None)


def test_restarts_are_the_starts_beyond_those_of_a_chain(tmp_path, fake):
    fake.answer("sacct", f"7|{BEFORE}|PREEMPTED|0:0|9|node1|None\n7|2026-11-23T04:00:00|RUNNING|0:0|9|node2|None")
    fake.answer("squeue", f"7|RUNNING|node2|0:09|None\n{WAITS}")
    row = one(tmp_path / "a", status=AT_7 | {"starts": 2}, jobs=CHAIN)
    assert (row.restarts, row.node) == (1, "node2")
    assert one(tmp_path / "b", status=AT_7 | {"starts": 4, "job": "8"}, jobs=CHAIN).restarts == 2


def test_when_slurm_does_not_answer_the_files_are_shown_with_a_note(tmp_path, fake, capsys):
    for name in ("sacct", "squeue"):
        fake.answer(name, "", error="Unable to contact slurm controller\n", status=1)
    make(tmp_path, "dit", status=AT_7, jobs=CHAIN)
    make(tmp_path, "new", jobs={"train": "9"})
    assert status.main(["--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("note: squeue failed (Unable to contact slurm controller); is SLURM up?; what follows is")
    assert "2 runs: 1 training, 1 queued" in out


def test_the_last_words_of_a_failure_are_shown_and_what_it_did_to_the_rest(tmp_path, fake, capsys, monkeypatch):
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


def test_runs_that_ended_alike_are_told_once_and_cancelled_ones_by_their_state(tmp_path, fake, capsys):
    for name in "abcde":
        make(tmp_path, name, status={"event": "failed"}, error="OSError: no space\n")
    fake.answer("sacct", sacct(j7="CANCELLED by 654321", j8="CANCELLED"))
    make(tmp_path, "f", jobs=CHAIN)
    assert status.main(["--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[6].split()[:4] == ["f", "cancelled", "(by", "654321)"]
    assert lines[7:9] == ["a, b, c and 2 more failed:", "    OSError: no space"] and len(lines) == 11


def buried(monkeypatch):
    """What failures.publish is called with."""
    calls = []
    publish = lambda run, config, word, error: calls.append((run.path.name, word, error))  # noqa: E731
    monkeypatch.setattr("bench.records.failures.publish_failure", publish)
    monkeypatch.setattr(run_status, "load_config", lambda path: None)
    return calls


def test_a_job_that_ended_without_a_word_ends_in_a_record_once(tmp_path, fake, monkeypatch):
    calls = buried(monkeypatch)
    fake.answer("sacct", sacct(j7="OUT_OF_MEMORY", j8="CANCELLED"))
    path = make(tmp_path, "dit", status=AT_7, jobs=CHAIN, log="Killed\n")
    for _ in range(2):
        rows, _ = run_status.query_runs(run_status.find_runs(tmp_path))
    assert calls == [("dit", "failed", "SLURM ended it: train job: OUT_OF_MEMORY, exit code 1:0 on node1")]
    assert rows[0].error[:2] == ["Killed", calls[0][2]]
    assert (path / "error.txt").read_text() == f"Killed\n{calls[0][2]}\n"


def test_results_that_cannot_be_written_to_are_shown_and_the_run_says_so(tmp_path, fake, monkeypatch):
    buried(monkeypatch)

    def refused(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("bench.records.failures.publish_failure", refused)
    fake.answer("sacct", sacct(j7="FAILED", j8="CANCELLED"))
    row = one(tmp_path, status=AT_7, jobs=CHAIN, reap=True)
    assert row.state == "failed" and row.error[-1].endswith("written: [Errno 30] Read-only file system")
    assert not (tmp_path / "runs" / "dit" / "error.txt").exists()


@pytest.mark.parametrize(
    ("accounted", "queue", "files"),
    [
        ({"j7": "CANCELLED by 0", "j8": "CANCELLED"}, "", AT_7),
        ({"j7": "NODE_FAIL", "j8": "PENDING"}, f"7|PENDING||0:00|BeginTime\n{WAITS}", AT_7),
        ({"j7": "FAILED", "j8": "CANCELLED"}, "", AT_7 | {"event": "failed", "error": "it said so itself"}),
        ({}, "", AT_7),
    ],
)
def test_what_was_cancelled_comes_back_spoke_or_is_unknown_gets_no_such_record(
    accounted, queue, files, tmp_path, fake, monkeypatch
):
    calls = buried(monkeypatch)
    fake.answer("sacct", sacct(**accounted))
    fake.answer("squeue", queue)
    make(tmp_path, "dit", status=files, jobs=CHAIN)
    run_status.query_runs(run_status.find_runs(tmp_path))
    assert not calls


def test_the_table_tells_progress_rate_eta_loss_fid_restarts_node_and_log(tmp_path, fake, capsys, monkeypatch):
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
        "dit training 43k/111k 39% 850 0:01:20 0.1234 12.35 @ 37k 0 +1 rolled back node1 jobs/7_0_log.out"
    )
    assert " ".join(unet.split()).startswith("unet done 111k/111k 100% 0.8731 @ 111k 0")
    assert total == "2 runs: 1 training, 1 done; logs are in results/runs"


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_tables_fit_the_terminal_and_tell_runs_apart(width, tmp_path, fake):
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
    hint = f"; not in {width} columns: {left}" if left else f"; logs are in {tmp_path}/runs"
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
    ("words", "said"),
    [
        (["--results", "nowhere"], "nowhere is no folder; name a results folder with --results"),
        (["nothing"], "no run of . matches 'nothing'; python -m bench.status shows them all"),
        (["--watch", "1"], "--watch is 1; SLURM is to be asked every 5 s at most"),
        (["--watch", "nan"], "--watch is nan; SLURM is to be asked every 5 s at most"),
        (["--watch", "--json"], "--json and --watch do not go together; leave one out"),
    ],
)
def test_mistakes_get_one_sentence_and_status_2(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert status.main(["--results", ".", *words]) == 2
    assert capsys.readouterr().err == f"bench.status: {said}\n"


def test_a_log_gets_the_changes_and_a_terminal_the_page(tmp_path, monkeypatch, capsys):
    path = make(tmp_path, "dit", status=TRAINING)
    make(tmp_path, "unet", status=TRAINING | {"event": "stopped"})

    def done(seconds):
        assert seconds == status_table.WATCH_SECONDS
        (path / "record.json").write_text(json.dumps(DONE))

    monkeypatch.setattr(time, "sleep", done)
    assert status.main(["--results", str(tmp_path), "--watch"]) == 0
    lines = [line[9:] for line in capsys.readouterr().out.splitlines()]
    assert [line.split()[:2] for line in lines] == [
        *(["dit", "training"], ["unet", "stopped"], ["2", "runs:"], ["dit", "done"], ["2", "runs:"]),
    ]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert status.main(["--results", str(tmp_path), "--watch"]) == 0
    assert capsys.readouterr().out.startswith("\x1b[H")


def test_a_thousand_runs_are_shown_by_one_sacct_call_in_less_than_three_seconds(tmp_path, fake):
    fake.answer("sacct", thousand(tmp_path))
    queue = ["7_[550-999%100]|PENDING||0:00|Priority", "8_[400-999]|PENDING||0:00|Dependency"]
    queue += [f"7_{i}|RUNNING|node1|0:01|None" for i in range(400, 500)]
    fake.answer("squeue", "\n".join(queue))
    before = time.monotonic()
    command = [sys.executable, "-m", "bench.status", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    seconds = time.monotonic() - before
    assert "\n1000 runs: 100 training, 450 queued, 50 failed, 400 done; logs" in done.stdout, done.stderr
    assert len(fake.calls("sacct")) == 1 and len(fake.calls("squeue")) == 1
    assert seconds < 3, f"it took {seconds:.1f} s"


@pytest.mark.parametrize("module", ["bench.status", "bench.cancel"])
def test_neither_torch_nor_pandas_nor_submitit_is_waited_for(module):
    code = f"import sys, {module}; print(sorted(set(sys.modules) & {{'torch', 'pandas', 'submitit', 'numpy'}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.fixture
def chain(tmp_path, fake):
    """A run at work, one that waits, and one that is done."""
    fake.answer("sacct", sacct(j7_0="RUNNING"))
    queue = ["7_1|PENDING||0:00|Priority", *(f"8_{i}|PENDING||0:00|Dependency" for i in (0, 1))]
    fake.answer("squeue", "\n".join(["7_0|RUNNING|node1|0:01|None", *queue]))
    make(tmp_path, "dit", status=TRAINING | {"job": "7_0"}, jobs={"train": "7_0", "evaluate": "8_0"})
    make(tmp_path, "unet", jobs={"train": "7_1", "evaluate": "8_1"})
    make(tmp_path, "uvit", status={"event": "done"}, record=DONE)
    return tmp_path


def terminal(monkeypatch, *answers):
    """A terminal that answers; an exception is raised."""
    waiting = iter(answers)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)

    def ask(question):
        print(question)
        answer = next(waiting)
        if isinstance(answer, type):
            raise answer
        return answer

    monkeypatch.setattr("builtins.input", ask)


def test_both_jobs_of_every_run_are_cancelled_by_one_call_after_a_yes(chain, fake, monkeypatch, capsys):
    terminal(monkeypatch, "y")
    assert cancel.main(["--all", "--results", str(chain)]) == 0
    assert fake.calls("scancel") == ["scancel 7_[0,1] 8_[0,1]"]
    assert capsys.readouterr().out.splitlines() == [
        "dit  training  train 7_0, evaluate 8_0",
        "unet  queued (Priority)  train 7_1, evaluate 8_1",
        "cancel 2 runs (4 jobs)? [y/N] ",
        "cancelled 2 runs (4 jobs); checkpoints are kept, the same bench.run command goes on from them",
    ]


@pytest.mark.parametrize("answer", ["", "n", "what", EOFError, KeyboardInterrupt])
def test_anything_but_a_yes_leaves_the_jobs(answer, chain, fake, monkeypatch, capsys):
    terminal(monkeypatch, answer)
    assert cancellation.ask_and_cancel(run_status.find_runs(chain)) == []
    assert not fake.calls("scancel") and capsys.readouterr().out.endswith("nothing was cancelled\n")


def test_only_what_matches_is_cancelled(chain, fake, capsys):
    assert cancel.main(["un*", "--yes", "--results", str(chain)]) == 0
    assert fake.calls("scancel") == ["scancel 7_[1] 8_[1]"]
    assert cancel.main(["uvit", "--yes", "--results", str(chain)]) == 0
    assert capsys.readouterr().out.endswith("nothing of this is queued or running\n")


def test_cancel_does_not_guess(chain, fake, monkeypatch, capsys):
    results = ["--results", str(chain)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    for words, said in (
        (["--all"], "2 runs (4 jobs) would be cancelled, and there is no terminal to ask on; use --yes"),
        ([], "name the runs to cancel, or --all, and not both"),
        (["dit", "--all"], "name the runs to cancel, or --all, and not both"),
    ):
        assert cancel.main([*words, *results]) == 2
        assert capsys.readouterr().err == f"bench.cancel: {said}\n"
    fake.answer("sacct", "", status=1)
    fake.answer("squeue", "", status=1)
    assert cancel.main(["--all", "--yes", *results]) == 2
    assert "squeue failed (exit status 1); is SLURM up?; nothing was cancelled" in capsys.readouterr().err
    assert not fake.calls("scancel")


def test_a_process_of_this_machine_is_told_to_stop_and_no_other(tmp_path, ended, capsys):
    with subprocess.Popen(["sleep", "60"]) as process:
        make(tmp_path, "here", status=TRAINING | {"pid": process.pid})
        make(tmp_path, "elsewhere", status=TRAINING | {"pid": process.pid, "host": "elsewhere"})
        make(tmp_path, "over", status=TRAINING | {"pid": ended})
        assert cancel.main(["elsewhere", "over", "--yes", "--results", str(tmp_path)]) == 0
        assert process.poll() is None
        assert cancel.main(["--all", "--yes", "--results", str(tmp_path)]) == 0
        assert process.wait(10) == -signal.SIGTERM
    assert "cancelled 1 run (1 process)" in capsys.readouterr().out


def test_on_a_real_slurm_runs_are_watched_and_cancelled(slurm, tmp_path, capsys):
    def sbatch(*words):
        command = ["sbatch", "--parsable", "-o", str(tmp_path / "%j.out"), "-e", str(tmp_path / "%j.err"), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()

    train = sbatch("-a", "0-1", "--wrap", "test $SLURM_ARRAY_TASK_ID = 0 && sleep 60")
    evaluate = sbatch("-a", "0-1", "--kill-on-invalid-dep=yes", "-d", f"aftercorr:{train}", "--wrap", "true")
    for i, name in enumerate(("good", "bad")):
        make(tmp_path, name, jobs={"train": f"{train}_{i}", "evaluate": f"{evaluate}_{i}"}, log="it went wrong\n")
    states = {}

    def reached(**wanted):
        rows, _ = run_status.query_runs(run_status.find_runs(tmp_path))
        states.update({r.run: r for r in rows})
        return {name: r.state for name, r in states.items()} == wanted

    deadline = time.monotonic() + 60
    while not reached(good="training", bad="failed") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert states["bad"].why.startswith("train job: FAILED") and states["bad"].error[0] == "it went wrong"
    assert cancel.main(["--all", "--yes", "--results", str(tmp_path)]) == 0
    while not reached(good="cancelled", bad="failed") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert states["good"].state == "cancelled", states
    assert f"good  training  train {train}_0, evaluate {evaluate}_0\n" in capsys.readouterr().out
