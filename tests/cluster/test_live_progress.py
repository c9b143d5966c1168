from bench.cluster import live_progress
from bench.storage.run_folder import RunFolder


def test_a_run_is_told_by_stage_progress_rate_and_eta(tmp_path):
    run = RunFolder(tmp_path)
    watched = live_progress.LiveRun(run)
    assert watched.words() == "starting"
    run.log("train", images=500, of=2000, loss=0.25, rate=100.0, seconds=1.0)
    watched.update()
    assert watched.words() == "training  25% 100 img/s ETA 0:15 loss 0.2500"
    run.log("sample", images=10, of=40, rate=1.0)
    watched.update()
    assert watched.words() == "sampling  25% 1 img/s ETA 0:30"
    run.log("done")
    watched.update()
    assert watched.words() == "done"


def test_what_an_earlier_run_logged_is_not_shown(tmp_path):
    RunFolder(tmp_path).log("failed", error="long ago")
    assert live_progress.LiveRun(RunFolder(tmp_path)).words() == "starting"


def test_a_log_gets_plain_lines_and_the_end_of_every_run(tmp_path, capsys):
    run = RunFolder(tmp_path)
    events = iter([("train", dict(images=1, of=2, loss=1.0, rate=1.0, seconds=1.0)), ("done", {})])

    def going():
        event = next(events, None)
        if event:
            run.log(event[0], **event[1])
        return event is not None

    live_progress.watch_local_runs({"dit": run}, going, seconds=0.0, poll=0.01)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("dit: ")]
    assert lines[0].startswith("dit: training  50%") and lines[-1] == "dit: done"


def test_a_terminal_gets_its_lines_rewritten(capsys):
    assert live_progress.redraw_lines(["a", "b"], 0) == 2
    assert live_progress.redraw_lines(["c", "d"], 2) == 2
    out = capsys.readouterr().out
    assert out.startswith("\x1b[2Ka\n\x1b[2Kb\n\x1b[2F\x1b[2Kc")
