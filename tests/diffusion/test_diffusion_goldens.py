"""Compare our functions with the goldens of ADM's, DiT's and iDDPM's processes.

The goldens of U-ViT and LDM are in test_solver_goldens.
"""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusion_cases import (
    CASES,
    cases,
    classifier,
    clean,
    differences,
    draws,
    golden,
    learned,
    network,
    noise,
    process,
)
from diffusion_reference import keep_x0
from helpers import replaced

from bench.config.schema import RunConfig
from bench.config.timestep_respacing import respaced_timesteps
from bench.diffusion import noise_schedules, samplers
from bench.diffusion.gaussian_diffusion import (
    GaussianDiffusion,
    approx_normal_cdf,
    clip_x0,
    discretised_log_likelihood,
    gaussian_kl,
)

TABLES = {
    "alphas_cumprod": "bar",
    "alphas_cumprod_prev": "bar_prev",
    "alphas_cumprod_next": "bar_next",
    "sqrt_alphas_cumprod": "signal",
    "sqrt_one_minus_alphas_cumprod": "noise",
    "log_one_minus_alphas_cumprod": "log_noise_variance",
    "sqrt_recip_alphas_cumprod": "inverse_signal",
    "sqrt_recipm1_alphas_cumprod": "inverse_noise",
    "posterior_variance": "posterior",
    "posterior_log_variance_clipped": "log_posterior",
    "posterior_mean_coef1": "mean_of_x0",
    "posterior_mean_coef2": "mean_of_xt",
}
SCHEDULES = {
    "adm_linear_1000": lambda: noise_schedules.betas("linear", 1000),
    "adm_cosine_1000": lambda: noise_schedules.betas("cosine", 1000),
    "dit_linear_1000": lambda: noise_schedules.betas("linear", 1000),
    "dit_squaredcos_cap_v2_1000": lambda: noise_schedules.betas("cosine", 1000),
    "adm_cosine_50": lambda: noise_schedules.betas("cosine", 50),
    "dit_linear_50": lambda: noise_schedules.betas("linear", 50),
    "quad_200": lambda: noise_schedules.root_linear(1e-4, 0.02, 200),
    "uvit_sd_1000": lambda: noise_schedules.betas("sqrt_linear", 1000),
    "ldm_cin_1000": lambda: noise_schedules.betas("ldm", 1000),
    "ldm_default_linear_1000": lambda: noise_schedules.root_linear(1e-4, 0.02, 1000),
    "ldm_cosine_1000": lambda: noise_schedules.betas("cosine", 1000),
    "ldm_sqrt_linear_1000": lambda: noise_schedules.betas("linear", 1000),
}


def test_every_golden_case_is_tested():
    kinds = {case["kind"] for case in CASES.values()}
    assert len(CASES) == 45 and kinds <= TESTED


def test_betas_and_their_products_are_the_published_ones():
    actual = {"adm_linear_4000__betas": noise_schedules.betas("linear", 4000)[::8]}
    for name, make in SCHEDULES.items():
        beta = make()
        actual |= {f"{name}__betas": beta, f"{name}__alphas_cumprod": torch.cumprod(1 - beta, 0)}
    assert differences("betas", actual) == []
    assert set(golden("betas")) - set(actual) == {
        "adm_linear_4000__alphas_cumprod"
    }  # the index lists no process for these


@pytest.mark.parametrize("name", cases("tables"))
def test_the_tables_of_a_process_are_the_published_ones(name):
    d = process(CASES[name])
    actual = {theirs: d.exact[ours] for theirs, ours in TABLES.items()}
    assert differences(name, {**actual, "betas": d.betas, "timestep_map": d.indices}) == []
    assert set(golden(name)) == {*TABLES, "betas", "timestep_map"}


@pytest.mark.parametrize(("i", "spec"), enumerate(CASES["spacing"]["specs"]), ids=str)
def test_a_respacing_keeps_the_published_timesteps(i, spec):
    indices = respaced_timesteps(*spec)
    beta = noise_schedules.respace_betas(noise_schedules.betas("linear", spec[0]), indices)
    assert differences("spacing", {f"steps_{i}": indices, f"map_{i}": indices, f"betas_{i}": beta}) == []


@pytest.mark.parametrize("spec", CASES["spacing"]["value_errors"], ids=str)
def test_a_respacing_that_cannot_be_is_refused(spec):
    with pytest.raises(ValueError, match="keep"):
        respaced_timesteps(*spec)


def start(name):
    """Return (case, process, t, x0, eps, x, network's output at x, network time) of a single-step case."""
    case = CASES[name]
    d, seeds = process(case), case["seeds"]
    t = torch.tensor(case["t"])
    x0, eps = clean(seeds["x_start"], case["shape"]), noise(seeds["noise"], case["shape"])
    x = seeds["x_scale"] * noise(seeds["x"], case["shape"])
    time = d.time(t)
    return case, d, t, x0, eps, x, network(x, time, learned(case)), time


