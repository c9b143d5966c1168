"""bench.cancel, on recorded answers of SLURM and on a real one."""

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_folders import DONE, TRAINING, make, sacct

from bench import cancel
from bench.cluster import cancellation, run_status

ROOT = Path(__file__).parents[2]


@pytest.fixture
def chain(tmp_path, fake):
    """A running, a queued and a finished run."""
    fake.answer("sacct", sacct(j7_0="RUNNING"))
    queue = ["7_1|PENDING||0:00|Priority", *(f"8_{i}|PENDING||0:00|Dependency" for i in (0, 1))]
    fake.answer("squeue", "\n".join(["7_0|RUNNING|node1|0:01|None", *queue]))
    make(tmp_path, "dit", status=TRAINING | {"job": "7_0"}, jobs={"train": "7_0", "evaluate": "8_0"})
    make(tmp_path, "unet", jobs={"train": "7_1", "evaluate": "8_1"})
    make(tmp_path, "uvit", status={"event": "done"}, record=DONE)
    return tmp_path


def terminal(monkeypatch, *answers):
    """A terminal with these answers; an exception among them is raised."""
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


def test_all_jobs_are_cancelled_by_one_scancel(chain, fake, monkeypatch, capsys):
    terminal(monkeypatch, "y")
    assert cancel.main(["--all", "--results", str(chain)]) == 0
    assert fake.calls("scancel") == ["scancel 7_[0,1] 8_[0,1]"]
    assert capsys.readouterr().out.splitlines() == [
        "dit  training  train 7_0, evaluate 8_0",
        "unet  queued (Priority)  train 7_1, evaluate 8_1",
        "cancel 2 runs (4 jobs)? [y/N] ",
        "cancelled 2 runs (4 jobs); checkpoints are kept; the same bench.run command continues from them",
    ]


@pytest.mark.parametrize("answer", ["", "n", "what", EOFError, KeyboardInterrupt])
def test_any_other_answer_cancels_nothing(answer, chain, fake, monkeypatch, capsys):
    terminal(monkeypatch, answer)
    assert cancellation.ask_and_cancel(run_status.find_runs(chain)) == []
    assert not fake.calls("scancel") and capsys.readouterr().out.endswith("nothing was cancelled\n")


def test_only_matching_runs_are_cancelled(chain, fake, capsys):
    assert cancel.main(["un*", "--yes", "--results", str(chain)]) == 0
    assert fake.calls("scancel") == ["scancel 7_[1] 8_[1]"]
    assert cancel.main(["uvit", "--yes", "--results", str(chain)]) == 0
    assert capsys.readouterr().out.endswith("none of these runs is queued or running\n")


def test_cancel_refuses_unclear_requests(chain, fake, monkeypatch, capsys):
    results = ["--results", str(chain)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    for words, message in (
        (["--all"], "2 runs (4 jobs) would be cancelled, but there is no terminal to ask on; use --yes"),
        ([], "name the runs to cancel, or use --all, but not both"),
        (["dit", "--all"], "name the runs to cancel, or use --all, but not both"),
    ):
        assert cancel.main([*words, *results]) == 2
        assert capsys.readouterr().err == f"bench.cancel: {message}\n"
    fake.answer("sacct", "", status=1)
    fake.answer("squeue", "", status=1)
    assert cancel.main(["--all", "--yes", *results]) == 2
    assert "squeue failed (exit status 1); is SLURM up?; nothing was cancelled" in capsys.readouterr().err
    assert not fake.calls("scancel")


def test_only_local_processes_get_sigterm(tmp_path, ended, capsys):
    with subprocess.Popen(["sleep", "60"]) as process:
        make(tmp_path, "here", status=TRAINING | {"pid": process.pid})
        make(tmp_path, "elsewhere", status=TRAINING | {"pid": process.pid, "host": "elsewhere"})
        make(tmp_path, "over", status=TRAINING | {"pid": ended})
        assert cancel.main(["elsewhere", "over", "--yes", "--results", str(tmp_path)]) == 0
        assert process.poll() is None
        assert cancel.main(["--all", "--yes", "--results", str(tmp_path)]) == 0
        assert process.wait(10) == -signal.SIGTERM
    assert "cancelled 1 run (1 process)" in capsys.readouterr().out


def test_status_and_cancel_on_a_real_slurm(slurm, tmp_path, capsys):
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
