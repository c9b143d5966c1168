import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from helpers import make_run, replaced, run_context, tiny_config

from bench.config.schema import BudgetConfig
from bench.data import dataset
from bench.diffusion.gaussian_diffusion import GaussianDiffusion, make_diffusion
from bench.diffusion.noise_schedules import noise_levels, sigma
from bench.records import failures
from bench.storage import tensor_files
from bench.storage.run_folder import RunFolder
from bench.training import trainer, training_batch


def weights(run, config):
    return tensor_files.load_tensors(run.snapshot_path(config.budget.images))[0]


def trained(path, config, digits, stops=()):
    """The run's final weights; it is stopped and started again at each image count of `stops`."""
    run = make_run(path, config)

    def seen():
        return [0, *(e["images"] for e in run.events()[0] if e["event"] == "train")][-1]

    for at in (*stops, None):
        try:
            trainer.train(
                run_context(run, config, digits, stop_requested=lambda at=at: at is not None and seen() >= at)
            )
        except trainer.StopRequested:
            assert at is not None
    return weights(run, config), run


@pytest.fixture(autouse=True)
def _report_every_step(monkeypatch):
    monkeypatch.setattr(trainer.MetricsLogger, "due", lambda self: True)


@pytest.mark.parametrize("arch", ["dit", "uvit", "unet"])
def test_a_stopped_run_ends_with_the_weights_of_one_that_was_not(tmp_path, digits, arch):
    config = tiny_config(arch)
    whole, _ = trained(tmp_path / "a", config, digits)
    broken, run = trained(tmp_path / "b", config, digits, stops=(16, 48, 80))
    assert all(torch.equal(whole[k], broken[k]) for k in whole)
    assert sum(e["event"] == "resume" for e in run.events()[0]) == 3


def test_a_damaged_checkpoint_costs_time_but_not_the_result(tmp_path, digits):
    config = tiny_config()
    whole, _ = trained(tmp_path / "a", config, digits)
    run = make_run(tmp_path / "b", config)
    calls = iter(range(100))
    with pytest.raises(trainer.StopRequested):
        trainer.train(run_context(run, config, digits, stop_requested=lambda: next(calls) == 4))
    newest = max((run.path / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-7])
    trainer.train(run_context(run, config, digits))
    assert all(torch.equal(whole[k], weights(run, config)[k]) for k in whole)
    resumed = next(e for e in run.events()[0] if e["event"] == "resume")
    assert newest.name in resumed["warnings"][0]


def test_the_budget_is_kept_to_the_image(tmp_path, digits):
    config = tiny_config(budget__images=70)
    _, run = trained(tmp_path, config, digits)
    events = [e for e in run.events()[0] if e["event"] == "train"]
    assert events[-1]["images"] == 70 and BudgetConfig(images=70, points=2).evaluation_points == [35, 70]
    assert all(run.snapshot_path(p).is_file() for p in (35, 70))


def test_a_batch_is_a_function_of_seed_and_step(digits):
    config = tiny_config()
    state = trainer.TrainingState(net=None, ema=None, optimizer=None, step=3, images=48)
    one, two = (training_batch.draw_batch(config, digits, 10, state.step, state.images, 16) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    other = training_batch.draw_batch(replaced_seed(config, 1), digits, 10, state.step, state.images, 16)
    assert not torch.equal(one[2], other[2])


def replaced_seed(config, seed):
    import dataclasses

    return dataclasses.replace(config, seed=seed)


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_labels_are_dropped_at_the_stated_rate(digits, drop):
    config = replaced(tiny_config(), "recipe", label_drop=drop, batch=1000)
    state = trainer.TrainingState(net=None, ema=None, optimizer=None)
    *_, labels = training_batch.draw_batch(config, digits, 10, state.step, state.images, 1000)
    assert (labels == 10).float().mean() == pytest.approx(drop, abs=0.05)


def test_ema_follows_the_weights(io):
    state = trainer.new_training_state(tiny_config(), io, torch.device("cpu"))
    with torch.no_grad():
        for p in state.net.parameters():
            p.add_(1.0)
    before = {k: v.clone() for k, v in state.ema.named_parameters()}
    trainer.update_ema(state, 0.9)
    for name, p in state.ema.named_parameters():
        assert torch.allclose(p, before[name] + 0.1, atol=1e-6)


def test_learning_rate_warms_up_and_gradients_are_clipped(digits, io):
    config = replaced(tiny_config(), "recipe", warmup=4, lr=1e-2, clip=1e-4)
    state = trainer.new_training_state(config, io, torch.device("cpu"))
    rates = []
    for _ in range(6):
        trainer.train_step(
            state,
            config,
            GaussianDiffusion(),
            training_batch.draw_batch(config, digits, 10, state.step, state.images, 16),
        )
        rates.append(state.optimizer.param_groups[0]["lr"])
        norm = torch.stack([p.grad.norm() for p in state.net.parameters() if p.grad is not None]).norm()
        assert norm <= 1.01e-4
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])


