"""Records of several suites, computed by formulas, and the figures of these records."""

from functools import cache

import studies

from bench.reports import figure_definitions

MATCHED = studies.study("matched")
SCALING = studies.study("dit-scaling")
ALL_RECORDS = [*MATCHED, *SCALING, *studies.study("dit-conditioning"), *studies.study("uvit-ablation")]


@cache
def all_figures():
    """Figure name -> figure, of ALL_RECORDS."""
    return {f.name: f for f in figure_definitions.build_figures(ALL_RECORDS)}
