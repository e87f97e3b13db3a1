"""How Ray's processes are started for a driver: apart from its terminal, importing what the driver imports."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private import auto_init_hook, services  # Ray has no option for either
from ray.job_config import JobConfig

import gen_ray
from gen_ray.cluster.nodes import preflight
from gen_ray.host import shadowing, signals


def start(address: str | None, **options: Any) -> None:
    """Connect to a cluster, or start Ray on this machine where there is no address. Raise UserError, RunError."""
    preflight.check(address)
    # A thread of Ray Train that still asks something after ray.shutdown() would start another Ray on this machine.
    auto_init_hook.enable_auto_connect = False
    job = PathsOfTheDriver()
    with preflight.translated(address), _apart():
        ray.init(address=address or "local", job_config=job, **options)


class PathsOfTheDriver(JobConfig):
    """A job whose workers import what the driver imports.

    Ray puts the current folder first in their paths, so that a file of the user's, such as pandas.py, would be imported
    instead of a package. The folder of this code is put there only where it is not installed.
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
    """Start Ray's processes so that signals to the terminal's process group, or of a scheduler, reach the driver only.

    Else its workers would end before they can save a checkpoint. SIGTERM is kept: Ray ends its processes by it.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signals.SIGNALS - {signal.SIGTERM})
    popen = services.ConsolePopen
    services.ConsolePopen = partial(popen, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = popen
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
