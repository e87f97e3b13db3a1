"""Why a request came to nothing though it was not at fault."""

import torch

from gen_ray.engine.inference.memory import is_out_of_memory


class BusyError(Exception):
    """There is more work waiting than may wait."""

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        """Keep when it is worth asking again."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceededError(Exception):
    """Its deadline passed before it was done."""


class CancelledError(Exception):
    """Who asked for it does not want it any more, or the batcher was closed."""


class NotFiniteError(Exception):
    """The net said NaN or infinity: there is no sample to show."""


def memory_error(error: Exception, device: torch.device) -> Exception:
    """Return a MemoryError of one line in place of torch's own; any other error as it is.

    torch's message is a paragraph, and its traceback would keep the tensors of the batch in memory.
    """
    if not is_out_of_memory(error):
        return error
    return MemoryError(f"out of memory on {device}: the batch does not fit; ask for fewer samples at once")
