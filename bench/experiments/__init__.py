"""Experiments: recipes, presets, suites and published checkpoints, and the way from a request to a RunConfig.

Read resolve.py first; README.md describes recipes, checkpoints and equal cost.  presets: defaults by data set,
and published processes; recipes: training recipes with their sources; suites: named grids of runs;
pretrained_weights: reading of published checkpoint files.
"""
