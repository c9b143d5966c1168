"""Noise schedules, the diffusion process that is trained, and samplers.

Read gaussian_diffusion.py first.

noise_schedules.py     betas, continuous noise levels, the time input of a network
gaussian_diffusion.py  forward process, posterior, training losses
samplers.py            samplers by name, and classifier-free guidance
dpm_solver.py          U-ViT's DPM-Solver and Euler-Maruyama, which diffusers lacks
"""
