"""gen-ray doctor: check packages, the hardware of each machine, the cluster and MLflow."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from pipelines import failures, terminal
from pipelines.instances import Storage

if TYPE_CHECKING:
    from gen_ray.host.machine import Machine

Mark = Literal["ok ", "?? ", "NO "]
Line = tuple[Mark, str, str]
"""Mark (fine, may cause problems, missing or will not work), subject and finding."""


def doctor(
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Check this machine, its cluster and MLflow; exit 1 if something needed is missing (NO)."""
    lines = list(_lines(storage))
    for mark, name, word in lines:
        typer.echo(f"{mark} {name}: {word}")
    raise typer.Exit(int(any(mark == "NO " for mark, *_ in lines)))


def _lines(storage: Path) -> Iterator[Line]:
    from gen_ray.host.machine import PACKAGES, inspect_machine
    from gen_ray.storage.paths import is_remote

    machine = inspect_machine(Path() if is_remote(storage) else storage)
    for name in ("python", *PACKAGES):
        missing = "not installed (pip install -e .)"
        yield ("ok ", name, machine.versions[name]) if name in machine.versions else ("NO ", name, missing)
    yield from _machine("devices", machine)
    yield _token()
    yield from _cluster(storage, machine)
    yield _store(storage)


def _machine(name: str, machine: "Machine") -> Iterator[Line]:
    yield "ok ", name, str(machine)
    for doubt in machine.warnings():
        yield "?? ", name, doubt


def _token() -> Line:
    from gen_ray.host import ray_token

    if not ray_token.exists():
        return "ok ", "token", "none: gen-ray start head creates one; the other machines need a copy"
    if ray_token.is_open():
        return "?? ", "token", f"{ray_token.file()}: other users can read it; run chmod 600 on it"
    return "ok ", "token", "exists, readable by its owner only"


def _cluster(storage: Path, machine: "Machine") -> Iterator[Line]:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        yield "ok ", "cluster", "RAY_ADDRESS is not set: each run starts a local Ray on this machine"
        return
    from gen_ray.cluster.nodes.checkup import examine
    from gen_ray.cluster.nodes.connect import connected, resources
    from gen_ray.errors import RunError
    from gen_ray.experiment import Scaling

    try:
        with connected(Scaling()):
            yield "ok ", "cluster", f"{address} answers: {resources()}"
            nodes = examine(storage)
    except RunError as error:
        yield "NO ", "cluster", failures.with_flags(str(error))
        return
    for node in nodes:
        if node.machine:
            yield from _machine(node.name, node.machine)
        for wrong in node.problems(machine):
            yield "NO ", node.name, wrong


def _store(root: Path) -> Line:
    from gen_ray.errors import RunError, UserError
    from gen_ray.storage.paths import is_remote
    from gen_ray.tracking.store import ENVIRONMENT, Store

    if not os.environ.get(ENVIRONMENT) and not is_remote(root) and not (root / "mlflow.db").exists():
        return "ok ", "MLflow", f"no store yet below {root}: the first run creates it"
    try:
        store = Store.of(None, "gen_ray", root)  # creates the folder
        from gen_ray.tracking.runs import experiments

        return "ok ", "MLflow", f"experiments {', '.join(experiments(store))} in {store.uri}"
    except (RunError, UserError) as error:
        return "NO ", "MLflow", failures.with_flags(str(error))


if __name__ == "__main__":
    terminal.main(doctor)
