"""Ray's messages on the terminal: only the message caused by the command itself is left out."""

from typing import Any

import pytest
from ray._private import worker

from gen_ray.cluster.serving import messages


def test_only_the_message_about_the_end_of_the_controller_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []

    def print_message(data: dict[str, Any], ignore_prefix: bool) -> None:
        printed.extend(data["lines"])

    monkeypatch.setattr(worker, "print_to_stdstream", print_message)
    for _ in range(2):
        messages.drop_expected()
    ended = "Task ServeController.graceful_shutdown failed. There are infinite retries remaining, so ..."
    for lines in ([ended], ["a worker died", ended], ["Task f failed."]):
        worker.print_to_stdstream({"lines": lines, "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert printed == ["a worker died", "Task f failed."]
