"""Baselines: a bare PyTorch training loop, and a sampler's network evaluations without the sampler."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from gen_ray.engine.inference.generate import generate
from gen_ray.engine.training.batches import Batches, TimedIterator, rows_of_rank
from gen_ray.engine.training.loop import steps as project_steps
from gen_ray.engine.training.session import Session
from gen_ray.engine.training.step import TrainState
from gen_ray.experiment import Experiment
from gen_ray.family import Family
from gen_ray.maths.chain import Chain
from gen_ray.maths.noise import generator


@dataclass(frozen=True)
class TrainingRates:
    """Images per second of each round, of the bare loop and of the project's loop."""

    bare: list[float]
    ours: list[float]


def alternate(experiment: Experiment, family: Family, session: Session, *, rounds: int, steps: int) -> TrainingRates:
    """Return the rates of the bare loop and of the project's loop, alternating within one process, steps per round."""
    size, total = experiment.data.batch_size, (rounds + 1) * steps
    loops: list[Iterator[object]] = [
        bare_loop(experiment, family, rows_of_rank(session.batches("train"), session.world_size, size), session.device),
        project_steps(TrainState(family, experiment.training, session, total), session.batches("train"), size, first=0),
    ]
    # The first round warms up.
    seconds = [[_timed(partial(_drain, loop, steps)) for loop in loops] for _ in range(rounds + 1)][1:]
    images = steps * size
    return TrainingRates(bare=[images / s for s, _ in seconds], ours=[images / s for _, s in seconds])


@dataclass(frozen=True)
class IngestRates:
    """Results of each round: images per second of training and of each data path only, and the waiting share."""

    trained: list[float]
    reading: dict[str, list[float]]
    waiting: dict[str, list[float]]


def ingest(
    experiment: Experiment,
    family: Family,
    session: Session,
    data_paths: Mapping[str, Batches],
    *,
    rounds: int,
    steps: int,
) -> IngestRates:
    """Time the data paths in turn: first without, then with training on their batches.

    A round without training reads the data four times, so that batches prefetched before it do not dominate.
    """
    size, total = experiment.data.batch_size, (rounds + 1) * steps
    read_steps = {name: max(steps, 4 * batches.rows // size) for name, batches in data_paths.items()}
    untimed_streams = {name: batches.stream(0) for name, batches in data_paths.items()}
    timed_streams = {name: TimedIterator(batches.stream(0)) for name, batches in data_paths.items()}
    states = {name: TrainState(family, experiment.training, session, total) for name in data_paths}
    rates = IngestRates(
        trained=[], reading={name: [] for name in data_paths}, waiting={name: [] for name in data_paths}
    )
    for number in range(rounds + 1):
        for name, stream in timed_streams.items():
            read_seconds = _timed(partial(_drain, untimed_streams[name], read_steps[name]))
            before = stream.seconds
            training_seconds = _timed(
                partial(_train, states[name], stream, range(number * steps, (number + 1) * steps))
            )
            if number:  # the first round warms up
                rates.reading[name].append(read_steps[name] * size / read_seconds)
                rates.trained.append(steps * size / training_seconds)
                rates.waiting[name].append((stream.seconds - before) / training_seconds)
    return rates


def _drain(stream: Iterator[object], steps: int) -> None:
    for _ in range(steps):
        next(stream)


def _train(state: TrainState, stream: TimedIterator, steps: range) -> None:
    for step in steps:
        state.step(next(stream), step)


def bare_loop(experiment: Experiment, family: Family, x: Tensor, device: torch.device) -> Iterator[Tensor]:
    """Train in eager float32 on x (N, *shape); yield each step's loss (). No Ray, clipping, EMA, checks or logging."""
    torch.manual_seed(experiment.training.seed)
    rng = generator(experiment.training.seed, device=device)  # not for dropout, which uses the global generator
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


@dataclass(frozen=True)
class SamplerTimes:
    """Seconds of each round: of a chain's network evaluations without the sampler, and of sampling with the chain."""

    bare: list[float]
    sampling: list[float]

    @property
    def ratios(self) -> list[float]:
        """Return each round's fraction of the sampling time that is network evaluations; 1 means no overhead."""
        return [bare / sampled for bare, sampled in zip(self.bare, self.sampling, strict=True)]


def sampler_times(net: nn.Module, chain: Chain, *, batch: int, rounds: int, device: torch.device) -> SamplerTimes:
    """Time sampling of a batch, start to finished samples, alternating with the same evaluations on recorded inputs."""

    def sample() -> None:
        generate(net, chain, batch, seed=0, device=device, batch_size=batch)

    inputs: list[tuple[Tensor, ...]] = []
    recorder = net.register_forward_pre_hook(lambda _, args: inputs.append(args))
    sample()
    recorder.remove()

    @torch.no_grad()
    def evaluations() -> None:
        for args in inputs:
            net(*args)
        _synchronize(device)

    seconds = [(_timed(evaluations), _timed(sample)) for _ in range(rounds + 1)][1:]  # the first round warms up
    return SamplerTimes(bare=[bare for bare, _ in seconds], sampling=[sampled for _, sampled in seconds])


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished all queued work, as copying samples to the CPU does."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
