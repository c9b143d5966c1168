"""Execution settings change neither the loss nor the state dict of a network."""

import pytest
import torch
from helpers import tiny_config
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from architectures.check import perturb_parameters
from bench.data import sources
from bench.diffusion.gaussian_diffusion import make_diffusion
from bench.evaluation import generation
from bench.experiments import presets
from bench.storage import tensor_files
from bench.training import execution, trainer, training_batch
from bench.training.execution import ExecutionSettings

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LDM = {"attention_kind": "transformer", "label": "token", "norm": "add", "resample": "conv"}
NETS = {
    **{f"dit {kind}": ("dit", {"conditioning": kind}) for kind in ("adaln", "cross_attention", "in_context")},
    "dit": ("dit", {"depth": "2"}),
    "uvit": ("uvit", {}),
    "unet": ("unet", {}),
    "ldm": ("unet", LDM),
    "genvit": ("genvit", {}),
}
WAYS = {
    "checkpointed": ({"activation_checkpointing": "blocks"}, 1e-6),
    "compiled and checkpointed": ({"compile": "blocks", "activation_checkpointing": "blocks"}, 1e-5),
    "compiled as a whole": ({"compile": "graphs"}, 1e-5),
    "compiled bf16": ({"compile": "blocks", "precision": "bf16"}, 2e-2),
    "channels last": ({"channels_last": "on"}, 1e-5),
    "a few at a time": ({"micro_batch": "5"}, 1e-5),
}
ALL = [(net, way) for net in NETS for way in WAYS if way in ("checkpointed", "channels last", "a few at a time")]
COMPILED = [("uvit", "compiled and checkpointed")]
COMPILED += [pytest.param("unet", "compiled and checkpointed", marks=pytest.mark.slow)]
MORE = [("dit", way) for way in WAYS if way.startswith("compiled")] + [("uvit", "compiled bf16")]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(execution, "BACKEND", "aot_eager")
    torch.compiler.reset()
    counters.clear()


def config_of(net, device="cpu", **compute):
    arch, args = NETS[net]
    settings = {f"model__args__{k}": v for k, v in args.items()} | {f"compute__{k}": v for k, v in compute.items()}
    return tiny_config(arch, compute__device=device, recipe__lr=1e-3, recipe__warmup=1, **settings)


def state_of(config, device=CPU):
    state = trainer.new_training_state(config, presets.network_io(config), device)
    perturb_parameters(state.net).train()
    return state


def two_losses(config, device=CPU):
    """The loss of a step, and of the next, which depends on the first one's gradient."""
    state, diffusion, digits = (
        state_of(config, device),
        make_diffusion(config.diffusion, device),
        sources.load_dataset("digits"),
    )
    with state.engine.running():
        batches = (training_batch.draw_batch(config, digits, 10, i, 16 * i, 16) for i in range(2))
        return [float(trainer.train_step(state, config, diffusion, batch)) for batch in batches], state


@pytest.mark.parametrize(("net", "way"), ALL + COMPILED + MORE)
def test_execution_settings_keep_the_loss(net, way):
    settings, tolerance = WAYS[way]
    plain, _ = two_losses(config_of(net))
    other, state = two_losses(config_of(net, **settings))
    assert other == pytest.approx(plain, rel=tolerance)
    if way == "compiled bf16":
        assert other != pytest.approx(plain, rel=1e-7)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in state.net.parameters())


def test_compiled_blocks_keep_names_and_share_graphs(io):
    config = config_of("dit", compile="blocks")
    _, state = two_losses(config)
    _, plain = two_losses(config_of("dit"))
    assert list(state.tensors()) == list(plain.tensors())
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


class Stranger(torch.nn.Module):
    """A user's network; its blocks take keyword arguments, one of them with a default."""

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x, *, shift, scale=2.0):
            return x + scale * self.linear(x) + shift

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(self.Block() for _ in range(3))

    def forward(self, x, t, cond):
        for block in self.blocks:
            x = block(x, shift=t)
        return x


@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_of_a_users_network_are_compiled(checkpointing):
    net, x, t = Stranger(), torch.randn(2, 4, requires_grad=True), torch.ones(2, 1)
    plain = net(x, t, None)
    way = ExecutionSettings(device=CPU, compile="blocks", checkpointing=checkpointing)
    other = way.call(way.prepare(net), x, t, None)
    assert torch.allclose(other, plain) and counters["stats"]["unique_graphs"] == 1
    assert torch.allclose(*(torch.autograd.grad(out.sum(), x)[0] for out in (plain, other)))