@pytest.mark.parametrize("name", cases("one_step"))
def test_the_forward_process_is_the_published_one(name):
    _, d, t, x0, eps, x, _, time = start(name)
    xt = d.q_sample(x0, t, eps)
    actual = {
        "q_sample": xt,
        "q_mean": d.at("signal", t, x0) * x0,
        "q_variance": d._tables["noise_variance"][t],
        "q_log_variance": d._tables["log_noise_variance"][t],
        "q_post_mean": d.posterior_mean(x0, x, t),
        "q_post_variance": d._tables["posterior"][t],
        "q_post_log_variance_clipped": d._tables["log_posterior"][t],
        "model_t": time,
    }
    assert differences(name, actual) == []


@pytest.mark.parametrize("name", cases("one_step"))
def test_the_reverse_process_is_the_published_one(name):
    case, d, t, _, _, x, out, _ = start(name)
    actual = {}
    for clip, treat in ((1, clip_x0), (0, keep_x0)):
        p = d.p_mean_variance(out, x, t, treat)
        actual |= {f"p_mean_clip{clip}": p.mean, f"p_variance_clip{clip}": p.variance}
        actual |= {f"p_log_variance_clip{clip}": p.log_variance, f"p_pred_xstart_clip{clip}": p.pred_x0}
        actual[f"p_sample_clip{clip}"] = d.ancestral_step(out, x, t, draws(case)(), treat)
    actual["p_pred_xstart_denoised_half"] = d.p_mean_variance(out, x, t, lambda x0: clip_x0(x0 / 2)).pred_x0
    actual["ddim_reverse"] = d.ddim_reverse_step(out, x, t)
    assert differences(name, actual) == []


@pytest.mark.parametrize("name", [n for n in cases("one_step") if "p_sample_cond" in golden(n)])
def test_classifier_guidance_is_the_published_one(name, monkeypatch):
    case, d, t, _, _, x, out, time = start(name)
    gradient = classifier(x, time)
    sampled = d.ancestral_step(out, x, t, draws(case)(), keep_x0, gradient)
    eps = d.classifier_guided_noise(out, x, t, gradient)
    stepped = by_diffusers(case, d, DDIMScheduler, eps, x, clip=False, eta=case["seeds"]["ddim_cond_eta"])
    assert differences(name, {"p_sample_cond": sampled, "ddim_cond": stepped}) == []


def by_diffusers(case, d, kind, out, x, *, clip, eta=0.0):
    """Run a step of each image, at its own timestep, with the scheduler that our samplers use."""
    types = {"LEARNED_RANGE": "learned_range", "FIXED_LARGE": "fixed_large"}
    variance = dict(variance_type=types.get(case["var_type"], "fixed_small")) if kind is DDPMScheduler else {}
    predicts = "epsilon" if d.predicts == "noise" or out.shape[1] < x.shape[1] else "sample"
    scheduler = samplers.make_respaced_scheduler(kind, d, clip=clip, prediction_type=predicts, **variance)
    z, rows = draws(case)(), []
    for i, t in enumerate(case["t"]):
        one = slice(i, i + 1)
        if kind is DDIMScheduler:
            more = dict(eta=eta, use_clipped_model_output=True, variance_noise=z[one] if eta else None)
            rows.append(scheduler.step(out[one, : x.shape[1]], t, x[one], **more).prev_sample)
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, one=one, **k: z[one])
                rows.append(scheduler.step(out[one], t, x[one]).prev_sample)
    return torch.cat(rows)


@pytest.mark.parametrize("name", cases("one_step"))
def test_the_samplers_steps_are_the_published_ones(name):
    case, d, _, _, _, x, out, _ = start(name)
    actual = {f"p_sample_clip{c}": by_diffusers(case, d, DDPMScheduler, out, x, clip=bool(c)) for c in (0, 1)}
    for eta in case["seeds"]["eta_cases"]:
        actual[f"ddim_eta{eta}"] = by_diffusers(case, d, DDIMScheduler, out, x, clip=False, eta=eta)
    actual["ddim_eta0.0_clip1"] = by_diffusers(case, d, DDIMScheduler, out, x, clip=True)
    assert differences(name, actual) == []


def test_diffusers_own_tables_would_not_do():
    case, d, _, _, _, x, out, _ = start("step_dit_default")
    scheduler = DDPMScheduler(trained_betas=d.betas.numpy(), variance_type="learned_range", clip_sample=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: draws(case)()[1:2])
        actual = scheduler.step(out[1:2], 1, x[1:2]).prev_sample
    assert (actual - golden("step_dit_default")["p_sample_clip0"][1:2]).abs().max() > 1e-4


