"""Ray's messages on the terminal of a serving command that report a fault that the command itself wants."""

from typing import Any

from ray._private import worker  # log_to_driver=False does not concern these messages

EXPECTED = "Task ServeController.graceful_shutdown failed"
"""Serve ends its controller while that still carries out the request to end."""


def drop_expected() -> None:
    """Let this process no longer print that Serve's controller was ended, as the command itself wants."""
    if isinstance(worker.print_to_stdstream, _Filtered):
        return
    worker.print_to_stdstream = _Filtered(worker.print_to_stdstream)


class _Filtered:
    """Prints a message of Ray's unless it is expected."""

    def __init__(self, print_message: Any) -> None:
        self.print_message = print_message

    def __call__(self, data: dict[str, Any], *args: Any, **options: Any) -> None:
        lines = [line for line in data["lines"] if EXPECTED not in line]
        if lines:
            self.print_message({**data, "lines": lines}, *args, **options)