def saved_bytes(net, **compute):
    """Bytes that autograd saves in a forward pass; each storage counts once, parameters do not count."""
    config, seen = config_of(net, **compute), {}
    state = state_of(config)
    storages = {p.untyped_storage()._cdata for p in state.net.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in storages:
            seen[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    x, labels = torch.randn(16, 1, 8, 8), torch.zeros(16, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = state.engine.call(state.net, x, torch.zeros(16), labels)
    assert out.requires_grad
    return sum(size for size, _ in seen.values())


@pytest.mark.parametrize("compile", ["none", "blocks"])
def test_a_checkpointed_network_keeps_less_for_its_backward_pass(compile):
    assert saved_bytes("dit", compile=compile, activation_checkpointing="blocks") < 0.5 * saved_bytes("dit")


def test_channels_last_resumes_from_a_plain_checkpoint(tmp_path):
    config = config_of("unet", channels_last="on")
    _, state = two_losses(config)
    assert any(p.is_contiguous(memory_format=torch.channels_last) and p.dim() == 4 for p in state.net.parameters())
    tensor_files.save_tensors(tmp_path / "a.safetensors", state.tensors())
    tensors, _ = tensor_files.load_tensors(tmp_path / "a.safetensors")
    again, digits = state_of(config), sources.load_dataset("digits")
    tensor_files.restore_training_tensors(tensors, again.net, again.ema, again.optimizer)
    again.step, again.images = state.step, state.images
    for one in (state, again):
        trainer.train_step(
            one, config, make_diffusion(config.diffusion), training_batch.draw_batch(config, digits, 10, 2, 32, 16)
        )
    assert all(torch.equal(value, again.tensors()[name]) for name, value in state.tensors().items())


AUTO = [
    (CPU, False, ("fp32", "none", "off")),
    (CUDA, True, ("bf16", "blocks", "auto")),
    (CUDA, False, ("fp32", "blocks", "auto")),
]


@pytest.mark.parametrize(("device", "bf16", "chosen"), AUTO)
def test_auto_resolves_by_device(monkeypatch, device, bf16, chosen):
    monkeypatch.setattr(execution, "has_bf16", lambda: bf16)
    way = execution.training_execution(tiny_config(), device)
    assert (way.precision, way.compile, way.channels_last) == chosen and not way.checkpointing
    assert execution.sampling_execution(tiny_config(), device).precision == "fp32"


def test_convolutional_networks_are_recognised(io):
    convolutional = {net: execution.is_convolutional(state_of(config_of(net)).net) for net in NETS}
    assert {net for net, is_one in convolutional.items() if is_one} == {"unet", "ldm"}


@pytest.mark.parametrize("section", ["compute", "evaluation"])
def test_tf32_on_a_cpu_is_answered_in_a_sentence(section):
    config = tiny_config(**{f"{section}__precision": "tf32"})
    chosen = execution.training_execution if section == "compute" else execution.sampling_execution
    with pytest.raises(ValueError, match=rf"{section}\.precision is tf32, which only GPUs support"):
        chosen(config, CPU)


class NoFetching(TorchDispatchMode):
    """Rejects operations that make the host wait for a value from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "equal"), f"a step fetches: {name}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"micro_batch": "5"}])
@pytest.mark.parametrize("net", ["dit", "uvit", "unet"])
def test_a_step_fetches_nothing_from_the_device(net, settings):
    config, digits = config_of(net, **settings), sources.load_dataset("digits")
    state, diffusion = state_of(config), make_diffusion(config.diffusion)
    for i in range(2):
        batch = training_batch.draw_batch(config, digits, 10, i, 16 * i, 16)
        with NoFetching():
            trainer.train_step(state, config, diffusion, batch)
    with NoFetching(), pytest.raises(AssertionError, match="a step fetches"):
        float(torch.ones(()))


def images_of(net, **settings):
    overrides = {"evaluation__guidance": 3, "evaluation__sampler": "ddim", "evaluation__steps": 10, **settings}
    arch, args = NETS[net]
    config = tiny_config(arch, **{f"model__args__{k}": v for k, v in args.items()}, **overrides)
    net = state_of(config).net.eval().requires_grad_(False)
    ((_, images),) = generation.generate_batches(net, config, False, CPU, [torch.arange(4).numpy()])
    return images.astype(int)


@pytest.mark.parametrize("compile", ["blocks", pytest.param("graphs", marks=pytest.mark.slow)])
def test_compiled_samples_in_bf16_are_near_the_plain_ones(compile):
    plain = images_of("dit")
    same = images_of("dit", compute__compile=compile)
    near = images_of("dit", compute__compile=compile, evaluation__precision="bf16")
    assert abs(plain - same).max() <= 1
    assert 0 < abs(plain - near).mean() < 3 < plain.std()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_inductor_gives_the_loss_of_the_plain_step(monkeypatch, precision):
    monkeypatch.setattr(execution, "BACKEND", "inductor")
    plain, _ = two_losses(config_of("dit"))
    other, _ = two_losses(config_of("dit", compile="blocks", precision=precision, activation_checkpointing="blocks"))
    assert other == pytest.approx(plain, rel=1e-5 if precision == "fp32" else 2e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("compile", ["none", "blocks", "graphs"])
@pytest.mark.parametrize("net", ["dit", "uvit", "unet", "ldm"])
def test_gpu_step_keeps_the_loss_and_never_synchronizes(monkeypatch, net, compile):
    monkeypatch.setattr(execution, "BACKEND", "inductor")
    plain, _ = two_losses(config_of(net, "cuda", precision="fp32", compile="none"), CUDA)
    config = config_of(net, "cuda", compile=compile)
    fast, state = two_losses(config, CUDA)
    assert fast == pytest.approx(plain, rel=2e-2) and state.engine.precision == "bf16"
    batch = tuple(
        z.pin_memory() for z in training_batch.draw_batch(config, sources.load_dataset("digits"), 10, 2, 32, 16)
    )
    diffusion = make_diffusion(config.diffusion, CUDA)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with state.engine.running():
            trainer.train_step(state, config, diffusion, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_fp32_on_a_gpu_disables_tf32_and_restores_it():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with ExecutionSettings(device=CUDA, precision="fp32").running():
        assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
    with ExecutionSettings(device=CUDA, precision="bf16").running():
        assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
