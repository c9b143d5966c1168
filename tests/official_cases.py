"""Golden cases of the published networks: seeded weights and inputs, tolerances, comparison.

Weights of a case with seed s: z = RandomState(crc32(key) XOR s).standard_normal(shape) in float32;
tables 0.5 z, matrices z / sqrt(fan-in), norm scales 1 + 0.02 z, other vectors 0.02 z.  DiT's position
table keeps the value that the model computes.
"""

import gzip
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from architectures import from_official, official_layout
from architectures.embeddings import sincos_2d

ROOT = Path(__file__).parent / "goldens" / "official"
INDEX = json.loads((ROOT / "forward.json").read_text())
CASES = {case["id"]: case for case in INDEX["cases"]}
ARRAYS = np.load(ROOT / "forward.npz")
MODELS = {model["name"]: model for model in json.loads(gzip.decompress((ROOT / "keys.json.gz").read_bytes()))}
TABLES = ("pos_embed", "embedding_table.weight", "label_emb.weight", "embedding.weight")


def ctor_of(case):
    """Return the published constructor's arguments; `cls` names the class of the upsamplers."""
    return case["ctor"] | ({"cls": case["cls"]} if case["cls"] == "SuperResModel" else {})


def noise(seed, shape):
    return np.random.RandomState(seed & 0xFFFFFFFF).standard_normal(tuple(shape)).astype(np.float32)


def fill(key, shape, seed):
    z = noise(zlib.crc32(key.encode()) ^ seed, shape)
    if key.endswith(TABLES):
        return z * np.float32(0.5)
    if z.ndim >= 2:
        return z * np.float32(1 / np.sqrt(np.prod(shape[1:])))
    return np.float32(key.endswith(".weight")) + np.float32(0.02) * z


def weights(family, layout, seed, scale=()):
    """Build the published state dict of a case; `scale` lists (substring of the key, factor)."""
    state = {}
    for key, shape in layout.items():
        if family == "dit" and key == "pos_embed":
            grid = math.isqrt(shape[1])
            value = sincos_2d(shape[2], grid, grid)[None]
        else:
            value = torch.from_numpy(fill(key, shape, seed))
        for part, factor in scale:
            value = value * np.float32(factor).item() if part in key else value
        state[key] = value
    return state


def inputs(case):
    """Return the input tensors by published name, with `noise` and `target` if the case has them."""
    tensors = {}
    for name, recipe in case["inputs"].items():
        if "values" in recipe:
            value = np.array(recipe["values"], dtype=recipe["dtype"])
        elif "class_embedding" in recipe:
            table = recipe["class_embedding"]
            value = fill(table["key"], table["shape"], table["seed"])[table["labels"]][:, None]
        else:
            value = noise(recipe["seed"], recipe.get("shape") or ARRAYS[f"{case['id']}/out"].shape)
        assert "crc32" not in recipe or zlib.crc32(value.tobytes()) == recipe["crc32"], f"{name} is not the case's"
        tensors[name] = torch.from_numpy(value)
    if case["family"] != "dit":
        tensors["timesteps"] = tensors.pop("t")
    if "effective_labels" in case:
        tensors["y"] = torch.tensor(case["effective_labels"])
    return tensors


def differences(case, got):
    """Describe each tensor in `got` (name -> tensor) that differs from the golden by more than its tolerance."""
    wrong = []
    for name, value in got.items():
        want = torch.from_numpy(ARRAYS[f"{case['id']}/{name}"]).double()
        value = value.detach().double()
        assert value.shape == want.shape, f"{name} is {tuple(value.shape)}, should be {tuple(want.shape)}"
        if name == "out":
            off, most = (value - want).abs().max().item(), case["atol"]
        elif name == "grad_x":
            off, most = ((value - want).abs().max() / want.abs().max()).item(), 1e-3
        else:
            off, most = ((value - want).abs() / (1e-3 + want.abs())).max().item(), 1e-4
        if not off <= most:
            wrong.append(f"{name} is off by {off:.2g}, tolerance {most:.2g}")
    return wrong


def timestep_tolerance(times, width):
    """Bound the difference (B, width) of two float32 timestep tables whose exp, cos and sin round differently.

    The last column of an odd width, which is zero, is left out.

    The exponents -ln(10000) i / half are one product and one quotient, which all processors round alike.
    exp gives one of the two float32 next to the exact frequency f, and the choice depends on the processor,
    so two frequencies differ by at most ulp(f).  The argument t f then differs by t ulp(f), and by ulp(t f)
    for the rounding of two products, half a unit each.  The slope of cos and sin is at most 1.  Both are
    within one unit in the last place, 2^-24 for values below 1, which makes 2^-23 for two tables.
    Measured with MKL's exp for SSE4.2, AVX2 and AVX-512: half of this.
    """
    half = width // 2
    exponents = np.float32(-math.log(10_000)) * np.arange(half, dtype=np.float32) / np.float32(half)
    freqs = np.exp(exponents.astype(np.float64))
    t = np.asarray(times, dtype=np.float64)[:, None]
    args = t * np.spacing(freqs.astype(np.float32)) + np.spacing((t * freqs).astype(np.float32))
    return np.concatenate([args, args], axis=1) + 2**-23


