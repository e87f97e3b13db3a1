"""The artifact: the only folder a server needs. It holds YAML, JSON and safetensors, no pickle; verified before use."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from gen_ray.configuration import yaml12
from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import model_files
from gen_ray.errors import UserError
from gen_ray.experiment import Experiment
from gen_ray.experiment import load as load_settings
from gen_ray.family import Family
from gen_ray.host.machine import versions
from gen_ray.storage import manifest, paths

FORMAT = 2
READABLE = (1, FORMAT)
"""The formats that can be read. In format 1 some keys of config.yaml have earlier names (configuration/renamed.py)."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model: its family bound to its data, the EMA net, and its origin."""

    experiment: Experiment
    family: Family
    net: nn.Module
    meta: Mapping[str, Any]
    digest: str = ""
    """SHA-256 of the manifest of the artifact that it was loaded from."""

    def __post_init__(self) -> None:
        """Bind the family to what the net has learned of the forward process."""
        object.__setattr__(self, "family", self.family.fitted(self.net))

    @property
    def spec(self) -> DataSpec:
        """Return the specification of the data."""
        return self.family.spec


def write(folder: Path, model: Model) -> None:
    """Write the artifact to folder, completely or not at all."""
    files = {
        "config.yaml": yaml12.dump(model.experiment.resolved()).encode(),
        "weights.safetensors": model_files.weights(model.net),
        "meta.json": json.dumps(dict(model.meta), indent=1).encode(),
    }
    model_files.write(folder, files)


def verify(folder: Path) -> None:
    """Raise UserError naming the missing or altered file of an artifact folder."""
    try:
        paths.read(folder, manifest.verify)
    except manifest.DamagedError as error:
        raise UserError(f"the artifact cannot be trusted: {error}; train or fetch it again") from None


def load(folder: Path, *, device: torch.device | None = None) -> Model:
    """Return the model of an artifact folder on a device, by default the CPU. Raise UserError naming a bad file."""
    return paths.read(folder, lambda found: _load(found, device or torch.device("cpu")))


def _load(folder: Path, device: torch.device) -> Model:
    verify(folder)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if meta["format"] not in READABLE:
        newest = f"this gen_ray reads formats up to {FORMAT}; a newer gen_ray can read it"
        raise UserError(f"{folder}: has artifact format {meta['format']}, {newest}")
    experiment = load_settings(folder / "config.yaml", saved=True)
    family = experiment.model(DataSpec.model_validate(meta["data"]))
    net = family.build_net()
    net.load_state_dict(load_file(folder / "weights.safetensors"))
    net = net.to(device).eval().requires_grad_(False)
    digest = manifest.digest(folder / manifest.NAME)
    return Model(experiment=experiment, family=family, net=net, meta=meta, digest=digest)


def digest(folder: Path) -> str:
    """Return the SHA-256 of an artifact's manifest, which changes with any of its files. Raise UserError."""
    try:
        return sha256((paths.current_version(folder) / manifest.NAME).read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise UserError(f"the artifact cannot be trusted: {error.filename or folder}: missing") from None


def describe(spec: DataSpec, fingerprint: str, *, run_id: str, steps: int) -> dict[str, Any]:
    """Return the metadata of a newly trained model; the evaluation adds metrics."""
    return {
        "format": FORMAT,
        "run_id": run_id,
        "steps": steps,
        "git_commit": git_commit(),
        "data": spec.model_dump(mode="json"),
        "data_fingerprint": fingerprint,
        "metrics": {},
        "provenance": {},
        "versions": versions("gen_ray", "torch", "ray", "mlflow", "numpy", "safetensors"),
    }


def git_commit() -> str:
    """Return the commit of this code, or ``unknown`` outside a checkout or without git."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False, encoding="utf-8"
        )
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"
