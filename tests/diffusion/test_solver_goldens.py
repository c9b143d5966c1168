"""Compare our functions with the goldens of U-ViT's and LDM's processes and solvers."""

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler
from diffusion_cases import CASES, cases, difference, differences, draws, golden, network, noise
from diffusion_reference import drift, euler_ode, posterior_variance, transition
from helpers import replaced

from bench.config.schema import RunConfig
from bench.diffusion import dpm_solver, noise_schedules, samplers
from bench.diffusion.gaussian_diffusion import GaussianDiffusion


def sd_betas():
    return noise_schedules.betas("sqrt_linear", 1000)


def test_uvits_discrete_schedule_is_the_published_one():
    (name,) = cases("uvit_schedule")
    expected, beta, all_counts = golden(name), sd_betas(), torch.arange(1001)
    alpha, noisy = transition(beta, torch.zeros(1, dtype=torch.long), all_counts)
    rows = [transition(beta, torch.tensor(row), all_counts) for row in expected["rows"]]
    s, t = torch.from_numpy(expected["pairs"]).T
    actual = {
        "betas_input": beta,
        "betas": transition(beta, (all_counts - 1).clamp(min=0), all_counts)[1],
        "cum_alphas": alpha,
        "cum_betas": noisy,
        "skip_alphas_rows": torch.stack([a for a, _ in rows]),
        "skip_betas_rows": torch.stack([b for _, b in rows]),
        "tilde_beta_pairs": posterior_variance(beta, s, t),
    }
    assert differences(name, actual) == []


def test_uvits_discrete_loss_is_the_published_one():
    (name,) = cases("uvit_loss")
    case = CASES[name]
    d = GaussianDiffusion("sqrt_linear", 1000, time="count")
    x0, eps = noise(case["seeds"]["x0"], case["shape"]), noise(case["seeds"]["noise"], case["shape"])
    t = torch.from_numpy(golden(name)["n"]) - 1
    xt, time = d.q_sample(x0, t, eps), d.time(t)
    actual = {"xn": xt, "model_t": time, "loss": d.loss(network(xt, time), x0, xt, t, eps)}
    assert differences(name, actual) == []


def test_uvits_interpolated_schedule_is_the_published_one():
    (name,) = cases("uvit_noise_schedule")
    expected, levels = golden(name), noise_schedules.noise_levels("sqrt_linear", 1000)
    log_alpha = levels.log_alpha(torch.from_numpy(expected["t"]))
    actual = {
        "log_alpha": log_alpha,
        "alpha": log_alpha.exp(),
        "sigma": noise_schedules.sigma(log_alpha),
        "lam": noise_schedules.half_log_snr(log_alpha),
        "t_of_lam": levels.inverse(torch.from_numpy(expected["lam_in"])),
    }
    assert differences(name, actual) == []


def called(times, config):
    """Return (model of (x, count), list of its inputs x); network times are appended to `times`."""
    seen = []

    def model(x, count):
        time = noise_schedules.network_time(
            config.diffusion.time, torch.tensor(count, dtype=torch.float64), 1000
        ).float()
        times.append(time)
        seen.append(x)
        return network(x, time)

    return model, seen


def solver_config(schedule_name, time, sampler, steps):
    config = replaced(RunConfig(), "diffusion", schedule=schedule_name, time=time)
    return replaced(config, "evaluation", sampler=sampler, steps=steps, clip=False)


@pytest.mark.parametrize("name", cases("uvit_dpm_solver"))
def test_uvits_dpm_solver_is_the_published_one(name):
    case, times = CASES[name], []
    steps = case["settings"]["steps"]
    config = solver_config("sqrt_linear", "count", "dpm-fast", steps)
    model, seen = called(times, config)
    out = samplers.sample_dpm_fast(model, config, noise(case["seeds"]["z"], case["shape"]), [])
    actual = {
        "out": out,
        "orders": dpm_solver.solver_orders(steps),
        "grid": dpm_solver.solver_times(noise_schedules.noise_levels("sqrt_linear", 1000), steps, "time", 1e-3),
        "model_t": torch.stack(times),
        "model_x": torch.stack(seen)[golden(name)["kept_calls"]],
    }
    assert differences(name, actual) == [] and len(times) == case["nfe"]


@pytest.mark.parametrize("name", cases("uvit_dpm_solver_continuous"))
def test_uvits_continuous_dpm_solver_is_the_published_one(name):
    case, times = CASES[name], []
    steps = case["settings"]["steps"]
    config = solver_config("vp", "continuous", "dpm-fast", steps)
    model, _ = called(times, config)
    out = samplers.sample_dpm_fast(model, config, noise(case["seeds"]["x_init"], case["shape"]), [])
    outer = np.cumsum([0, *dpm_solver.solver_orders(steps)])
    actual = {
        "out": out,
        "orders": dpm_solver.solver_orders(steps),
        "timesteps": dpm_solver.solver_times(noise_schedules.VPSDE(), steps, "snr", 1e-4)[outer],
        "model_t": torch.stack(times),
    }
    assert differences(name, actual) == []


NEAREST = {DPMSolverSinglestepScheduler: 1e-3, DPMSolverMultistepScheduler: 5e-3}


