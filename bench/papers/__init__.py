"""The papers' tables: published numbers beside measured ones, and a verdict on each.

Read schema.py first (a table as a TOML file of results/published/tables/), then filling.py.

- published_results.py, published_networks.py: the published numbers; published_costs.py: our counts of these networks
- catalog.py: read the tables; run_matching.py: the run that a published row asks for, and its records
- filling.py: tables with published and measured values; verdicts.py: reproduced or not; rendering.py: text formats
"""
