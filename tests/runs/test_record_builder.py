import dataclasses

import pytest
from helpers import make_run, run_context, tiny_config

from bench.runs import record_builder
from bench.storage.stage_results import TrainingResult
from bench.training import trainer

RESULT = TrainingResult(
    images=1390,
    seconds=1.0,
    accelerator_seconds=2.0,
    images_per_second=1390.0,
    images_processed=1390.0,
    peak_memory_bytes=2**30,
    device="NVIDIA H100 80GB HBM3",
    precision="bf16",
    processes=2,
)


def test_mfu_is_that_of_all_gpus():
    cost = record_builder.measured_cost(RESULT, 6 * 118_640_000_000)
    assert cost["mfu"] == pytest.approx(0.5, abs=1e-3)
    assert cost["accelerator_hours"] == 2 / 3600 and cost["peak_memory_bytes"] == 2**30


def test_a_cpu_has_no_mfu():
    assert record_builder.measured_cost(dataclasses.replace(RESULT, device="CPU"), 10**9)["mfu"] is None


def test_training_tells_its_precision(tmp_path, digits):
    run = make_run(tmp_path, tiny_config(compute__precision="bf16"))
    result = trainer.train(run_context(run, dataset=digits))
    assert (result.precision, result.processes, result.images, result.device) == ("bf16", 1, 96, "CPU")
    assert result.peak_memory_bytes > 10**7 and result.images_per_second > 0
    assert record_builder.describe_environment(1, result.precision)["precision"] == "bfloat16"
