"""Training in one process: the loop, the step, batches, checkpoints, averages of the weights."""
