"""Serving benchmark: the batcher behind HTTP against offline full batches and against request-level batching."""
