"""Training of every architecture and data set, on one rank or several.

Read trainer.py first.

trainer.py          the training loop and one optimizer step
run_context.py      folder, config, data, device and rank, the argument of every stage of a run
training_batch.py   draw the batch of a step from (seed, step)
checkpointing.py    training checkpoints, EMA snapshots, rollbacks
execution.py        precision, torch.compile, activation checkpointing
micro_batching.py   choose the images per forward pass
metrics_logger.py   mean loss and throughput over all ranks; detects a diverged loss
distributed.py      process group of the ranks and its collective calls
rendezvous.py       find the other ranks and open their key-value store
parallel.py         DDP and FSDP2
hardware.py         peak TFLOP/s of accelerators, MFU
tensorboard.py      scalars for TensorBoard
"""
