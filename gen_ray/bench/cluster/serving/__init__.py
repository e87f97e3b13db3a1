"""Serving measured: the batcher behind HTTP against full batches offline, and against batching whole requests."""
