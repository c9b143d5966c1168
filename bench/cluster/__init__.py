"""Runs on SLURM and on this machine: submit, watch, signal and cancel them.

Read job_chains.py first: a run on SLURM is a training job and an evaluation job that depends on it.
profiles.py reads the resources of a job from slurm/NAME.toml.  code_snapshot.py copies the code that jobs import.
slurm.py queries SLURM.  local_queue.py runs jobs on this machine.  signals.py handles SIGTERM and SLURM's signals in a
job.  run_status.py derives the status of each run, status_table.py shows it, cancellation.py ends runs.
"""