@pytest.mark.parametrize("name", cases("one_step"))
def test_the_losses_are_the_published_ones(name):
    case, d, t, x0, eps, _, _, time = start(name)
    xt = d.q_sample(x0, t, eps)
    out = network(xt, time, learned(case))
    actual = {f"loss_{term}": value for term, value in d.losses(out, x0, xt, t, eps).items()}
    if (d.predicts, d.objective) == ("noise", "hybrid") and (learned(case) or d.fixed == "small"):
        trained = GaussianDiffusion(d.schedule, d.full_steps, time=d.time_type, indices=d.indices.tolist())
        losses = trained.losses(out, x0, xt, t, eps)
        assert {f"loss_{term}" for term in losses} == set(actual)
        assert all(torch.equal(losses[term], actual[f"loss_{term}"]) for term in losses)
    assert set(actual) == {term for term in golden(name) if term.startswith("loss_")}
    for clip, transform in ((1, clip_x0), (0, keep_x0)):
        actual[f"vb_bits_clip{clip}"] = d.variational_bound(d.p_mean_variance(out, xt, t, transform), x0, xt, t)
    assert differences(name, {**actual, "prior_bpd": d.prior_bound(x0)}) == []


def traced(case, d, run):
    """Run a sampling loop; return its samples and predictions of x_0 at the steps in the golden."""
    seen, times, cleans, treat = [], [], [], clip_x0 if case["clip_denoised"] else keep_x0

    def model(x, count):
        i = len(times)
        time = noise_schedules.network_time("index", torch.tensor(count), 1000)
        out = network(x, time, learned(case))
        cleans.append(d.p_mean_variance(out, x, torch.full((len(x),), d.steps - 1 - i), treat).pred_x0)
        seen.append(x)
        times.append(int(time))
        return out

    last = run(model)
    keep = golden(case["id"])["kept_steps"]
    samples, cleans = torch.stack([*seen[1:], last]), torch.stack(cleans)
    return {"samples": samples[keep], "pred_xstart": cleans[keep], "model_t": torch.tensor(times)}


LOOPS = [n for n in cases("loop") if learned(CASES[n]) and not CASES[n]["cond"]]


@pytest.mark.parametrize("name", LOOPS)
def test_a_configured_samplers_whole_loop_is_the_published_one(name, monkeypatch):
    case = CASES[name]
    draw = draws(case)
    for module in ("ddpm", "ddim"):
        monkeypatch.setattr(f"diffusers.schedulers.scheduling_{module}.randn_tensor", lambda *a, **k: draw())
    sampler = "ddim" if case["sampler"] == "ddim" else "ddpm"
    config = replaced(
        RunConfig(), "diffusion", schedule=case["settings"].get("noise_schedule", "linear"), variance="learned_range"
    )
    choice = dict(sampler=sampler, eta=case["eta"], steps=case["num_steps"], clip=case["clip_denoised"], spacing="adm")
    config = replaced(config, "evaluation", **choice)
    x = noise(case["seeds"]["x_T"], case["shape"])
    actual = traced(case, process(case), lambda model: samplers.SAMPLERS[sampler](model, config, x, []))
    assert differences(name, actual) == []


@pytest.mark.parametrize("name", [n for n in cases("loop") if CASES[n]["sampler"] == "ancestral"])
def test_our_own_ancestral_loop_is_the_published_one(name):
    case = CASES[name]
    d, draw, treat = process(case), draws(case), clip_x0 if case["clip_denoised"] else keep_x0

    def run(model):
        x = noise(case["seeds"]["x_T"], case["shape"])
        for t in reversed(range(d.steps)):
            t_B = torch.full((len(x),), t)
            gradient = classifier(x, d.time(t_B)) if case["cond"] else None
            x = d.ancestral_step(model(x, int(d.indices[t]) + 1), x, t_B, draw(), treat, gradient)
        return x

    actual = traced(case, d, run)
    assert differences(name, actual) == []


def test_the_bound_over_all_steps_is_the_published_one():
    (name,) = cases("bpd_loop")
    case = CASES[name]
    d = process(case)
    actual = d.full_bound(
        lambda x, t: network(x, t, learned=True), clean(case["seeds"]["x_start"], case["shape"]), draws(case)
    )
    actual = {{"total": "total_bpd", "prior": "prior_bpd"}.get(k, k): v for k, v in actual.items()}
    assert differences(name, actual) == [] and set(actual) == set(golden(name))


def test_likelihood_and_kl_are_the_published_ones():
    (name,) = cases("likelihood")
    s, x = CASES[name]["seeds"], torch.from_numpy(golden(name)["x"])
    mean, log_scale = 0.5 * noise(s["mean"], x.shape), -1.5 + noise(s["log_scale"], x.shape)
    zero = torch.zeros(())
    actual = {
        "log_likelihood": discretised_log_likelihood(x, mean, log_scale),
        "kl": gaussian_kl(mean, log_scale, x, 0.3 * noise(s["logvar2"], x.shape)),
        "kl_scalar": gaussian_kl(mean, log_scale, zero, zero),
        "cdf": approx_normal_cdf(torch.from_numpy(golden(name)["cdf_in"])),
    }
    assert differences(name, actual) == []


TESTED = {
    *("betas", "tables", "spacing", "one_step", "loop", "bpd_loop", "likelihood", "ldm_ddim"),
    *("uvit_schedule", "uvit_loss", "uvit_noise_schedule", "uvit_dpm_solver", "uvit_dpm_solver_continuous"),
    *("uvit_vpsde", "uvit_vpsde_loss", "uvit_euler_maruyama"),
}
