"""Results: one JSON record per run, and the leaderboard that is built from the records.

Read record.py first (the schema), then protocol.py (which results are comparable) and leaderboard.py.

- ranking.py: statistics over seeds, and ranks from intervals; equal_compute.py: training FLOPs, costs to a target
- queries.py, text_tables.py, leaderboard_files.py: filtered views, Markdown, and the files in results/
- submission_check.py, plausibility.py, recount.py: the checks of a record that somebody wants to add
- failures.py: records of runs that failed or diverged
"""
