"""The flags of bench.run.  Imports no torch."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from bench.cluster.local_queue import CLUSTERS
from bench.experiments import suites
from bench.runs.listing import describe_settings
from bench.terminal.cli import CommandParser, WideHelp, non_empty


def run_parser(description: str) -> CommandParser:
    """Return the parser of bench.run; its help ends with every setting of --set."""
    p = CommandParser(prog="python -m bench.run", description=description, epilog=describe_settings(), add_help=False)
    p.formatter_class = WideHelp
    _add_selection(p.add_argument_group("what to run"))
    _add_rules(p.add_argument_group("recipe, cost and settings"))
    _add_execution(p.add_argument_group("execution"))
    information = p.add_argument_group("information")
    information.add_argument("--list", action="store_true", help="architectures, sizes, data sets and suites")
    information.add_argument("-h", "--help", action="help", help="this page")
    return p


def _add_selection(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    name: dict[str, Any] = dict(metavar="NAME", type=non_empty)
    add("--arch", **name, help="a name of --list or package.module:Class (default: dit)")
    add("--size", **name, help="a size of the architecture (default: nano, or matched)")
    add("--data", **name, help="data set or path (default: the paper's, or digits)")
    add("--suite", metavar="NAME", help=f"a named grid of runs: {', '.join(suites.SUITES)}")
    add("--scale", choices=get_args(suites.Scale), help="scale of a suite (default: digits)")
    add("--seeds", type=int, metavar="N", help="seeds per variant of a suite (default: 3; 1 at paper scale)")
    about = "published weights: sample and evaluate them, train nothing"
    add("--checkpoint", metavar="FILE", type=non_empty, help=about)


def _add_rules(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--track", choices=("shared", "native"), help="recipe (default: shared, or that of the suite)")
    add("--match", metavar="[BY:]ARCH:SIZE", type=non_empty, help="match the MACs (or params) of a reference network")
    add("--seed", type=int, default=0, help="seed of a training run (default: 0)")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="any setting below; repeatable")


def _add_execution(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--cluster", choices=CLUSTERS, default="auto", help="auto: SLURM if sbatch works, else local")
    add("--profile", metavar="NAME", default="default", help="slurm/NAME.toml (default: default)")
    add("--parallel", type=int, metavar="N", help="maximum number of runs at a time (default: chosen for the machine)")
    add("--results", metavar="DIR", type=non_empty, default="results", help="results folder (default: results)")
    about = "keep sampled images as files (default: digits npz, else none)"
    add("--export", choices=("none", "npz", "png"), help=about)
    add("--fresh", action="store_true", help="delete the files of these runs and start again")
    add("--watch", action="store_true", help="on SLURM, show the progress of the runs until they end")
    add("--retry-failed", action="store_true", help="on SLURM, also submit runs that failed before")
    about = "print the plan, its cost and the sbatch requests; write nothing"
    add("--dry-run", action="store_true", help=about)
