"""Small experiments for the engine tests: a few images, tiny nets, float32."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import artifact
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.model_files import Files
from gen_ray.engine.training.batches import InMemoryBatches
from gen_ray.engine.training.session import LocalSession
from gen_ray.experiment import Experiment, parse
from gen_ray.family import Family

CPU = torch.device("cpu")
SPEC = DataSpec(name="toy", kind="image", shape=(1, 4, 4), levels=17, classes=("a", "b"))
MLP = {"name": "mlp", "width": 16, "depth": 1}
TOKENS = {"name": "discrete", "net": {"name": "tokens", "width": 16, "depth": 1, "heads": 2}}
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "vae": {"name": "vae", "latent_dim": 2, "net": {"name": "mlp", "hidden": [16]}},
    "ddpm": {"name": "ddpm", "steps": 20, "net": MLP},
    "ddpm-learned": {"name": "ddpm", "steps": 20, "schedule": "learned", "loss": "vlb", "net": MLP},
    "ddpm-dropout": {
        "name": "ddpm",
        "steps": 20,
        "variance": "learned",
        "net": {"name": "unet", "width": 16, "multipliers": [1], "dropout": 0.3},
    },
}
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "tokens": TOKENS,
    "score_sde": {"name": "score_sde", "net": MLP},
    **{f"discrete-{name}": {**TOKENS, "kernel": name} for name in ("uniform", "absorbing", "order", "random_order")},
    **{f"score_sde-{name}": {"name": "score_sde", "sde": name, "net": MLP} for name in ("vp", "ve", "subvp")},
}
"""Families that not every test of the engine is repeated for."""


def images(n: int, seed: int = 0) -> Tensor:
    return torch.randint(17, (n, 1, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def experiment(family: str = "vae", *, batch_size: int = 8, workers: int = 1, **training: Any) -> Experiment:
    settings = {"precision": "float32", "epochs": 2, "learning_rate": 1e-2, **training}
    return parse(
        {
            "name": "toy",
            "family": {**FAMILIES, **OTHERS}[family],
            "data": {"batch_size": batch_size},
            "training": settings,
            "scaling": {"num_workers": workers},
            "evaluation": {"samples": 20, "likelihood_rows": 30, "effort": 3},
        }
    )


def splits(exp: Experiment, rank: int = 0, rows: int = 40) -> dict[str, InMemoryBatches]:
    position = {
        "batch_size": exp.data.batch_size,
        "seed": exp.training.seed,
        "rank": rank,
        "world_size": exp.scaling.num_workers,
        "accumulation_steps": exp.training.gradient_accumulation_steps,
    }
    return {
        "train": InMemoryBatches(images(rows), **position),
        "validation": InMemoryBatches(images(700, seed=1), **position),
    }


def session(exp: Experiment, folder: Path | None = None, kind: type[LocalSession] = LocalSession) -> LocalSession:
    return kind(splits(exp), folder)


def model(family: str = "vae", seed: int = 0) -> Model:
    exp = experiment(family)
    bound: Family = exp.model(SPEC)
    torch.manual_seed(seed)
    net = bound.build_net().eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    meta = artifact.describe(SPEC, "f" * 64, run_id="toy-run", steps=7)
    return Model(experiment=exp, family=bound, net=net, meta=meta)


class KilledError(Exception):
    """Stands for the death of the process."""


class SessionKilledAtStep5(LocalSession):
    """A session that dies as soon as the checkpoint of step 5 is written."""

    def save(self, pack: Callable[[], Files], step: int) -> None:
        super().save(pack, step)
        if step == 5:
            raise KilledError


class Ring:
    """Ranks as threads of one process, whose sums are exchanged at a barrier."""

    def __init__(self, size: int) -> None:
        self.size, self.barrier, self.values = size, threading.Barrier(size, timeout=20), {}

    def sum(self, rank: int, values: Tensor) -> Tensor:
        self.values[rank] = values.clone()
        self.barrier.wait()
        total = torch.stack([self.values[r] for r in range(self.size)]).sum(0)
        self.barrier.wait()
        return total

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        """Return what work(rank) returned or raised on every rank."""
        out: list[Any] = [None] * self.size

        def body(rank: int) -> None:
            try:
                out[rank] = work(rank)
            except Exception as error:
                out[rank] = error

        threads = [threading.Thread(target=body, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return out


class RingSession(LocalSession):
    """One rank of a ring."""

    def __init__(self, ring: Ring, rank: int, exp: Experiment) -> None:
        super().__init__(
            splits(exp, rank),
            rank=rank,
            world_size=ring.size,
            logical_workers=range(rank, rank + 1),
            logical_worker_count=ring.size,
        )
        self.ring = ring

    def sum(self, values: Tensor) -> Tensor:
        return self.ring.sum(self.rank, values)
