"""gen-ray doctor: what is installed, which devices there are, whether cluster and MLflow answer."""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

from pipelines import terminal
from pipelines.instances import Storage

PACKAGES = ("gen-ray", "ray", "torch", "torchvision", "pyarrow", "mlflow", "pydantic", "safetensors", "scikit-learn")


def doctor(
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Report what this machine and its surroundings can do; exit 1 if something needed is missing."""
    lines = [*(_package(name) for name in PACKAGES), _devices(), _cluster(), _store(storage)]
    for good, name, word in lines:
        typer.echo(f"{'ok ' if good else 'NO '} {name}: {word}")
    raise typer.Exit(0 if all(good for good, *_ in lines) else 1)


Line = tuple[bool, str, str]


def _package(name: str) -> Line:
    try:
        return True, name, version(name)
    except PackageNotFoundError:
        return False, name, "not installed (pip install -e .)"


def _devices() -> Line:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    bfloat16 = torch.cuda.is_bf16_supported() if names else torch.cpu._is_avx512_bf16_supported()
    gpus = ", ".join(names) or "no GPU"
    return (
        True,
        "devices",
        f"{os.cpu_count()} cores, {gpus}, bfloat16 {'in hardware' if bfloat16 else 'not in hardware'}",
    )


def _cluster() -> Line:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return True, "cluster", "RAY_ADDRESS is not set: runs start a Ray of their own on this machine"
    from gen_ray.cluster.connect import connected, resources
    from gen_ray.errors import RunError
    from gen_ray.experiment import Scaling

    try:
        with connected(Scaling()):
            return True, "cluster", f"{address} answers: {resources()}"
    except RunError as error:
        return False, "cluster", str(error)


def _store(root: Path) -> Line:
    if not (root / "mlflow.db").exists():
        return True, "MLflow", f"no store yet below {root}: the first run makes one"
    from gen_ray.errors import RunError
    from gen_ray.store import Store
    from gen_ray.tracking import experiments

    try:
        there = ", ".join(experiments(Store.of(None, "gen_ray", root)))
        return True, "MLflow", f"experiments {there} in {root / 'mlflow.db'}"
    except RunError as error:
        return False, "MLflow", str(error)


if __name__ == "__main__":
    terminal.main(doctor)
