"""The feature extractor of the Fréchet distance: a small classifier, trained once per labelled data set and saved."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import model_files
from gen_ray.engine.training.batches import InMemoryBatches
from gen_ray.errors import UserError
from gen_ray.maths.levels import scaled
from gen_ray.nets.classifier import Classifier
from gen_ray.storage import folder_lock, manifest, paths

FEATURES = 64
SEED, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 0, 64, 4e-3, 0.02
EPOCHS, MAX_STEPS = 15, 3500
MAX_ROWS = MAX_STEPS * BATCH_SIZE
"""Largest number of images in training."""
MAX_BYTES = 2**30
"""Largest memory of these images."""
Labelled = tuple[Tensor, Tensor]
"""Images (N, C, H, W) and their labels (N,)."""


@dataclass(frozen=True)
class Extractor:
    """Features (N, 64) of stored images at their own size, and the extractor's name for the provenance of distances."""

    net: Classifier
    levels: int
    name: str
    accuracy: float

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return features (N, 64) of images (N, C, H, W) in {0 … levels−1}."""
        return torch.cat([self.net.features(scaled(part, self.levels)) for part in images.split(512)])


def train(spec: DataSpec, x: Tensor, labels: Tensor) -> Classifier:
    """Return a classifier of x (N, C, H, W) by labels (N,), deterministic: at most 15 epochs and 3,500 steps."""
    steps = min(MAX_STEPS, EPOCHS * len(x) // BATCH_SIZE + 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        net = Classifier(spec.shape, len(spec.classes), features=FEATURES)
        optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        order = InMemoryBatches(torch.arange(len(x)), batch_size=BATCH_SIZE, seed=SEED)
        for _, [rows] in zip(range(steps), order.stream(0), strict=False):
            loss = nn.functional.cross_entropy(net(scaled(x[rows], spec.levels)), labels[rows].long())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return net.eval().requires_grad_(False)


def save(folder: Path, net: Classifier, meta: dict[str, Any]) -> None:
    """Write a trained extractor to folder."""
    files = {"weights.safetensors": model_files.weights(net), "meta.json": json.dumps(meta, indent=1).encode()}
    model_files.write(folder, files)


def load(folder: Path, spec: DataSpec) -> Extractor:
    """Return a saved extractor. Raise UserError naming a missing or altered file."""
    return paths.read(folder, lambda local: _load(local, spec))


def _load(folder: Path, spec: DataSpec) -> Extractor:
    try:
        manifest.verify(folder)
    except manifest.DamagedError as error:
        raise UserError(
            f"the feature extractor cannot be trusted: {error}; delete its folder to train it again"
        ) from None
    net = Classifier(spec.shape, len(spec.classes), features=FEATURES)
    net.load_state_dict(load_file(folder / "weights.safetensors"))
    digest = manifest.read(folder)["weights.safetensors"]
    accuracy = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["test_accuracy"]
    return Extractor(net.eval().requires_grad_(False), spec.levels, f"classifier-{digest[:12]}", accuracy)


def accuracy(net: Classifier, spec: DataSpec, x: Tensor, labels: Tensor) -> float:
    """Return the share of stored images x (N, C, H, W) with labels (N,) that the classifier labels correctly."""
    with torch.no_grad():
        predictions = torch.cat([net(scaled(part, spec.levels)).argmax(1) for part in x.split(512)])
    return float((predictions == labels).float().mean())


def load_or_train(folder: Path, spec: DataSpec, read: Callable[[str], Labelled]) -> Extractor:
    """Return the extractor saved in folder; read returns a split by its name.

    Where there is none, one process trains it and the others wait.
    """
    if not paths.exists(folder):
        with folder_lock.exclusive(folder):
            if not paths.exists(folder):
                net = train(spec, *read("train"))
                measured = accuracy(net, spec, *read("test"))
                save(folder, net, {"test_accuracy": measured, "data": spec.model_dump(mode="json")})
    return load(folder, spec)


def max_training_rows(spec: DataSpec) -> int:
    """Return the largest number of images that an extractor of this spec is trained on."""
    size = spec.dims * spec.storage_dtype.itemsize
    return min(MAX_ROWS, max(1, MAX_BYTES // size))
