"""The baseline of training speed: what anyone would write first, a bare loop over a tensor in memory."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gen_ray.engine.loop import steps as our_steps
from gen_ray.engine.session import Session
from gen_ray.engine.step import Learner
from gen_ray.experiment import Experiment
from gen_ray.family import Family


@dataclass(frozen=True)
class Rates:
    """Images per second of each round."""

    bare: list[float]
    ours: list[float]


def alternate(experiment: Experiment, family: Family, session: Session, *, rounds: int, steps: int) -> Rates:
    """Return the rates of the bare loop and of this house's, steps each a round, in turn within one process."""
    size, total = experiment.data.batch_size, (rounds + 1) * steps
    loops: list[Iterator[object]] = [
        bare(experiment, family, torch.cat([x for _, x in session.batches("train").ordered(4096)]), session.device),
        our_steps(Learner(family, experiment.training, session, total), session.batches("train"), size, first=0),
    ]
    seconds = [[_seconds(loop, steps) for loop in loops] for _ in range(rounds + 1)][1:]  # the first round warms up
    images = steps * size
    return Rates(bare=[images / s for s, _ in seconds], ours=[images / s for _, s in seconds])


def _seconds(loop: Iterator[object], steps: int) -> float:
    began = time.perf_counter()
    for _ in range(steps):
        next(loop)
    return time.perf_counter() - began


def bare(experiment: Experiment, family: Family, x: Tensor, device: torch.device) -> Iterator[Tensor]:
    """Train in eager float32 on x (N, *shape), yielding the loss of each step: no Ray, clipping, EMA, checks or log."""
    torch.manual_seed(experiment.training.seed)
    rng = torch.Generator(device).manual_seed(experiment.training.seed)
    net, x = family.build_net().to(device), x.to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=experiment.training.learning_rate)
    size = experiment.data.batch_size
    while True:
        for rows in torch.randperm(len(x)).split(size):
            if len(rows) == size:
                loss = family.loss(net, x[rows.to(device)], rng, step=0).total.mean() / family.spec.dims
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                yield loss.detach()
