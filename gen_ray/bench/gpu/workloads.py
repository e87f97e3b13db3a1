"""The workloads: the experiments of configs/gpu on random data of their shape, at full or at small size."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference.artifact import Model
from gen_ray.errors import UserError
from gen_ray.experiment import Experiment, load
from gen_ray.family import Family
from gen_ray.maths.chain import Chain

IMAGES: Mapping[str, tuple[int, int, int]] = {
    "cifar10": (3, 32, 32),
    "mnist": (1, 28, 28),
    "fashion_mnist": (1, 28, 28),
}
"""Shapes (C, H, W) of the data sources, listed here so that no data set is read."""
CHARACTERS = 65
"""Number of different characters of a text, as in tinyshakespeare."""
SMALL_SIDE, SMALL_LENGTH = 8, 16
SMALL: Mapping[str, tuple[str, ...]] = {
    "vae": ("family.net={name: conv, width: 4, hidden: 8}", "family.latent_dim=4"),
    "ddpm": ("family.net={name: unet, width: 16, multipliers: [1]}",),
    "score_sde": ("family.net={name: dit, width: 16, depth: 1, heads: 2, patch: 4}",),
    "discrete": ("family.net={name: tokens, width: 16, depth: 1, heads: 2}",),
}
"""Overrides for the small size, by family; the data are smaller as well."""
SAMPLERS: Mapping[str, tuple[str, ...]] = {
    "ddpm": ("ddim", "ancestral", "dpmpp_2m", "heun"),
    "score_sde": ("dpmpp_2m", "heun", "ancestral"),
    "discrete": ("first_hitting", "ancestral"),
    "vae": ("mean", "draw"),
}
"""The measured samplers by family."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Sizes of nets, batches and rounds. Seconds are of the rounds of one measurement, without its set-up."""

    name: str
    reduced: bool
    """Whether nets, data and training batches are the small ones."""
    batches: tuple[int, ...]
    """Batch sizes of the samplers."""
    sampler_steps: int
    """Steps of a sampler, unless its default is smaller or it requires more."""
    serving_batch: int
    """Largest batch of the batcher."""
    clients: int
    request_rows: int
    """Maximum number of samples of a request of the mixed load."""
    matmul: int
    """Side of the square matrices whose product gives the peak rate."""
    data_rows: int
    training_seconds: float
    sampling_seconds: float
    """Seconds for each sampler and batch size."""
    window_seconds: float
    """Seconds of one round of the mixed load, after a warm-up of a quarter of that."""
    batching_seconds: float
    set_up_seconds: float
    """Estimated seconds of a measurement before its rounds."""


FULL = Size(
    name="full",
    reduced=False,
    batches=(1, 8, 64, 512),
    sampler_steps=10,
    serving_batch=512,
    clients=64,
    request_rows=16,
    matmul=8192,
    data_rows=16384,
    training_seconds=15.0,
    sampling_seconds=2.0,
    window_seconds=4.0,
    batching_seconds=24.0,
    set_up_seconds=8.0,
)
SMALL_SIZE = Size(
    name="small",
    reduced=True,
    batches=(1, 4),
    sampler_steps=3,
    serving_batch=8,
    clients=4,
    request_rows=3,
    matmul=128,
    data_rows=64,
    training_seconds=0.3,
    sampling_seconds=0.03,
    window_seconds=0.06,
    batching_seconds=0.3,
    set_up_seconds=0.3,
)
SIZES: Mapping[str, Size] = {size.name: size for size in (FULL, SMALL_SIZE)}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """An experiment and its family bound to the shape of its data."""

    experiment: Experiment
    family: Family

    @property
    def name(self) -> str:
        """Return the family's name."""
        return self.experiment.family.name

    @property
    def spec(self) -> DataSpec:
        """Return the data's shape."""
        return self.family.spec

    def examples(self, n: int) -> Tensor:
        """Return random data (n, *shape) as stored, on the CPU."""
        rng = torch.Generator().manual_seed(self.experiment.training.seed)
        return torch.randint(self.spec.levels, (n, *self.spec.shape), generator=rng, dtype=torch.uint8)

    def net(self, device: torch.device) -> nn.Module:
        """Return a new net in training mode."""
        torch.manual_seed(self.experiment.training.seed)
        return self.family.build_net().to(device)

    def model(self, device: torch.device) -> Model:
        """Return a new net as a model for serving."""
        net = self.net(device).eval().requires_grad_(False)
        return Model(experiment=self.experiment, family=self.family, net=net, meta={})

    def chain(self, sampler: str, most_steps: int) -> tuple[Chain, int]:
        """Return a sampler's chain and steps: its default steps, but at most most_steps unless it requires more."""
        about = self.family.samplers()[sampler]
        steps = about.steps_up_to(most_steps)
        return self.family.chain(sampler, None if steps == about.default_steps else steps), steps


def workload(file: Path, size: Size) -> Workload:
    """Return the workload of an experiment's file. Raise UserError if the shape of its data is unknown."""
    experiment = load(file)
    if size.reduced:
        small = (*SMALL[experiment.family.name], "data.batch_size=4")
        experiment = load(file, [*small, *_small_data(experiment)])
    return Workload(experiment=experiment, family=experiment.model(_spec(experiment, reduced=size.reduced)))


def _small_data(experiment: Experiment) -> list[str]:
    return [f"data.options={{length: {SMALL_LENGTH}}}"] if experiment.data.source.startswith("text:") else []


def _spec(experiment: Experiment, *, reduced: bool) -> DataSpec:
    source, options = experiment.data.source.partition(":")[0], experiment.data.options
    if source == "text":
        return DataSpec(name=source, kind="tokens", shape=(options.length,), levels=CHARACTERS)
    if source not in IMAGES:
        raise UserError(f"data.source={source}: the benchmark knows the shapes of {', '.join(IMAGES)} and text only")
    channels, height, width = IMAGES[source]
    shape = (channels, SMALL_SIDE, SMALL_SIDE) if reduced else (channels, height, width)
    return DataSpec(name=source, kind="image", shape=shape, levels=options.levels or 256)


def parameters(net: nn.Module) -> int:
    """Return the number of a net's parameters."""
    return sum(math.prod(parameter.shape) for parameter in net.parameters())
