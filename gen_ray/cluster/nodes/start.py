"""Starts Ray's processes for a driver: detached from its terminal, with the driver's import path."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private import auto_init_hook, services  # Ray offers options for neither
from ray.job_config import JobConfig

import gen_ray
from gen_ray.cluster.nodes import preflight
from gen_ray.host import shadowing, signals


def start(address: str | None, **options: Any) -> None:
    """Connect to a cluster, or start Ray on this machine if address is None. Raise UserError, RunError."""
    preflight.check(address)
    # A thread of Ray Train that calls Ray after ray.shutdown() would otherwise start another Ray on this machine.
    auto_init_hook.enable_auto_connect = False
    job = PathsOfTheDriver()
    with preflight.translated(address), _apart():
        ray.init(address=address or "local", job_config=job, **options)


class PathsOfTheDriver(JobConfig):
    """A job whose workers import the same code as the driver.

    Ray puts the current folder first in the workers' path, so that a user's file such as pandas.py would shadow a
    package. Here, only the folder of this code is added, and only if the code is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        home = Path(gen_ray.__file__).parents[1]
        self.home = None if home.name in ("site-packages", "dist-packages") else home
        if self.home:
            shadowing.check(self.home)

    def _serialize(self) -> bytes:
        if not self._runtime_env_has_working_dir():
            self._py_driver_sys_path = [str(self.home)] if self.home else []
        serialized: bytes = super()._serialize()
        return serialized


@contextmanager
def _apart() -> Iterator[None]:
    """Start Ray's processes so that signals to the terminal's process group, or of a scheduler, reach only the driver.

    Otherwise its workers would end before they can save a checkpoint. SIGTERM stays: Ray ends its processes with it.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signals.SIGNALS - {signal.SIGTERM})
    popen = services.ConsolePopen
    services.ConsolePopen = partial(popen, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = popen
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