def test_training_lowers_the_loss_with_learned_variance_too(tmp_path, digits):
    config = tiny_config(budget__images=4000, diffusion__variance="learned_range", recipe__lr=3e-3, recipe__warmup=10)
    _, run = trained(tmp_path, config, digits)
    losses = [e["loss"] for e in run.events()[0] if e["event"] == "train"]
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])


def test_the_trainer_starts_without_what_a_cpu_does_not_need():
    """Hundreds of test processes and every cluster job pay for these imports."""
    heavy = ("torch._inductor", "torch._dynamo", "torch.distributed.tensor", "torchvision", "diffusers", "datasets")
    heavy += ("timm", "sklearn", "scipy.stats", "torch_fidelity")
    code = [
        "import sys, architectures, bench.data.sources, bench.training.trainer, bench.runs.planning",
        "bench.data.sources.load_dataset('digits')",
        "io = architectures.IOSpec(channels=1, size=8, num_classes=10)",
        "nets = [architectures.build(arch, 'nano/2', io=io) for arch in ('dit', 'uvit')]",
        "nets.append(architectures.build('unet', 'nano', io=io))",
        f"print([name for name in {heavy} if name in sys.modules])",
    ]
    done = subprocess.run([sys.executable, "-c", "; ".join(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_digits_are_scikit_learns(digits):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    held = np.arange(len(bunch.target)) % 4 == 3
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    assert (digits.images == images[~held]).all() and (digits.held_out == images[held]).all()
    assert (digits.labels == bunch.target[~held]).all() and (digits.held_out_labels == bunch.target[held]).all()


def rollbacks(run):
    return [e for e in run.events()[0] if e["event"] == "rollback"]


def test_three_rollbacks_over_restarts_end_a_diverging_run(tmp_path, digits):
    config = tiny_config(recipe__lr=1e30, recipe__warmup=0, recipe__clip=0)
    run = make_run(tmp_path, config)
    for _ in range(2):
        with pytest.raises(trainer.Diverged, match=r"after 3 rollbacks; a lower recipe\.lr"):
            trainer.train(run_context(run, config, digits))
        assert [(e["nth"], e["to"]) for e in rollbacks(run)] == [(1, 16), (2, 0), (3, 16)]
    assert not list((run.path / "snapshots").glob("*"))


NAN, INF, HUGE = float("nan"), float("inf"), 1e25


@pytest.mark.parametrize(
    ("value", "at", "back"),
    [(NAN, 1, [0]), (NAN, 3, [32]), (INF, 6, [80]), (HUGE, 1, [16, 0]), (HUGE, 3, [48, 32])],
)
def test_a_fault_of_the_machine_is_healed_and_counted(tmp_path, digits, monkeypatch, value, at, back):
    config = tiny_config()
    quiet, _ = trained(tmp_path / "a", config, digits)
    run, steps, step = make_run(tmp_path / "b", config), [], trainer.train_step

    def poisoned(state, *rest):
        loss = step(state, *rest)
        steps.append(state.images)
        if len(steps) == at:
            with torch.no_grad():
                list(state.net.parameters())[-1].fill_(value)
        return loss

    monkeypatch.setattr(trainer, "train_step", poisoned)
    trainer.train(run_context(run, config, digits))
    why = "the loss is inf" if value == HUGE else "hold NaN or infinity"
    assert all(why in e["why"] for e in rollbacks(run)) and [e["to"] for e in rollbacks(run)] == back
    assert [e["nth"] for e in failures.list_incidents(run) if e["kind"] == "rollback"] == [1, 2][: len(back)]
    assert all(torch.equal(quiet[k], v) for k, v in weights(run, config).items())
    for path in (run.path / "checkpoints").iterdir():
        assert all(x.isfinite().all() and x.abs().max() < 100 for x in tensor_files.load_tensors(path)[0].values())


def test_a_loss_that_explodes_goes_back_though_it_is_finite(tmp_path, digits, monkeypatch):
    config, calls, step = tiny_config(), [], trainer.train_step
    quiet, _ = trained(tmp_path / "a", config, digits)

    def exploding(*args):
        calls.append(1)
        return step(*args) + (1000 if len(calls) == 3 else 0)

    monkeypatch.setattr(trainer, "train_step", exploding)
    again, run = trained(tmp_path / "b", config, digits)
    assert [(e["images"], e["to"]) for e in rollbacks(run)] == [(48, 32)] and "loss is 1001" in rollbacks(run)[0]["why"]
    assert all(torch.equal(quiet[k], v) for k, v in again.items())


def test_nothing_is_written_once_another_process_has_the_run(tmp_path, digits):
    config, run, calls = tiny_config(), make_run(tmp_path, tiny_config()), []

    def check_lease():
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("taken over")

    with pytest.raises(RuntimeError, match="taken over"):
        trainer.train(run_context(run, config, digits, check_lease=check_lease))
    assert sorted(p.name for p in (run.path / "checkpoints").iterdir()) == [
        "000000000016.safetensors",
        "000000000032.safetensors",
    ]


def test_a_stop_at_an_evaluation_point_keeps_its_snapshot(tmp_path, digits):
    config = tiny_config()
    quiet, _ = trained(tmp_path / "a", config, digits)
    run, calls = make_run(tmp_path / "b", config), iter(range(100))
    for at in (2, 5):
        with pytest.raises(trainer.StopRequested):
            trainer.train(run_context(run, config, digits, stop_requested=lambda at=at: next(calls) == at))
    trainer.train(run_context(run, config, digits))
    assert [e["images"] for e in run.events()[0] if e["event"] == "resume"] == [48, 96]
    assert run.snapshot_path(48).is_file()
    assert all(torch.equal(quiet[k], v) for k, v in weights(run, config).items())


def test_dropout_is_a_function_of_seed_and_step(tmp_path, digits):
    config = tiny_config("unet", model__args__dropout=0.5)
    whole, _ = trained(tmp_path / "a", config, digits)
    torch.manual_seed(123)
    broken, _ = trained(tmp_path / "b", config, digits, stops=(32,))
    assert all(torch.equal(whole[k], broken[k]) for k in whole)
    plain, _ = trained(tmp_path / "c", tiny_config("unet"), digits)
    assert any(not torch.equal(whole[k], plain[k]) for k in whole)


@pytest.mark.gpu
@pytest.mark.parametrize("arch", ["dit", "uvit", "unet"])
def test_deterministic_gpu_resume_is_bit_exact(tmp_path, digits, arch):
    config = tiny_config(arch, compute__device="cuda", compute__deterministic="true")
    try:
        whole, _ = trained(tmp_path / "a", config, digits)
        broken, _ = trained(tmp_path / "b", config, digits, stops=(16, 48))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(whole[k], broken[k]) for k in whole)


def test_cuda_is_refused_where_there_is_none():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ValueError, match="use cpu or auto"):
        trainer.device_of(tiny_config(compute__device="cuda"))


def test_a_torn_last_line_of_the_log_is_left_for_later(tmp_path):
    run = RunFolder(tmp_path)
    run.log("train", images=1)
    with (tmp_path / "log.jsonl").open("a") as f:
        f.write('{"event": "tr')
    events, position = run.events()
    assert [e["images"] for e in events] == [1]
    with (tmp_path / "log.jsonl").open("a") as f:
        f.write('ain", "images": 2}\n')
    assert [e["images"] for e in run.events(position)[0]] == [2]


def test_json_refuses_nan_and_leaves_the_old_file(tmp_path):
    from bench.storage.atomic import write_json

    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


def test_arrays_of_latents_train_as_they_are(tmp_path, io):
    import numpy as np

    rng = np.random.default_rng(0)
    arrays = dataset.Dataset(
        images=rng.standard_normal((20, 1, 8, 8)).astype(np.float16),
        labels=np.arange(20) % 10,
        reference=np.zeros((20, 3, 64, 64), np.uint8),
    )
    state = trainer.new_training_state(tiny_config(), io, torch.device("cpu"))
    x0, *_ = training_batch.draw_batch(tiny_config(), arrays, 10, state.step, state.images, 20)
    assert torch.equal(x0.sort(dim=0).values, torch.from_numpy(arrays.images).float().sort(dim=0).values)


WAYS = [("cosine", "index"), ("sqrt_linear", "count"), ("vp", "continuous"), ("cosine", "rescaled")]


@pytest.mark.parametrize(("schedule", "time"), WAYS)
def test_training_uses_the_time_and_noise_of_its_process(digits, io, schedule, time):
    config = tiny_config(diffusion__schedule=schedule, diffusion__time=time)
    state, seen = trainer.new_training_state(config, io, torch.device("cpu")), []
    state.net.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[:2]))
    x0, t, eps, labels = training_batch.draw_batch(config, digits, 10, state.step, state.images, 16)
    trainer.train_step(state, config, make_diffusion(config.diffusion), (x0, t, eps, labels))
    count = t * 1000 if schedule == "vp" else t + 1
    want = {"index": count - 1, "count": count, "continuous": 999 * count / 1000, "rescaled": count - 1}[time]
    assert seen[1].dtype == torch.float32 and torch.allclose(seen[1], want.float())
    log_alpha = noise_levels(schedule, 1000).log_alpha(count.double() / 1000).view(-1, 1, 1, 1)
    assert torch.allclose(seen[0], (log_alpha.exp() * x0 + sigma(log_alpha) * eps).float(), atol=1e-5)


