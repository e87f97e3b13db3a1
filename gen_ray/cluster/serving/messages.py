"""A filter for Ray's messages on the terminal about the intended end of Serve's controller."""

from typing import Any

from ray._private import worker  # log_to_driver=False has no effect on these messages

EXPECTED = "Task ServeController.graceful_shutdown failed"
"""Serve ends its controller while the controller still processes the shutdown request."""


def drop_expected() -> None:
    """Stop this process from printing that Serve's controller was ended, which the command intended."""
    if isinstance(worker.print_to_stdstream, _Filtered):
        return
    worker.print_to_stdstream = _Filtered(worker.print_to_stdstream)


class _Filtered:
    """A function that prints Ray's messages except the expected ones."""

    def __init__(self, print_message: Any) -> None:
        self.print_message = print_message

    def __call__(self, data: dict[str, Any], *args: Any, **options: Any) -> None:
        lines = [line for line in data["lines"] if EXPECTED not in line]
        if lines:
            self.print_message({**data, "lines": lines}, *args, **options)
