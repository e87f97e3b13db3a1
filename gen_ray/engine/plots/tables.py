"""A picture of a table's real and synthetic rows: marginals and dependence of pairs, as a uint8 array."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gen_ray.engine.plots.lines import pixels

MAX_COLUMNS = 30
PER_ROW = 5
BARS = 20
"""Intervals of an ordered column, and largest number of categories that have a bar."""
WIDTH, LINE, TITLE, MATRICES, SIDE = 10.0, 1.1, 0.3, 4.0, 2.5
"""Sizes in inches: the picture's width, a line of marginals, a title, the lower part, and one of its matrices."""
LEFT = (0.95, 3.6, 6.75)
"""Distance of the matrices from the left, in inches."""
STRIP = 0.2
"""Height of half the strip with the difference, as a share of the height of the marginals."""
REAL, SYNTHETIC, DIFFERENCE = "#b8b8b8", "#1f5fa8", "#c83c3c"


@dataclass(frozen=True, kw_only=True)
class Marginals:
    """A column's title, its values in real rows (N,) and in synthetic rows (M,), NaN where missing, and its kind."""

    title: str
    real: np.ndarray
    synthetic: np.ndarray
    is_ordered: bool

    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the shares of real and of synthetic values in each bar (at most BARS,); zeros without real values.

        The outer intervals of an ordered column are unbounded. Categories are in the order of their frequency.
        """
        real, synthetic = (x[~np.isnan(x)] for x in (self.real, self.synthetic))
        if not len(real) or not len(synthetic):
            return np.zeros(1), np.zeros(1)
        if self.is_ordered:
            low, high = np.quantile(real[np.isfinite(real)], [0.005, 0.995]) if np.isfinite(real).any() else (0.0, 1.0)
            edges = np.linspace(low, high if high > low else low + 1, BARS + 1)[1:-1]
            places = [np.searchsorted(edges, x, side="right") for x in (real, synthetic)]
        else:
            values, counts = np.unique(real, return_counts=True)
            frequent = values[np.argsort(-counts, kind="stable")][: BARS - 1]
            rank = {value: i for i, value in enumerate(frequent.tolist())}
            places = [np.array([rank.get(v, len(frequent)) for v in x.tolist()]) for x in (real, synthetic)]
        size = max(int(place.max()) for place in places) + 1
        a, b = (np.bincount(place, minlength=size) / len(place) for place in places)
        return a, b


def comparison(
    marginals: Sequence[Marginals],
    names: Sequence[str],
    real: np.ndarray,
    synthetic: np.ndarray,
    *,
    note: str = "",
) -> np.ndarray:
    """Return the picture of D columns, uint8 (H, W, 3).

    Above: for each column the shares of real values (grey), of synthetic values (line) and their difference (red).
    Below: the dependence (D, D) of pairs in real rows, in synthetic rows, and the difference. note extends the title.
    """
    lines = -(-len(marginals) // PER_ROW)
    upper, lower = LINE * lines + TITLE, MATRICES
    figure = Figure(figsize=(WIDTH, upper + lower), dpi=100)
    _draw_marginals(figure, marginals, upper, note)
    _draw_dependence(figure, names, real, synthetic)
    return pixels(figure)


def _place(figure: Figure, left: float, top: float, width: float, height: float) -> Any:
    """Return new axes at a place in inches from the upper left corner. An automatic layout would take seconds."""
    total_width, total_height = figure.get_size_inches()
    place = (left / total_width, 1 - (top + height) / total_height, width / total_width, height / total_height)
    return figure.add_axes(place)


def _draw_marginals(figure: Figure, marginals: Sequence[Marginals], upper: float, note: str) -> None:
    shares = [one.shares() for one in marginals]
    scale = max(0.01, *(float(np.abs(b - a).max()) for a, b in shares))
    width = (WIDTH - 0.2) / PER_ROW
    for index, (one, (a, b)) in enumerate(zip(marginals, shares, strict=True)):
        row, column = divmod(index, PER_ROW)
        axes = _place(figure, 0.1 + column * width, TITLE + row * LINE + 0.25, width - 0.12, LINE - 0.3)
        top, edges = max(float(a.max()), float(b.max()), 1e-9), np.arange(len(a) + 1) - 0.5
        axes.stairs(a / top, edges, fill=True, color=REAL)
        axes.stairs(b / top, edges, color=SYNTHETIC, linewidth=1)
        axes.stairs(-STRIP + (b - a) / scale * STRIP, edges, baseline=-STRIP, fill=True, color=DIFFERENCE)
        axes.axhline(-STRIP, color="black", linewidth=0.4)
        axes.set_ylim(-2 * STRIP, 1.02)
        axes.set_axis_off()
        axes.set_title(_shortened(one.title, 34), fontsize=8, pad=2)
    text = f"real (grey), synthetic (line), difference (red, to ±{100 * scale:.2g} %); column-shape error in %"
    total = figure.get_size_inches()[1]
    figure.text(0.5, 1 - 0.16 / total, f"{text}; {note}" if note else text, fontsize=9, ha="center", va="center")
    pairs = "dependence of pairs: correlation of ordered columns, else Cramér's V"
    figure.text(0.5, 1 - (upper + 0.16) / total, pairs, fontsize=9, ha="center", va="center")


def _draw_dependence(figure: Figure, names: Sequence[str], real: np.ndarray, synthetic: np.ndarray) -> None:
    difference, top = synthetic - real, figure.get_size_inches()[1] - MATRICES + 0.5
    limit = max(0.02, float(np.nanmax(np.abs(difference), initial=0)))
    short = [_shortened(name, 14) for name in names]
    size = 7 if len(names) <= 15 else 5
    panels = {"real": (real, 1.0), "synthetic": (synthetic, 1.0), "difference": (difference, limit)}
    for index, (left, (title, (values, most))) in enumerate(zip(LEFT, panels.items(), strict=True)):
        axes = _place(figure, left, top, SIDE, SIDE)
        drawn = axes.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most)
        axes.set_title(title, fontsize=9, pad=3)
        axes.set_xticks(range(len(short)), short, rotation=90, fontsize=size)
        axes.set_yticks(range(len(short)), short if index == 0 else [""] * len(short), fontsize=size)
        if index:
            bar = figure.colorbar(drawn, cax=_place(figure, left + SIDE + 0.05, top, 0.08, SIDE))
            bar.ax.tick_params(labelsize=7, pad=1)


def _shortened(text: str, most: int) -> str:
    """Return a text on one line, with its end replaced by … if it is longer than ``most`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
