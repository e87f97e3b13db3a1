"""Counts the operations that make the host wait for the GPU, by the line of this project that causes them."""

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from gen_ray.bench.gpu.alternating import Repeat

PACKAGE = Path(__file__).parents[2]
MESSAGE = "called a synchronizing CUDA operation"
"""Text that identifies torch's warning."""


def count(work: Repeat, times: int, device: torch.device) -> dict[str, Any]:
    """Return the number of waits per repetition, in total and by source line; None on a CPU."""
    if device.type != "cuda":
        return {"each": None, "note": "not measured on the CPU"}
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with recorded() as places:
            work(times)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    lines = {place: number / times for place, number in places.most_common()}
    return {"each": sum(lines.values()), "lines": lines}


@contextmanager
def recorded() -> Iterator[Counter[str]]:
    """Yield a counter of torch's warnings by line; other warnings are shown as usual."""
    places: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
            if MESSAGE in str(message):
                places[_own_line(sys._getframe()) or f"{filename}:{lineno}"] += 1
            else:
                show(message, category, filename, lineno, *rest)

        warnings.showwarning = note  # type: ignore[assignment]
        yield places


def _own_line(frame: FrameType | None) -> str | None:
    """Return the innermost line of this project on the stack, such as gen_ray/engine/training/step.py:102."""
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(PACKAGE) and file != Path(__file__):
            return f"{file.relative_to(PACKAGE.parent)}:{frame.f_lineno}"
        frame = frame.f_back
    return None
