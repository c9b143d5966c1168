"""When memory runs out, the trainer halves the micro-batch; the run and the global batch stay the same."""

import pytest
import torch
from helpers import make_run, run_context, tiny_config

from bench.diffusion.gaussian_diffusion import make_diffusion
from bench.experiments import presets
from bench.storage import tensor_files
from bench.training import micro_batching, parallel, trainer, training_batch
from bench.training.distributed import World
from bench.training.execution import ExecutionSettings


@pytest.fixture
def memory_for(monkeypatch):
    """Limit memory to a number of images; the limiter returns a list of the batches that did not fit."""
    failures, backward = [], trainer.backward

    def limit(images):
        def limited(state, diffusion, piece, weight):
            if len(piece[0]) > images:
                failures.append(len(piece[0]))
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return backward(state, diffusion, piece, weight)

        monkeypatch.setattr(trainer, "backward", limited)
        return failures

    return limit


def trained(path, config, digits, stop=lambda: False):
    run = make_run(path, config)
    trainer.train(run_context(run, config, digits, stop_requested=stop))
    return run


def weights(run, config):
    return tensor_files.load_tensors(run.snapshot_path(config.budget.images))[0]


def logged_micro_batches(run):
    return [e["micro_batch"] for e in run.events()[0] if e["event"] == "compute"]


def test_out_of_memory_equals_a_smaller_micro_batch(tmp_path, digits, memory_for):
    asked = tiny_config("unet", compute__micro_batch=4, model__args__dropout=0.3)
    few = trained(tmp_path / "a", asked, digits)
    failures = memory_for(5)
    config = tiny_config("unet", model__args__dropout=0.3)
    run = trained(tmp_path / "b", config, digits)
    assert failures == [16, 8] and logged_micro_batches(run) == [0, 4] and logged_micro_batches(few) == [4]
    assert all(torch.equal(v, weights(run, config)[k]) for k, v in weights(few, asked).items())


def test_a_run_goes_on_with_the_micro_batch_it_began_with(tmp_path, digits, memory_for, monkeypatch):
    monkeypatch.setattr(trainer.MetricsLogger, "due", lambda self: True)
    config, failures, calls = tiny_config(), memory_for(5), iter(range(100))
    with pytest.raises(trainer.StopRequested):
        trained(tmp_path, config, digits, stop=lambda: next(calls) == 2)
    memory_for(16)
    run = trained(tmp_path, config, digits)
    assert failures == [16, 8] and logged_micro_batches(run) == [0, 4, 4]


def test_one_image_too_many_is_a_sentence(tmp_path, digits, memory_for):
    memory_for(0)
    with pytest.raises(micro_batching.MicroBatchTooLarge, match=r"one training image at a time .* compute\.activation"):
        trained(tmp_path, tiny_config(), digits)


def test_a_micro_batch_that_was_asked_for_is_not_changed(tmp_path, digits, memory_for):
    memory_for(2)
    with pytest.raises(torch.OutOfMemoryError):
        trained(tmp_path, tiny_config(compute__micro_batch=4), digits)


class Two(World):
    """Rank 0 of two ranks; the other rank has micro-batch `theirs`."""

    def __init__(self, theirs):
        super().__init__(0, 0, 2)
        object.__setattr__(self, "theirs", theirs)

    def agree(self, *values):
        return [max(values[0], -self.theirs)]

    def of_first(self, make):
        return make()


def chosen(monkeypatch, tmp_path, replicas, theirs=100, fits=5, **compute):
    """The micro-batch of a process of two on a GPU that holds `fits` images; its share is 16."""
    config = tiny_config(**compute)
    state = trainer.new_training_state(config, presets.network_io(config), torch.device("cpu"))
    state.engine = ExecutionSettings(device=torch.device("cuda"))
    state.replicas = state.net if replicas else None
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(micro_batching, "reserve_optimizer_memory", lambda state: None)
    monkeypatch.setattr(micro_batching, "estimate_micro_batch", lambda *_: fits)

    def trial(images):
        if images > fits:
            raise torch.OutOfMemoryError

    micro_batching.choose_micro_batch(make_run(tmp_path, config), state, config, Two(theirs), 16, trial)
    return state.micro_batch


@pytest.mark.parametrize(
    ("replicas", "theirs", "fits", "agreed"),
    [(True, 100, 5, 4), (True, 2, 5, 2), (True, 100, 16, 16), (False, 100, 5, 5), (False, 3, 5, 3), (False, 9, 0, 1)],
)
def test_many_processes_agree_on_what_fits_all_of_them(monkeypatch, tmp_path, replicas, theirs, fits, agreed):
    assert chosen(monkeypatch, tmp_path, replicas, theirs, fits) == agreed


def test_what_was_asked_for_is_not_searched(monkeypatch, tmp_path):
    assert chosen(monkeypatch, tmp_path, True, compute__micro_batch=7) == 7
    assert chosen(monkeypatch, tmp_path, True, compute__micro_batch=0) == 0


@pytest.mark.parametrize("share", [1, 2, 7, 16])
def test_halving_ends_at_one_image(share, io):
    state = trainer.new_training_state(tiny_config(), io, torch.device("cpu"))
    micro_batches = []
    while micro_batching.halve_micro_batch(state, share):
        micro_batches.append(state.micro_batch)
        assert parallel.accumulation_steps(share, state.micro_batch, World()) * state.micro_batch >= share
    assert [*micro_batches, 1][-1] == 1 and micro_batches == sorted(micro_batches, reverse=True)


@pytest.mark.gpu
def test_on_a_gpu_a_batch_that_does_not_fit_is_trained_on(digits):
    device, peaks = torch.device("cuda"), {}

    def step(micro_batch):
        config = tiny_config(
            "unet",
            compute__device="cuda",
            recipe__batch=4096,
            compute__compile="none",
            compute__micro_batch=micro_batch,
        )
        state, diffusion = (
            trainer.new_training_state(config, presets.network_io(config), device),
            make_diffusion(config.diffusion, device),
        )
        batch = training_batch.draw_batch(config, digits, 10, 0, 0, 4096)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        loss = float(trainer.train_step(state, config, diffusion, batch))
        return loss, state.micro_batch, torch.cuda.max_memory_reserved()

    for images in (512, 4096):
        loss, _, peaks[images] = step(images)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((peaks[512] + peaks[4096]) / 2 / total)
    try:
        losses, micro_batch, _ = step(-1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 512 <= micro_batch < 4096 and losses == pytest.approx(loss, rel=1e-2)
