import json
import os
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers import make_run, replaced, run_context, tiny_config

from bench.config.overrides import load_config
from bench.data import sources
from bench.runs import job
from bench.storage import tensor_files
from bench.training import distributed, parallel, rendezvous, trainer, training_batch
from bench.training.distributed import World
from bench.training.metrics_logger import MetricsLogger

HOST = socket.gethostname()


@pytest.fixture(scope="module")
def ranks():
    """Runs a check of tests/ranks.py in some processes; what each returned or raised."""
    here = Path(__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": str(here.parent), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, here / "ranks.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    assert server.stdout.readline() == "ready\n"

    def ask(check, run, size, **args):
        server.stdin.write(
            json.dumps({"check": check, "size": size, "folder": str(run.path.absolute()), "args": args}) + "\n"
        )
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        if "no answer" in answer:
            raise AssertionError([(run.path / f"rank{rank}.txt").read_text()[-2000:] for rank in range(size)])
        return answer

    yield ask
    server.stdin.close()
    server.wait(20)


@pytest.fixture(autouse=True)
def _report_every_step(monkeypatch):
    monkeypatch.setattr(MetricsLogger, "due", lambda self: True)


def in_one_process(path, config, digits):
    run = make_run(path, config)
    trainer.train(run_context(run, config, digits))
    return run


def losses(run):
    return [(e["images"], e["loss"]) for e in run.events()[0] if e["event"] == "train"]


def weights(run):
    config = load_config(run.path)
    return tensor_files.load_tensors(run.snapshot_path(config.budget.images))[0]


def events(run, name):
    return [e for e in run.events()[0] if e["event"] == name]


def assert_same_training(one, other, exactly=False):
    near = 0 if exactly else 1e-5
    assert [at for at, _ in losses(one)] == [at for at, _ in losses(other)]
    assert [x for _, x in losses(other)] == pytest.approx([x for _, x in losses(one)], rel=near)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], rtol=0, atol=10 * near), name


def test_a_process_learns_its_place_from_its_submitit_job(ranks, tmp_path):
    run = make_run(tmp_path, tiny_config())
    assert ranks("describe_rank", run, 3) == [[r, r, 3, [2, 7], 6, [0, 1, 2], "first"] for r in range(3)]


FEW = {"compute__micro_batch": 2, "budget__images": 20, "recipe__batch": 9}
CASES = [
    ("dit", 2, "none", {}),
    ("dit", 2, "fsdp", {}),
    ("unet", 2, "fsdp", {"recipe__clip": 0.5, "budget__images": 48}),
    ("uvit", 3, "none", FEW),
    ("uvit", 3, "fsdp", {**FEW, "recipe__clip": 0.5}),
]
"""Each half of the budget of FEW ends with a batch of one image, which two processes have none of."""


@pytest.mark.parametrize(("arch", "size", "sharding", "settings"), CASES)
def test_many_processes_train_as_one_does(ranks, tmp_path, digits, arch, size, sharding, settings):
    config = tiny_config(arch, compute__sharding=sharding, compute__checkpoint_seconds=1000, **settings)
    alone = in_one_process(tmp_path / "a", config, digits)
    run = make_run(tmp_path / "b", config)
    assert ranks("training", run, size) == [["done", config.budget.images]] * size
    assert_same_training(alone, run)
    assert {e["processes"] for e in events(run, "train")} == {size}


@pytest.mark.parametrize("sharding", ["fsdp", pytest.param("none", marks=pytest.mark.slow)])
def test_compiled_ranks_train_like_one_plain_rank(ranks, tmp_path, digits, sharding):
    plain = tiny_config(budget__images=32, budget__points=1)
    alone = in_one_process(tmp_path / "a", plain, digits)
    way = dict(compile="blocks", activation_checkpointing="blocks", sharding=sharding, workers=1)
    run = make_run(tmp_path / "b", replaced(plain, "compute", **way))
    assert ranks("training", run, 2) == [["done", 32]] * 2
    assert_same_training(alone, run)


@pytest.mark.parametrize("micro_batch", [1, 5, 16])
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path, digits, micro_batch):
    whole = in_one_process(tmp_path / "a", tiny_config(recipe__clip=0.5), digits)
    parts = in_one_process(tmp_path / "b", tiny_config(recipe__clip=0.5, compute__micro_batch=micro_batch), digits)
    assert_same_training(whole, parts, exactly=micro_batch == 16)


