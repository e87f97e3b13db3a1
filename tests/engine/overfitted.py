"""Models that have learned their training rows by heart, and models of the same size that have not."""

import torch
from torch import Tensor

from gen_ray.dataspec import DataSpec
from gen_ray.engine.evaluation.reference import ReferenceData
from gen_ray.engine.inference import artifact
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.training.batches import InMemoryBatches
from gen_ray.engine.training.loop import fit
from gen_ray.engine.training.session import LocalSession
from gen_ray.experiment import parse
from tests.tabular_cases import coded, mixed_rows

TABLE_NET = {"name": "columns", "width": 128, "depth": 2, "dropout": 0.0}
OF_TABLES = {"name": "discrete", "kernel": "random_order", "net": TABLE_NET}
IMAGE = DataSpec(name="noise", kind="image", shape=(1, 4, 4), levels=17)
OF_IMAGES = {"name": "vae", "latent_dim": 16, "likelihood": "logistic", "net": {"name": "mlp", "hidden": [128]}}


def rows(n: int) -> tuple[DataSpec, Tensor]:
    spec, codes = coded(mixed_rows(n), intervals=32, target="label")
    return spec, torch.from_numpy(codes)


def noise(n: int) -> tuple[DataSpec, Tensor]:
    """Return images whose pixels are independent: a model cannot predict a held-out image better than at random."""
    return IMAGE, torch.randint(17, (n, *IMAGE.shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def trained(spec: DataSpec, train: Tensor, steps: int) -> Model:
    """Return a model fitted to train (N, *shape) for a number of steps of 64 rows."""
    exp = parse(
        {
            "name": "heart",
            "family": OF_TABLES if spec.is_table else OF_IMAGES,
            "data": {"batch_size": 64},
            "training": {
                "epochs": -(-steps * 64 // len(train)), "learning_rate": 3e-3, "precision": "float32",
                "ema_decay": 0.9, "validate_every_epochs": 10_000, "sample_every_epochs": 10_000,
            },
            "evaluation": {"likelihood_rows": 200, "effort": 9, "samples": 200},
        }
    )  # fmt: skip
    family = exp.model(spec)
    batches = InMemoryBatches(train, batch_size=64, seed=0, rank=0, world_size=1, accumulation_steps=1)
    net = fit(exp, family, LocalSession({"train": batches, "validation": batches})).eval().requires_grad_(False)
    return Model(
        experiment=exp, family=family, net=net, meta=artifact.describe(spec, "f" * 64, run_id="heart", steps=1)
    )


def reference(train: Tensor, test: Tensor) -> ReferenceData:
    return ReferenceData(
        train=train, test=test, rows_seed=0, fingerprint="f" * 12, reference_split="train", extractor=None
    )
