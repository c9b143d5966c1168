"""From run requests to records: resolve, plan, dispatch, train, sample, evaluate, record.

Read launch.py (command line to dispatched runs) first, then pipeline.py (the stages in order).  planning: checks,
cost and time; dispatch: this process, local processes or SLURM; job: one attempt of a run in one process;
record_builder: the record from the stages' results; summary: results on the terminal; listing: texts of --list, --help.
"""