@pytest.mark.parametrize(("size", "world"), [(16, 1), (16, 3), (2, 3), (0, 2), (7, 7)])
def test_shares_cover_the_batch_and_differ_by_at_most_one(size, world):
    shares = [range(size)[parallel.rank_slice(size, World(rank, 0, world))] for rank in range(world)]
    assert [i for share in shares for i in share] == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for micro_batch in (1, 2, 5):
        assert max(map(len, shares)) <= micro_batch * parallel.accumulation_steps(size, micro_batch, World(0, 0, world))


def test_a_process_draws_its_rows_of_what_one_alone_draws(digits):
    config = tiny_config()
    state = trainer.TrainingState(net=None, ema=None, optimizer=None, step=3, images=48)
    whole = training_batch.draw_batch(config, digits, 10, state.step, state.images, 16)
    parts = [
        training_batch.draw_batch(
            config, digits, 10, state.step, state.images, 16, parallel.rank_slice(16, World(r, 0, 3))
        )
        for r in range(3)
    ]
    for name, together in enumerate(whole):
        assert torch.equal(together, torch.cat([part[name] for part in parts]))


def test_a_signal_to_one_rank_stops_all_at_one_step(ranks, tmp_path, digits):
    config = tiny_config()
    alone = in_one_process(tmp_path / "a", config, digits)
    run = make_run(tmp_path / "b", config)
    assert ranks("training", run, 2, stop=[1, 2], every_step=False) == [["stopped", 32]] * 2
    assert max(p.name for p in (run.path / "checkpoints").iterdir()) == "000000000032.safetensors"
    make_run(tmp_path / "b", replaced(config, "compute", sharding="fsdp"))
    assert ranks("training", run, 3, stop=[0, 2]) == [["stopped", 64]] * 3
    in_one_process(tmp_path / "b", config, digits)
    assert [e["images"] for e in events(run, "resume")] == [32, 64]
    assert [e["processes"] for e in events(run, "train")] == [2, 3, 3, 1, 1]
    for name, ours in weights(alone).items():
        assert torch.allclose(ours, weights(run)[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("sharding", ["fsdp", pytest.param("none", marks=pytest.mark.slow)])
def test_all_go_back_when_one_finds_nan(ranks, tmp_path, sharding):
    config = tiny_config(compute__sharding=sharding, budget__images=48, budget__points=1)
    quiet, run = (make_run(tmp_path / name, config) for name in "ab")
    ranks("training", quiet, 2)
    assert ranks("training", run, 2, poison=[1, 2]) == [["done", 48]] * 2
    assert all(torch.equal(weights(quiet)[k], v) for k, v in weights(run).items())
    (event,) = events(run, "rollback")
    assert (event["images"], event["to"], event["nth"]) == (32, 16, 1)


def test_all_say_that_the_run_diverged(ranks, tmp_path):
    config = tiny_config(recipe__lr=1e30, recipe__warmup=0, recipe__clip=0)
    for answer in ranks("training", make_run(tmp_path, config), 2):
        assert answer.startswith("Diverged: the loss is")


def test_processes_with_other_weights_are_named(ranks, tmp_path):
    answers = ranks("training", make_run(tmp_path, tiny_config()), 3, different=[2])
    assert len(answers) == 3
    for answer in answers:
        assert f"rank 2 on {HOST} and rank 0 on {HOST} have different weights" in answer


def test_a_failure_of_one_process_is_what_all_report(ranks, tmp_path):
    answers = ranks("training", make_run(tmp_path, tiny_config()), 2, failing=[1, 2])
    assert answers[1] == "ValueError: images.npy is gone"
    assert answers[0] == f"RuntimeError: rank 1 of 2 on {HOST} failed: ValueError: images.npy is gone"


@pytest.mark.parametrize(
    ("ends", "answers"),
    [("well", ["done"] * 2), ("stops", ["stopped"] * 2), ("is stopped elsewhere", ["stopped"] * 2)],
)
def test_the_others_wait_for_what_process_0_does_alone(ranks, tmp_path, ends, answers):
    assert ranks("waiting", make_run(tmp_path, tiny_config()), 2, ends=ends) == answers


def test_the_others_fail_with_process_0(ranks, tmp_path):
    first, other = ranks("waiting", make_run(tmp_path, tiny_config()), 2, ends="fails")
    assert first == "OSError: no space left on device"
    assert other == f"RuntimeError: rank 0 of 2 on {HOST} failed: OSError: no space left on device"


def test_processes_share_the_samples_and_stop_together(ranks, results, digits):
    config = tiny_config(evaluation__samples=43, evaluation__batch=5, budget__points=1)
    run = in_one_process(results, config, digits)
    assert [how for how, _ in ranks("sampling", run, 2, stop=[1, 1])] == ["stopped"] * 2
    answers = ranks("sampling", run, 2)
    assert {how for how, _ in answers} == {"done"} and 0 < sum(n for _, n in answers) < 9
    files_before = files(run)
    for path in files_before:
        (run.path / path).unlink()
    for folder in (run.path / "features").iterdir():
        folder.rmdir()
    assert ranks("sampling", run, 1) == [["done", 9]]
    assert files(run) == files_before and len(files_before) == 6


def files(run):
    paths = [p for stage in ("features", "samples") for p in sorted((run.path / stage).rglob("*")) if p.is_file()]
    return {str(p.relative_to(run.path)): p.read_bytes() for p in paths}


def a_place(rank, ports, host="127.0.0.1", job="mine"):
    return rendezvous.ProcessInfo(rank=rank, size=2, host=host, ports=tuple(ports), job=job)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.mark.parametrize(
    ("host", "why"), [("127.0.0.1", "refused"), ("no-such-host.invalid", "Name or service|resolution|not known")]
)
def test_a_host_that_is_not_reached_is_named(host, why):
    (port,) = free_ports(1)
    with pytest.raises(RuntimeError, match=rf"rank 1 of 2 on {HOST} could not reach rank 0 at {host}:{port}") as e:
        rendezvous.open_store(a_place(1, [port], host), 0.3)
    assert e.match(why) and "check that" in str(e.value)


def test_processes_that_do_not_come_are_named():
    with pytest.raises(RuntimeError, match=rf"rank 0 of 2 on {HOST} waited 1 s for rank 1, which did not reach"):
        rendezvous.open_store(a_place(0, free_ports(1)), 1)


def test_two_jobs_that_want_one_port_do_not_meet():
    one, two = free_ports(2)
    theirs = rendezvous.listen_on_free_port(a_place(0, [one, two], job="theirs"))
    mine = rendezvous.listen_on_free_port(a_place(0, [one, two]))
    assert (theirs.port, mine.port) == (one, two)
    store = rendezvous.connect_to_rank_0(a_place(1, [one, two]), time.monotonic() + 20)
    assert store.port == two
    with pytest.raises(RuntimeError, match=f"rank 0 of 2 on {HOST} cannot listen on any of the ports {one}, {two}"):
        rendezvous.listen_on_free_port(a_place(0, [one, two], job="third"))


def test_a_process_that_is_done_ends_well_whatever_comes_after():
    code = "import atexit, os; from bench.training import distributed; atexit.register(os.abort); "
    code += "atexit.register(distributed.exit_without_cleanup)"
    done = subprocess.run([sys.executable, "-c", f"{code}; print('said')"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "said\n")


@pytest.mark.parametrize("done", [True, False])
def test_only_a_process_of_several_that_is_done_leaves_early(tmp_path, monkeypatch, done):
    registered, run = [], make_run(tmp_path, tiny_config())
    monkeypatch.setattr(rendezvous, "process_info", lambda: a_place(1, [1]))
    monkeypatch.setattr(distributed, "join_world", lambda config: nullcontext(distributed.SINGLE_PROCESS))
    monkeypatch.setattr(job.Attempt, "execute", lambda self: done)
    monkeypatch.setattr(job.atexit, "register", registered.append)
    assert job.execute_run(run) is done
    assert registered == [distributed.exit_without_cleanup] * done


def test_one_process_needs_no_store():
    with distributed.join_world(tiny_config()) as world:
        assert world == distributed.SINGLE_PROCESS and not dist.is_initialized()
        assert world.agree(True, 2) == [True, 2] and world.total(1.5) == 1.5 and world.gather("a") == ["a"]
        world.barrier()
        world.alone(lambda: None)


def test_a_lost_data_file_is_named_and_checkpoints_stay(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", rng.integers(0, 255, (64, 1, 8, 8), dtype=np.uint8))
    np.save(folder / "labels.npy", np.arange(64) % 10)
    config = tiny_config()
    for damage, words in ((lambda p: p.write_bytes(p.read_bytes()[:200]), "shrank from"), (Path.unlink, "disappeared")):
        run, calls = make_run(tmp_path / words, config), []
        arrays = sources.load_dataset(str(folder))

        def stop(damage=damage, calls=calls):
            calls.append(1)
            if len(calls) == 3:
                damage(folder / "images.npy")
            return False

        with pytest.raises(ValueError, match=rf"images\.npy {words}"):
            trainer.train(run_context(run, config, arrays, stop_requested=stop))
        assert tensor_files.load_newest_checkpoint(run.path / "checkpoints")[1]["images"] == 48
        np.save(folder / "images.npy", rng.integers(0, 255, (64, 1, 8, 8), dtype=np.uint8))
