"""Terminal input and output that all commands share.  Imports no torch, and nothing else of bench.

Read cli.py first: the parser, and the decorator that turns exceptions into exit statuses.
log.py sends log messages to stderr; formatting.py formats counts, durations and sizes;
progress_bar.py reports progress.
"""
