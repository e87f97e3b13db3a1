"""Training in one process: the loop, the optimizer step, batches, checkpoints, EMA weights."""