def gradient_differences(case, grads):
    """Describe each gradient (by published key) whose sum of squares or projection on a fixed direction differs.

    Some gradients are zero up to rounding, so there is a floor relative to the largest.
    """
    keys, squares, probes = (ARRAYS[f"{case['id']}/grad_{part}"] for part in ("keys", "sumsq", "probe"))
    assert sorted(keys) == sorted(grads), f"gradients of other keys: {sorted(set(keys) ^ set(grads))[:5]}"
    floor, wrong = 1e-7 * squares.max(), []
    for key, square, probe in zip(map(str, keys), squares, probes, strict=True):
        grad = grads[key].double().numpy()
        random = np.random.RandomState(zlib.crc32(f"probe:{key}".encode()))
        projection = (grad * random.standard_normal(grad.shape)).sum() / np.sqrt(grad.size)
        if abs((grad**2).sum() - square) > 1e-3 * square + 10 * floor * (square < floor):
            wrong.append(f"square sum of {key} is {(grad**2).sum():.6g}, should be {square:.6g}")
        if abs(projection - probe) > 1e-3 * np.sqrt(max(square, 10 * floor)):
            wrong.append(f"projection of {key} is {projection:.6g}, should be {probe:.6g}")
    return wrong


def dit_guided(call, scale, x, t, y):
    """DiT's guidance: both halves take the first half of x; the first three channels of both are guided."""
    half = x[: len(x) // 2]
    out = call(x=torch.cat([half, half]), t=t, y=y)
    with_label, without = out[:, :3].chunk(2)
    guided = without + scale * (with_label - without)
    return torch.cat([torch.cat([guided, guided]), out[:, 3:]], dim=1)


def uvit_guided(call, scale, null, x, timesteps, y):
    """U-ViT's guidance: eps + scale (eps - eps_null)."""
    with_label = call(x=x, timesteps=timesteps, y=y)
    return with_label + scale * (with_label - call(x=x, timesteps=timesteps, y=torch.full_like(y, null)))


def uvit_loss(call, x, timesteps, y, noise):
    """U-ViT's discrete loss per image: the square root of beta is linear, step 0 is the clean image."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha_bar = np.cumprod(1 - np.append(0.0, betas))
    a, b = (torch.from_numpy(s**0.5)[timesteps][:, None, None, None].float() for s in (alpha_bar, 1 - alpha_bar))
    return (call(x=a * x + b * noise, timesteps=timesteps, y=y) - noise).square().mean(dim=(1, 2, 3))


def _betas(kind):
    if kind == "linear":
        return np.linspace(1e-4, 0.02, 1000)
    bar = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - bar[1:] / bar[:-1], 0.999)


def learned_variance_loss(call, schedule, x, t, noise, **labels):
    """iDDPM's hybrid loss per image (arXiv:2102.09672): MSE of the noise, and the bound in bits for the variance."""
    betas = _betas(schedule)
    bar = np.cumprod(1 - betas)
    before = np.append(1.0, bar[:-1])
    posterior = betas * (1 - before) / (1 - bar)

    def at(values):
        return torch.from_numpy(values)[t].float()[:, None, None, None]

    x_t = at(bar**0.5) * x + at((1 - bar) ** 0.5) * noise
    eps, fraction = call(x=x_t, t=t, **labels).chunk(2, dim=1)
    smallest, largest = at(np.log(np.append(posterior[1], posterior[1:]))), at(np.log(betas))
    log_variance = smallest + (fraction + 1) / 2 * (largest - smallest)
    towards = at(betas * before**0.5 / (1 - bar)), at((1 - before) * (1 - betas) ** 0.5 / (1 - bar))
    clean = at(bar**-0.5) * x_t - at((1 / bar - 1) ** 0.5) * eps.detach()
    mean, true_mean = (towards[0] * z + towards[1] * x_t for z in (clean, x))
    ratio = smallest - log_variance
    kl = 0.5 * (-1 - ratio + ratio.exp() + (true_mean - mean).square() * (-log_variance).exp())
    bound = torch.where(t[:, None, None, None] == 0, -_log_likelihood(x, mean, 0.5 * log_variance), kl)
    mse, vb = (eps - noise).square().mean(dim=(1, 2, 3)), bound.mean(dim=(1, 2, 3)) / math.log(2)
    return {"term_mse": mse, "term_vb": vb, "term_loss": mse + vb}


def _log_likelihood(x, mean, log_scale):
    """Log-likelihood of values in 255 steps from -1 to 1 under a Gaussian, with tanh approximating erf."""
    above, below = (
        0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
        for z in ((x - mean + step) * (-log_scale).exp() for step in (1 / 255, -1 / 255))
    )
    inner = torch.where(x > 0.999, 1 - below, above - below)
    return torch.where(x < -0.999, above, inner).clamp(min=1e-12).log()


def network(case, **more):
    layout = official_layout(case["family"], **ctor_of(case))
    state = weights(case["family"], layout, case["weight_seed"], case.get("scale", ()))
    return from_official(case["family"], state, **case["ctor"], **more)


def layout_of(model):
    return {key: tuple(shape) for key, shape in model["state_dict"]}


def on_meta(layout):
    return {key: torch.empty(shape, device="meta") for key, shape in layout.items()}


HIDDEN = ("num_heads", "num_head_channels", "num_heads_upsample", "use_new_attention_order", "num_clip_token")


def hidden_of(case):
    """The arguments that keys and shapes do not show."""
    return {name: value for name, value in case["ctor"].items() if name in HIDDEN}


def state_of(case):
    layout = official_layout(case["family"], **ctor_of(case))
    return weights(case["family"], layout, case["weight_seed"], case.get("scale", ()))
