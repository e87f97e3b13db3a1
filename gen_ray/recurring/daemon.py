"""The daemon, which checks every recurring sweep every two seconds of the monotonic clock."""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from filelock import FileLock, Timeout

from gen_ray.errors import RunError, UserError
from gen_ray.recurring.reconciler import Reconciler, utc_now
from gen_ray.recurring.store import RecurringSweep

POLL_SECONDS = 2.0
LOCK = "daemon.lock"
logger = logging.getLogger(__name__)


class Daemon:
    """Runs a reconciler until it is interrupted.

    Its only thread checks one schedule after another, so that files are not used concurrently. It waits for the next
    round by the monotonic clock, so that setting the machine's clock does not delay a schedule.
    """

    def __init__(
        self, reconciler: Reconciler, tell: Callable[[str], None], adopt: Callable[[], Iterable[str]] = lambda: ()
    ) -> None:
        """Take the reconciler and two functions.

        tell reports a line. adopt takes over the occurrences of a daemon that was killed and returns their ids.
        """
        self.reconciler, self.store, self.tell, self.adopt = reconciler, reconciler.store, tell, adopt
        self.known: dict[str, int] = {}
        self.broken: set[str] = set()
        self.stopped = Event()

    def run(self) -> None:
        """Run until ``stop`` or an interrupt. Raise UserError if another daemon runs these schedules."""
        self.store.folder.mkdir(parents=True, exist_ok=True)
        try:
            only = FileLock(self.store.folder / LOCK).acquire(timeout=0)
        except Timeout:
            raise UserError(f"{self.store.folder}: another gen-ray schedule run is running these schedules") from None
        with only, ThreadPoolExecutor(1) as pool:
            looking = pool.submit(self._loop)
            try:
                looking.result()
            finally:
                self.stop()

    def stop(self) -> None:
        """End the loop after the present schedule."""
        self.stopped.set()

    def _loop(self) -> None:
        for occurrence in self.adopt():
            self.tell(f"{occurrence}: adopted from a daemon that was killed")
        while not self.stopped.is_set():
            self.rescan()
            self.stopped.wait(POLL_SECONDS)

    def rescan(self) -> None:
        """Load new and changed schedules, drop removed ones, and check all of them."""
        files = self._files()
        for name in self.known.keys() - files.keys():
            self.tell(f"{name}: removed")
        for name, changed in files.items():
            if self.known.get(name) != changed:
                self._take(name)
            if name not in self.broken and not self.stopped.is_set():
                self._reconcile(name)
        self.known = files

    def _reconcile(self, name: str) -> None:
        """Reconcile a schedule and report changes. An error of one schedule does not stop the others."""
        try:
            schedule, found = self.store.load(name), self.reconciler.reconcile(name)
        except (UserError, RunError, OSError) as error:  # just removed or damaged, or a full disk
            self.tell(f"{name}: {error}")
            return
        except Exception:
            logger.exception("%s: could not be checked", name)
            return
        for one in found:
            self.tell(f"{schedule.occurrence(one.at)}: {one.state}{one.note and ': '}{one.note}")

    def _files(self) -> dict[str, int]:
        found = dict[str, int]()
        for name in self.store.names():
            try:
                found[name] = self.store.file(name).stat().st_mtime_ns
            except FileNotFoundError:  # just removed
                continue
        return found

    def _take(self, name: str) -> None:
        self.broken.discard(name)
        try:
            schedule: RecurringSweep = self.store.load(name)
        except UserError as error:  # reported once, and again when the file is changed
            self.broken.add(name)
            self.tell(str(error))
            return
        self.tell(f"{name}: {schedule.cron} {schedule.timezone}, next {schedule.times.next(utc_now())}")
