"""Benchmarks: both sides of a comparison do the same work. The speed itself is not tested."""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from gen_ray.bench.baselines import alternate, ingest, sampler_times
from gen_ray.engine.training.batches import TimedIterator
from tests.engine.tiny_models import CPU, experiment, model, session


class Counted(nn.Module):
    """A net that keeps a checksum of its inputs."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.times = net, list[float]()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(float(x.double().sum() + t.double().sum()))
        return self.net(x, t)


def test_the_baseline_of_sampling_repeats_its_evaluations() -> None:
    trained = model("ddpm")
    net, chain, rounds = Counted(trained.net), trained.family.chain("ddim:eta=1", 5), 3
    timed = sampler_times(net, chain, batch=4, rounds=rounds, device=CPU)
    every = torch.tensor(net.times).view(-1, chain.nfe)
    assert len(every) == 1 + 2 * (rounds + 1) and (every == every[0]).all()
    assert len(timed.bare) == len(timed.sampling) == len(timed.ratios) == rounds
    assert timed.ratios == [bare / sampled for bare, sampled in zip(timed.bare, timed.sampling, strict=True)]
    assert min(timed.bare) > 0 and not net._forward_pre_hooks


def test_both_sides_of_training_are_timed_round_by_round(tmp_path: Path) -> None:
    exp = experiment("vae", batch_size=8)
    rates = alternate(exp, model("vae").family, session(exp, tmp_path), rounds=2, steps=3)
    assert len(rates.bare) == len(rates.ours) == 2 and min(*rates.bare, *rates.ours) > 0


def test_the_waiting_time_is_the_time_of_the_stream() -> None:
    def tardy() -> Iterator[list[Tensor]]:
        for _ in range(3):
            time.sleep(0.02)
            yield [torch.zeros(1)]

    clocked = TimedIterator(tardy())
    assert len(list(clocked)) == 3 and 0.06 <= clocked.seconds < 1


def test_reading_is_timed_separately_and_during_training(tmp_path: Path) -> None:
    exp = experiment("vae", batch_size=8)
    here = session(exp, tmp_path)
    found = ingest(exp, model("vae").family, here, {"memory": here.batches("train")}, rounds=2, steps=3)
    assert len(found.trained) == len(found.reading["memory"]) == len(found.waiting["memory"]) == 2
    assert min(found.trained) > 0 and all(0 < share < 1 for share in found.waiting["memory"])
