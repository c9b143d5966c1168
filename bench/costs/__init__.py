"""Cost of networks in parameters, multiply-accumulates (MACs), memory and time, and networks of equal cost.

Read counting.py first.

counting.py     parameters, MACs and activation memory, counted on the meta device
matching.py     solve an architecture's free dimensions for a target cost
match_table.py  the table that bench.match prints
timing.py       time several workloads alternately in one process
"""
