"""Errors of valid requests that could not be completed."""

import torch

from gen_ray.engine.inference.memory import is_out_of_memory
from gen_ray.errors import PicklableError


class BusyError(PicklableError):
    """The batcher refuses the request because too much work is waiting."""

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        """retry_after_seconds is the time after which a new attempt can succeed."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceededError(Exception):
    """The deadline of the request passed before it was done."""


class CancelledError(Exception):
    """The client cancelled the request, or the batcher was closed."""


class NotFiniteError(Exception):
    """The network's output contains NaN or infinity, so the request has no result."""


def memory_error(error: Exception, device: torch.device) -> Exception:
    """Return a MemoryError with a one-line message in place of torch's own error; return any other error unchanged.

    torch's message is a paragraph, and its traceback would keep the tensors of the batch in memory.
    """
    if not is_out_of_memory(error):
        return error
    return MemoryError(f"out of memory on {device}: the batch does not fit; ask for fewer samples at once")
