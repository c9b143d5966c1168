"""From run requests to records: resolve, plan, dispatch, train, sample, evaluate, record.

Read launch.py first, then pipeline.py.  launch: command line to dispatched runs; planning: prerequisites, cost and time;
dispatch: this process, local processes or SLURM; job: one attempt of a run in one process; pipeline: the stages in order;
record_builder: the record from the stages' results; summary: results on the terminal; listing: texts of --list and --help.
"""