def test_continuous_time_training_learns_and_resumes(tmp_path, digits):
    way = dict(diffusion__schedule="vp", diffusion__time="continuous", recipe__lr=3e-3, recipe__warmup=10)
    config = tiny_config("dit", budget__images=1600, **way)
    whole, run = trained(tmp_path / "a", config, digits)
    losses = [e["loss"] for e in run.events()[0] if e["event"] == "train"]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
    parts, _ = trained(tmp_path / "b", config, digits, stops=(500,))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_drawn_ahead_are_those_drawn_when_asked(tmp_path, digits, workers):
    config = tiny_config(budget__images=70, budget__points=3)
    inline, _ = trained(tmp_path / "a", config, digits)
    ahead = tiny_config(budget__images=70, budget__points=3, compute__workers=workers)
    broken, _ = trained(tmp_path / "b", ahead, digits, stops=(16, 39))
    assert all(torch.equal(inline[k], v) for k, v in broken.items())
    assert not [t.name for t in threading.enumerate() if t.name.startswith("loader")]


def test_a_loader_error_is_raised_at_its_step(tmp_path, digits, monkeypatch):
    config, draw = tiny_config(compute__workers=2), training_batch.draw_batch

    def failing(config, arrays, null, step, images, *rest):
        if images == 48:
            raise ValueError("images.npy is gone")
        return draw(config, arrays, null, step, images, *rest)

    monkeypatch.setattr(training_batch, "draw_batch", failing)
    run = make_run(tmp_path, config)
    with pytest.raises(ValueError, match="is gone"):
        trainer.train(run_context(run, config, digits))
    assert tensor_files.load_newest_checkpoint(run.path / "checkpoints")[1]["images"] == 48
    assert not [t.name for t in threading.enumerate() if t.name.startswith("loader")]
