import json

from bench.storage.run_folder import RunFolder
from bench.storage.stage_results import TrainingResult, read_training_result, write_result


def logged_run(tmp_path):
    """The log of a run of two attempts on two processes, as a run of ff2ada1 left it."""
    run = RunFolder(tmp_path)
    for images in (16, 32):
        run.log("train", images=images, of=48, loss=1.0, rate=160.0, seconds=0.1, processes=2)
    run.log("compute", device="CPU", precision="bf16", micro_batch=0, processes=1)
    for images in (32, 48):
        run.log("train", images=images, of=48, loss=1.0, rate=80.0, seconds=0.2, processes=1)
    run.log("memory", peak_memory_bytes=1000)
    run.log("memory", peak_memory_bytes=900)
    return run


def test_attempts_are_summed_up_from_the_log(tmp_path):
    result = read_training_result(logged_run(tmp_path))
    assert round(result.seconds, 9) == 0.6 and round(result.accelerator_seconds, 9) == 0.8
    assert round(result.images_processed, 6) == 64 and round(result.images_per_second, 6) == round(64 / 0.6, 6)
    assert (result.images, result.processes, result.peak_memory_bytes) == (48, 2, 1000)
    assert (result.device, result.precision) == ("CPU", "bf16")


def test_train_json_wins_over_the_log(tmp_path):
    run = logged_run(tmp_path)
    written = TrainingResult.from_events(run.events()[0])
    write_result(run, written)
    (tmp_path / "log.jsonl").unlink()
    assert read_training_result(run) == written
    assert json.loads((tmp_path / "train.json").read_text())["images"] == 48


def test_published_weights_have_no_training_result(tmp_path):
    run = RunFolder(tmp_path)
    run.log("sample", images=4, of=4, rate=1.0)
    assert read_training_result(run) is None
