"""The noise of a row depends only on (seed, row, tick)."""

import itertools

import numpy as np
import pytest
import torch

from gen_ray.maths.noise import RowNoise, generator

KINDS = ("normal", "uniform", "gumbel")
CDF = {
    "normal": lambda x: torch.special.ndtr(x.double()),
    "uniform": lambda x: x,
    "gumbel": lambda x: torch.exp(-torch.exp(-x)),
}
MOMENTS = {"normal": (0.0, 1.0), "uniform": (0.5, 1 / 12), "gumbel": (0.5772156649, np.pi**2 / 6)}


@pytest.mark.parametrize("kind", KINDS)
def test_other_rows_and_order_do_not_matter(kind: str) -> None:
    seeds, rows, ticks = [7, 2**63 + 5, 7, 0], [3, 0, 2**40, 1], [0, 9, 9, 2]
    together = getattr(RowNoise(seeds, rows, ticks), kind)((2, 5))
    for i in range(4):
        single = getattr(RowNoise(seeds[i : i + 1], rows[i : i + 1], ticks[i : i + 1]), kind)((2, 5))
        assert torch.equal(single[0], together[i])
    reverse = getattr(RowNoise(seeds[::-1], rows[::-1], ticks[::-1]), kind)((2, 5))
    assert torch.equal(reverse.flip(0), together)


def test_drawing_one_kind_does_not_change_another() -> None:
    noise = RowNoise.of(1, 3).at(4)
    first = noise.normal((6,))
    noise.uniform((100,))
    noise.gumbel((100,))
    assert torch.equal(noise.normal((6,)), first)


@pytest.mark.parametrize("kind", KINDS)
def test_distribution(kind: str) -> None:
    x = getattr(RowNoise.of(123, 200).at(3), kind)((1000,)).flatten()
    mean, variance = MOMENTS[kind]
    assert abs(x.double().mean() - mean) < 5 * (variance / len(x)) ** 0.5
    assert abs(x.double().var() / variance - 1) < 0.02
    levels = CDF[kind](x).sort().values  # Kolmogorov-Smirnov
    distance = (levels - (torch.arange(len(x)) + 0.5) / len(x)).abs().max()
    assert distance < 1.95 / len(x) ** 0.5  # p = 0.001


def test_seeds_rows_ticks_and_kinds_are_independent() -> None:
    streams = [
        getattr(RowNoise([seed], [row], [tick]), kind)((20_000,))[0].double()
        for seed, row, tick, kind in itertools.product((0, 1), (0, 1), (0, 1), KINDS)
    ]
    correlation = torch.corrcoef(torch.stack(streams)) - torch.eye(len(streams))
    assert correlation.abs().max() < 5 / 20_000**0.5


def test_streams_do_not_overlap() -> None:
    near = [RowNoise([0], [row], [tick]).uniform((4096,))[0] for row in range(4) for tick in range(4)]
    assert len(torch.cat(near).unique()) == 16 * 4096


def test_where_does_not_change_the_other_rows() -> None:
    noise, mask = RowNoise.of(5, 6), torch.tensor([True, False, True, True, False, False])
    masked = noise.normal((3,), where=mask)
    assert torch.equal(masked[mask], noise.normal((3,))[mask])
    assert not masked[~mask].any()


def test_of_at_and_select_agree() -> None:
    noise = RowNoise.of(11, 8)
    late = RowNoise.of(11, 3, first=5)
    assert torch.equal(noise.normal((4,))[5:], late.normal((4,)))
    assert torch.equal(noise.at(2).normal((4,))[5:], late.at([2, 2, 2]).normal((4,)))
    for index in (slice(5, 8), [5, 6, 7], torch.tensor([5, 6, 7]), torch.arange(8) >= 5):
        assert torch.equal(noise.select(index).normal((4,)), late.normal((4,)))
    assert not torch.equal(noise.normal((4,)), noise.at(1).normal((4,)))


def test_a_scalar_per_row() -> None:
    noise = RowNoise.of(1, 5)
    assert torch.equal(noise.uniform(()), noise.uniform((3,))[:, 0])


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        RowNoise([1, 2], [0], [0, 0])


def test_the_generator_depends_only_on_its_position() -> None:
    def draw(*position: int) -> torch.Tensor:
        return torch.randn(64, generator=generator(*position))

    assert torch.equal(draw(3, 1, 4), draw(3, 1, 4))
    places = [(0,), (0, 0), (1,), (0, 1), (1, 0), (10, 1), (1, 1), (1, 0, 1), (2**32 + 1,), (2**32,), (-1,)]
    assert len({tuple(draw(*position).tolist()) for position in places}) == len(places)
    assert len({generator(0, step).initial_seed() & 0xFFFFFFFF for step in range(2000)}) == 2000


def test_the_noise_of_known_values_is_separate() -> None:
    noise = RowNoise.of(3, 4).at(5)
    known_noise, free = noise.held_normal((1000,)), noise.normal((1000,))
    assert torch.equal(known_noise, noise.held_normal((1000,))) and known_noise.dtype == torch.float32
    assert abs(float((known_noise * free).mean())) < 4 / 4000**0.5
    assert torch.equal(noise.select([2]).held_normal((1000,))[0], known_noise[2])
