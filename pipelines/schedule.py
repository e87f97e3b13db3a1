"""gen-ray schedule add|list|remove|run: recurring sweeps."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gen_ray.host import signals
from pipelines import terminal
from pipelines.instances import Storage
from pipelines.sweep import Margin, Overrides, PlanFile, Promote, check_promotion

if TYPE_CHECKING:
    from gen_ray.recurring.local_launcher import LocalLauncher
    from gen_ray.recurring.reconciler import Reconciler
    from gen_ray.recurring.store import RecurringSweep

app = terminal.new_group()

Name = Annotated[str, typer.Argument(help="Name of the schedule.")]
Cron = Annotated[str, typer.Option(help='Times: minute hour day month weekday, e.g. "0 2 * * 1-5"; Monday is 1.')]
Address = Annotated[
    str | None,
    typer.Option(help="Run as a job of this Ray cluster (dashboard, http://head:8265). Default: here."),
]
GraceMinutes = Annotated[
    float,
    typer.Option(
        min=0, max=1_000_000, help="Maximum delay, in minutes, at which a missed occurrence is still launched."
    ),
]


@app.command()
def add(
    plan: PlanFile,
    cron: Cron,
    overrides: Overrides = None,
    timezone: Annotated[str, typer.Option(help="Time zone of --cron, e.g. Europe/Berlin.")] = "UTC",
    name: Annotated[str | None, typer.Option(help="Name of the schedule. Default: that of the sweep.")] = None,
    address: Address = None,
    promote: Promote = None,
    margin: Margin = None,
    grace_minutes: GraceMinutes = 60,
) -> None:
    """Add a recurring sweep. Each occurrence reads the file again, relative to the current folder."""
    from gen_ray.configuration.base import validated
    from gen_ray.recurring.store import RecurringSweep, ScheduleStore
    from gen_ray.sweeps import config

    check_promotion(promote, margin)
    sweep = config.load(plan, overrides or [])
    storage = sweep.first.storage.root
    raw = {
        "name": name or sweep.sweep.name,
        "config": str(plan),
        "overrides": [*(overrides or []), *_data_root(sweep.first.data.root)],
        "cron": cron,
        "timezone": timezone,
        "folder": Path.cwd(),
        "address": address,
        "promote": promote,
        "margin": margin,
        "grace_minutes": grace_minutes,
        "added": datetime.now(UTC).replace(microsecond=0),
    }
    schedule, store = validated(RecurringSweep, raw), ScheduleStore(storage)
    if address:
        _check_secrets()
    store.add(schedule)
    typer.echo(f"{store.file(schedule.name)}: next {_next(schedule)}")
    typer.echo(f"to launch it: gen-ray schedule run --storage {storage}")


def _data_root(folder: Path | None) -> list[str]:
    """Return the override that makes data.root this machine's folder instead of the job's uploaded copy."""
    from gen_ray.configuration import yaml12

    return [f"data.root={yaml12.quoted(str(folder))}"] if folder else []


def _check_secrets() -> None:
    """Raise UserError for files of this folder that look like secrets."""
    from gen_ray.cluster.jobs import package, secret_files

    secret_files.check(Path(), package.contents(Path()))


@app.command(name="list")
def list_(storage: Storage = Path("gen_ray_runs")) -> None:
    """List the schedules with their next time and the result of the last occurrence."""
    reconciler, _ = _reconciler(storage)
    lines = []
    for name in reconciler.store.names():
        schedule = reconciler.store.load(name)
        last = reconciler.seen(schedule, reconciler.store.load_state(schedule)).last
        when = _when(schedule, last.at) if last else "–"
        state = f"{last.state}: {last.note}" if last and last.note else last.state if last else "–"
        lines.append([name, schedule.cron, schedule.timezone, _next(schedule), when, state])
    if not lines:
        typer.echo(f"no schedules in {reconciler.store.folder}")
        return
    header = ["name", "cron", "timezone", "next", "last", "state"]
    terminal.show_table(str(reconciler.store.folder), header, lines, prose=("state",))


@app.command()
def remove(name: Name, storage: Storage = Path("gen_ray_runs")) -> None:
    """Remove a schedule. A running occurrence continues."""
    from gen_ray.recurring.store import ScheduleStore

    ScheduleStore(storage).remove(name)
    typer.echo(f"{name}: removed")


@app.command()
def run(
    once: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run one occurrence of this schedule now; exit with its code.")
    ] = None,
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Launch due sweeps until Ctrl-C or SIGTERM, which also ends the sweeps of this machine but no Ray jobs."""
    from gen_ray.errors import EndedError
    from gen_ray.recurring.daemon import Daemon

    reconciler, local = _reconciler(storage)
    signals.lift_time_limit()  # the sweeps of this machine end first
    try:
        if once is not None:
            raise typer.Exit(_once(reconciler, local, once))
        Daemon(reconciler, typer.echo, local.adopt).run()
    except (EndedError, KeyboardInterrupt):
        if once is not None:
            raise
        typer.echo("ended")  # a daemon that is ended has not failed
    finally:
        local.close()


def _once(reconciler: "Reconciler", local: "LocalLauncher", name: str) -> int:
    """Run an occurrence and return its exit code."""
    from gen_ray.recurring.launcher import wait

    schedule, made = reconciler.store.load(name), reconciler.launch_now(name)
    occurrence, launcher = schedule.occurrence(made.at), reconciler.launcher(schedule)
    typer.echo(f"{occurrence}: {local.log(occurrence) if launcher is local else schedule.address}")
    state = wait(launcher, occurrence)
    reconciler.refresh(name)
    typer.echo(f"{occurrence}: {state.word}{state.note and ': '}{state.note}" if state else f"{occurrence}: lost")
    return state.code if state else 1


def _reconciler(storage: Path) -> "tuple[Reconciler, LocalLauncher]":
    from gen_ray.recurring.launcher import Launcher
    from gen_ray.recurring.local_launcher import LocalLauncher
    from gen_ray.recurring.reconciler import Reconciler
    from gen_ray.recurring.store import LOGS, ScheduleStore

    store = ScheduleStore(storage)
    local = LocalLauncher(store.folder / LOGS)

    def launcher(schedule: "RecurringSweep") -> Launcher:
        if schedule.address is None:
            return local
        from gen_ray.cluster.jobs.jobs import Jobs

        return Jobs(schedule.address)

    return Reconciler(store, launcher), local


def _next(schedule: "RecurringSweep") -> str:
    at = schedule.times.next(datetime.now(UTC))
    return _when(schedule, at) if at else "never"


def _when(schedule: "RecurringSweep", at: datetime) -> str:
    return f"{at.astimezone(schedule.times.zone):%Y-%m-%d %H:%M}"


if __name__ == "__main__":
    terminal.main(app)
