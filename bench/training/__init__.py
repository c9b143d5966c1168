"""The one trainer: one loop for every architecture and data set, in one process or many.

Read trainer.py first.

trainer.py          the training loop and one optimizer step
run_context.py      what each stage of a run is given
training_batch.py   draw the batch of a step from (seed, step)
checkpointing.py    training checkpoints, EMA snapshots, rollbacks
execution.py        precision, torch.compile, activation checkpointing
micro_batching.py   how many images a rank takes at a time
metrics_logger.py   mean loss and throughput over all ranks; detects a diverged loss
distributed.py      the ranks of a run and what they agree on; rendezvous.py: how they find each other
parallel.py         DDP and FSDP2
hardware.py         peak TFLOP/s of accelerators, MFU
tensorboard.py      scalars for TensorBoard
"""