@pytest.mark.parametrize("kind", NEAREST)
def test_diffusers_dpm_solvers_of_order_three_are_not_uvits(kind):
    case = CASES["uvit_dpm_solver_50"]
    scheduler = kind(trained_betas=sd_betas().numpy(), solver_order=3, final_sigmas_type="sigma_min")
    times = torch.linspace(1000, 1, 51, dtype=torch.float64)[:-1].round().long() - 1
    scheduler.set_timesteps(timesteps=times.tolist())
    x = noise(case["seeds"]["z"], case["shape"])
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t + 1), t, x).prev_sample
    distance = np.abs(x.numpy() - golden(case["id"])["out"]).max()
    assert NEAREST[kind] < distance < 0.05 and difference(case, "out", x.numpy(), golden(case["id"])["out"])


def test_the_vp_process_is_the_published_one():
    (name,) = cases("uvit_vpsde")
    case, sde = CASES[name], noise_schedules.VPSDE()
    t = torch.from_numpy(golden(name)["t"])
    log_alpha = sde.log_alpha(t)
    alpha2, sigma2 = (2 * log_alpha).exp(), noise_schedules.sigma(log_alpha) ** 2
    actual = {"cum_alpha": alpha2, "cum_beta": sigma2, "snr": alpha2 / sigma2, "nsr": sigma2 / alpha2}
    actual |= {"squared_diffusion": sde.beta(t), "drift": drift(sde, noise(case["seeds"]["x"], case["shape"]), t)}
    assert differences(name, actual) == []


def test_the_vp_loss_and_score_are_the_published_ones():
    (name,) = cases("uvit_vpsde_loss")
    case = CASES[name]
    d = GaussianDiffusion("vp", 1000, time="continuous")
    x0, eps = noise(case["seeds"]["x0"], case["shape"]), noise(case["seeds"]["noise"], case["shape"])
    t = torch.from_numpy(golden(name)["t"])
    xt, time = d.q_sample(x0, t, eps), d.time(t)
    log_alpha = noise_schedules.VPSDE().log_alpha(t).view(-1, 1, 1, 1)
    at_x0 = network(x0, time)  # the published run evaluated these two at the clean images
    actual = {
        "model_t": time,
        "loss": d.loss(network(xt, time), x0, xt, t, eps),
        "score": dpm_solver.score(at_x0, log_alpha),
        "x0_pred": dpm_solver.pred_x0(at_x0, x0, log_alpha),
    }
    assert differences(name, actual) == []


@pytest.mark.parametrize("name", cases("uvit_euler_maruyama"))
def test_uvits_euler_maruyama_is_the_published_one(name):
    case, times = CASES[name], []
    s = case["settings"]
    config = solver_config("vp", "continuous", "euler-sde", s["sample_steps"])
    model, seen = called(times, config)
    x = noise(case["seeds"]["x_init"], case["shape"])
    arguments = (samplers.noise_predictor(model, config), noise_schedules.VPSDE(), x, s["sample_steps"])
    last = dpm_solver.euler_maruyama(*arguments, draws(case)) if s["kind"] == "sde" else euler_ode(*arguments)
    assert differences(name, {"trace": torch.stack([*seen, last]), "model_t": torch.stack(times)}) == []


@pytest.mark.parametrize("name", cases("ldm_ddim"))
def test_ldms_ddim_is_the_published_one(name, monkeypatch):
    case = CASES[name]
    s, draw, seen, times = case["settings"], draws(case), [], []
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddim.randn_tensor", lambda *a, **k: draw())
    config = replaced(RunConfig(), "diffusion", schedule="ldm")
    config = replaced(config, "evaluation", sampler="ddim", spacing="ldm", eta=s["eta"], steps=s["ddim_steps"])

    def labelled(x, t, cond):
        return network(x, t) + 0.01 * cond.view(-1, 1, 1, 1)

    scale = s["guidance_scale"] or 1.0
    net = samplers.guide(labelled, scale, null=0)
    x = noise(case["seeds"]["x_T"], case["shape"])
    labels = torch.arange(1, len(x) + 1) if s["guidance_scale"] else torch.zeros(len(x), dtype=torch.long)

    def model(x, count):
        seen.append(x)
        times.append(count - 1)
        return net(x, torch.full((len(x),), float(count - 1)), labels)

    last = samplers.sample_ddpm_or_ddim(model, config, x, [])
    keep = golden(name)["kept_steps"]
    scheduler, _ = samplers.make_scheduler(config)
    t = scheduler.timesteps.flip(0)
    bar = scheduler.alphas_cumprod[t]
    before = torch.cat([scheduler.final_alpha_cumprod.view(1), bar[:-1]])
    actual = {
        "samples": torch.stack([*seen[1:], last])[keep],
        "ddim_timesteps": t,
        "model_t": torch.tensor(times),
        "ddim_alphas": scheduler.alphas_cumprod[t],
        "ddim_alphas_prev": before,
        "ddim_sigmas": s["eta"]
        * ((1 - before) / (1 - scheduler.alphas_cumprod[t]) * (1 - scheduler.alphas_cumprod[t] / before)).sqrt(),
    }
    assert differences(name, actual) == []
