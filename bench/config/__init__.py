"""Configuration of a run: its settings, their validation, and the comparison of two runs.  Imports no torch.

Read schema.py first: every setting with its unit and default.
overrides.py reads a configuration and applies `--set`; validation.py turns pydantic's errors into sentences;
fields.py lists settings for --help; identity.py compares configurations; metric_specs.py names the metrics;
seeds.py, naming.py and timestep_respacing.py hold single functions.
"""
