"""Files that a run writes to local and shared disks, atomically and under a lease.

Read run_folder.py first: it names every file of a run.
atomic.py writes files all or nothing, lease.py admits one worker to a run, run_log.py folds the event log into a
status, process_identity.py tests whether a process still runs, shards.py assembles arrays that many processes write,
tensor_files.py reads and writes safetensors with a checksum, paths.py finds the code and its data files.
Only tensor_files.py imports torch.
"""
