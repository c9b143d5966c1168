"""Golden cases of the published diffusion processes: seeded inputs, and comparison."""

import io
import json
import lzma
from pathlib import Path

import numpy as np
import torch
from diffusion_reference import ReferenceDiffusion

from bench.config.timestep_respacing import respaced_timesteps

ROOT = Path(__file__).parent / "goldens" / "diffusion"
INDEX = json.loads((ROOT / "index.json").read_text())
CASES = {case["id"]: case for case in INDEX["cases"]}
with np.load(io.BytesIO(lzma.decompress((ROOT / "arrays.npz.xz").read_bytes()))) as _arrays:
    ARRAYS = {name: _arrays[name] for name in _arrays.files}


def cases(kind):
    """Return the names of the cases of a kind."""
    return [name for name, case in CASES.items() if case["kind"] == kind]


def golden(name):
    """Return {array name: array} of a case."""
    return {k.partition("/")[2]: v for k, v in ARRAYS.items() if k.startswith(f"{name}/")}


def noise(seed, shape):
    return torch.from_numpy(np.random.RandomState(seed & 0xFFFFFFFF).standard_normal(tuple(shape)).astype(np.float32))


def clean(seed, shape):
    return (0.8 * noise(seed, shape)).clamp(-1, 1)


def draws(case):
    """Return a function that yields the next noise tensor of a case at each call."""
    count = iter(range(10**6))
    return lambda: noise(case["seeds"]["sampler_noise_seed0"] + next(count), case["shape"])


def network(x, t, learned=False):
    """Stand-in for the network."""
    t = torch.as_tensor(t).float()
    eps = 0.1 * x + 0.01 * (t.view(-1, *[1] * (x.dim() - 1)) if t.dim() else t) / 1000
    return torch.cat([eps, torch.tanh(x)], dim=1) if learned else eps


def classifier(x, t):
    """Stand-in for the gradient of a classifier."""
    return -0.05 * x + 0.002 * t.float().view(-1, *[1] * (x.dim() - 1)) / 1000


def learned(case):
    return case.get("var_type", "LEARNED_RANGE") == "LEARNED_RANGE"


def process(case):
    """Build our process with the published settings of a case."""
    s = case["settings"]
    steps = s.get("steps", 1000)
    return ReferenceDiffusion(
        s.get("noise_schedule", "linear"),
        steps,
        time="rescaled" if s.get("rescale_timesteps") else "index",
        indices=respaced_timesteps(steps, s.get("timestep_respacing", "")),
        predicts="clean" if s.get("predict_xstart") else "noise",
        fixed="large" if case.get("var_type") == "FIXED_LARGE" else "small",
        objective="bound" if s.get("use_kl") else "rescaled" if s.get("rescale_learned_sigmas") else "hybrid",
    )


def differences(name, got):
    """Describe each array in `got` (name -> array or tensor) that differs by more than its tolerance."""
    want = golden(name)
    assert set(got) <= set(want), f"no golden arrays {set(got) - set(want)}"
    messages = [difference(CASES[name], k, np.asarray(v), want[k]) for k, v in got.items()]
    return [message for message in messages if message]


EXP_BELOW_ONE = 0.5 * 2**-24 / np.log(2)
"""Bits (4.3e-8) that another processor's exp may add to the prior's KL, 0.5 (-1 - l + exp(l) + m^2) in float32.

The log variance l of the last timestep is about -5e-5, so exp(l) is one of two float32 that are 2^-24 apart, and the
choice depends on the processor.  The other operations are single sums and products, which all round alike.  l is the
same for every entry, so the mean over the entries does not make the difference smaller.  The cosine schedule's
l is above -1e-8, so every exp rounds to 1; the index lists no tolerance for it, so nothing is added.
"""


def difference(case, name, got, want):
    """A message, or None: |got - want| <= tol (u + |want|), u = min(1, rms of the finite entries of want).

    `prior_bpd` is about 1e-5 bits, a sum of terms near 1.  If the case has a tolerance for it, EXP_BELOW_ONE is added.
    """
    if got.shape != want.shape:
        return f"{name} is {got.shape}, should be {want.shape}"
    if want.dtype.kind in "iub":
        return None if np.array_equal(got, want) else f"{name}: integers differ"
    g, w = got.astype(np.float64), want.astype(np.float64)
    if not np.array_equal(np.isnan(g), np.isnan(w)):
        return f"{name}: NaN at other entries"
    finite = w[np.isfinite(w)]
    unit = min(1.0, float(np.sqrt((finite**2).mean()))) if finite.size else 1.0
    with np.errstate(invalid="ignore"):
        away, most = np.abs(g - w), case.get("tol", {}).get(name, 2e-5) * (unit + np.abs(w))
        if name == "log_likelihood":
            away, most = np.abs(np.exp(g) - np.exp(w)), 1e-6
        elif name == "prior_bpd" and name in case.get("tol", {}):
            most += EXP_BELOW_ONE
        elif name not in case.get("tol", {}) and want.dtype == np.float64:
            most = 1e-9 * np.abs(w) + 1e-13
        wrong = ~((g == w) | (away <= most) | np.isnan(w))
    return f"{name}: {wrong.sum()} of {w.size} entries off, by up to {away[wrong].max():.3g}" if wrong.any() else None
