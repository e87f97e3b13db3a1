"""Pictures: the place of every pixel. Generation: samples depend on seed and number only."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gen_ray.dataspec import DataSpec
from gen_ray.engine.inference import samples
from gen_ray.engine.inference.chunks import chunks
from gen_ray.engine.inference.generate import generate
from gen_ray.engine.plots.grids import MISSING_COLOUR, contact_sheet, grid, panel, uncertainty_map
from gen_ray.errors import UserError
from gen_ray.maths.noise import RowNoise
from tests.engine.tiny_models import CPU, images, model


@pytest.mark.parametrize(("n", "columns"), [(1, None), (5, None), (5, 2), (7, 7), (4, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_tile_is_in_its_place_and_enlarged_by_an_integer(n: int, columns: int | None, channels: int) -> None:
    x = torch.randint(17, (n, channels, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    picture, across = grid(x, levels=17, columns=columns, tile_pixels=9), columns or int(np.ceil(np.sqrt(n)))
    rows, gap = -(-n // across), grid(x[[0, 0]], columns=2, tile_pixels=9).shape[1] - 2 * 8  # two of 4 pixels, doubled
    assert picture.dtype == np.uint8 and gap > 0
    assert picture.shape == (rows * (6 + gap) - gap, across * (8 + gap) - gap, 3)
    covered = np.zeros(picture.shape[:2], bool)
    for i in range(n):
        top, left = i // across * (6 + gap), i % across * (8 + gap)
        covered[top : top + 6, left : left + 8] = True
        for c in range(3):
            tile = np.round(x[i, c % channels].numpy() * (255 / 16)).astype(np.uint8)
            assert (picture[top : top + 6, left : left + 8, c] == np.kron(tile, np.ones((2, 2)))).all()
    assert (picture[~covered] == 255).all()


@pytest.mark.parametrize("levels", [2, 17, 256, 1000])
def test_the_grey_scale_runs_from_black_to_white(levels: int) -> None:
    x = torch.tensor([0, levels - 1]).view(1, 1, 1, 2)
    picture = grid(x.to(torch.uint8 if levels <= 256 else torch.int32), levels=levels, tile_pixels=2)
    assert picture[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels_are_shown_too(channels: int) -> None:
    x = torch.randint(256, (1, channels, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    picture, expected = grid(x, tile_pixels=2), (0, 1, 2) if channels > 2 else (0, 0, 0)
    assert (picture == x[0, list(expected)].permute(1, 2, 0).numpy()).all()


def test_large_images_are_not_shrunk() -> None:
    assert grid(torch.zeros(1, 1, 100, 90, dtype=torch.uint8)).shape == (100, 90, 3)


def test_a_panel_shows_its_pictures_side_by_side() -> None:
    left, right = np.full((20, 30, 3), 10, np.uint8), np.full((40, 10, 3), 200, np.uint8)
    out = panel({"left": left, "right": right})
    assert out.shape[0] == 40 + 28 + 16 and out.shape[1] > 16 + 30 + 16 + 10 + 16, (
        "its title is wider than the right one"
    )
    assert (out[28:48, 16:46] == 10).all() and (out[28:68, 62:72] == 200).all()
    assert (out[:28, 16:46] < 128).any() and (out[:28, 46:62] == out[:, -16:].max()).all()
    assert (out[28:, 46:62] == 255).all() and (out[:, -16:] == 255).all()
    rows = contact_sheet([{"left": left}, {"right": right}])
    assert rows.shape[0] == 28 + 20 + 16 + 28 + 40 + 16 and (rows[28:48, 16:46] == 10).all()
    assert (rows[92:132, 16:26] == 200).all()


def test_shades_run_from_black_through_the_colour_of_missing_values_to_white() -> None:
    shades = uncertainty_map(torch.tensor([0.0, 0.2, 0.4]).view(1, 1, 1, 3))[0, :, 0]
    assert shades.dtype == torch.uint8 and shades.T.tolist() == [[0, 0, 0], list(MISSING_COLOUR), [255, 255, 255]]
    assert (uncertainty_map(torch.zeros(1, 1, 1, 3)) == 0).all()


def test_samples_are_saved_unchanged(tmp_path: Path) -> None:
    x, spec = images(5), DataSpec(name="x", kind="image", shape=(1, 4, 4), levels=17)
    samples.save(tmp_path / "x.npz", x, spec)
    assert (np.load(tmp_path / "x.npz")["samples"] == x.numpy()).all()
    samples.save(tmp_path / "x.png", x, spec)
    assert (np.asarray(Image.open(tmp_path / "x.png")) == grid(x, levels=17)).all()
    with pytest.raises(UserError, match=r"nowhere.*cannot be written"):
        samples.save(tmp_path / "nowhere" / "x.npz", x, spec)


@pytest.mark.parametrize("family", ["vae", "ddpm"])
def test_a_sample_is_a_function_of_seed_and_number(family: str) -> None:
    now = model(family)
    chain = now.family.chain(list(now.family.samplers())[1])  # one that draws noise on the way

    def made(n: int, seed: int = 0, first: int = 0) -> torch.Tensor:
        return generate(now.net, chain, n, seed=seed, device=CPU, batch_size=5, first=first).int()

    whole = made(12)
    assert torch.equal(made(12), whole) and not torch.equal(made(12, seed=1), whole)
    for first, n in ((0, 3), (3, 9), (11, 1), (4, 6)):
        assert (made(n, first=first) - whole[first : first + n]).abs().max() <= 1
    huge = made(2, seed=2**63 + 1, first=2**40)
    assert torch.equal(huge, made(2, seed=2**63 + 1, first=2**40))


def test_each_tick_has_its_own_noise_and_row() -> None:
    """The start is drawn at tick 0; evaluation i happens at tick i with row i of the table."""
    now, draws = model("ddpm"), []

    class Recording:
        def start(self, noise: RowNoise, device: torch.device, known: object = None) -> dict[str, torch.Tensor]:
            draws.append((noise.ticks.tolist(), noise.rows.tolist(), None))
            return {"x": torch.zeros(noise.batch)}

        def tick(self, net: object, state: dict, rows: torch.Tensor, noise: RowNoise) -> dict:
            draws.append((noise.ticks.tolist(), noise.rows.tolist(), rows))
            return state

        def finish(self, state: dict) -> torch.Tensor:
            return state["x"]

    chain = dataclasses.replace(now.family.chain("ddim", 4), stepper=Recording())
    generate(now.net, chain, 3, seed=0, device=CPU, batch_size=2, first=10)
    for part, rows in enumerate(([10, 11], [12])):
        for tick in range(5):
            ticks, numbers, table = draws[part * 5 + tick]
            assert ticks == [tick] * len(rows) and numbers == rows
            assert table is None or torch.equal(table, chain.table[tick - 1].expand(len(rows), -1))


@pytest.mark.parametrize(("total", "size"), [(0, 3), (7, 3), (6, 3), (2, 100)])
def test_chunks_cover_the_range(total: int, size: int) -> None:
    parts = list(chunks(total, size))
    assert [i for first, end in parts for i in range(first, end)] == list(range(total))
    assert all(0 < end - first <= size for first, end in parts)
