"""Speed benchmarks.

Read throughput.py and workloads.py first.  Two implementations are always timed alternately in one process.

throughput.py        bench.throughput: training, forward passes and sampling
workloads.py         the workloads that it times
loading.py           throughput of the data loader alone
threads.py           bench.threads: processes and threads on a CPU
scaling.py           bench.scaling: number of ranks
reference_speed.py   bench.speed: our networks and those of diffusers and timm
evaluation_speed.py  bench.evalspeed: time and memory of the metrics
"""
