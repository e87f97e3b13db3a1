"""Plot of a sweep in parallel coordinates: an axis for the metric and each key, a line for each finished trial."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from gen_ray.engine.plots.lines import pixels
from gen_ray.sweeps.axes import Point, Scalar, SearchAxis, label

LABEL = 22
"""Maximum number of characters of a label's line. Longer labels are wrapped."""
LINES = 3
"""Maximum number of lines of a label."""
CHARACTER, LINE, GAP = 0.075, 0.16, 0.5
"""Sizes in inches: width of a character, height of a line of text, distance of a label and the next axis."""
UNSET = -0.12
"""Height on an axis of trials in which the key is not set."""
APART = 0.05
"""Minimum difference in height of an inner label and the ends of its axis."""


@dataclass(frozen=True)
class ParallelAxis:
    """An axis of the plot: the height in [0, 1] of a value, and labels by their heights."""

    name: str
    height: Callable[[Scalar], float]
    labels: Mapping[float, str]

    @property
    def width(self) -> float:
        """Return the width in inches of the axis with its labels."""
        words = [line for text in self.labels.values() for line in text.splitlines()]
        longest = max(len(word) for word in [*words, *_broken(self.name).splitlines()])
        return longest * CHARACTER + GAP


def parallel_coordinates(
    trials: Sequence[tuple[Point, float]], space: Mapping[str, SearchAxis], metric: str, sign: int
) -> np.ndarray:
    """Return the plot, uint8 (H, W, 3), of trials (point, value of the metric). The best trial is red."""
    return pixels(draw(trials, space, metric, sign))


def draw(trials: Sequence[tuple[Point, float]], space: Mapping[str, SearchAxis], metric: str, sign: int) -> Figure:
    """Return the figure of ``parallel_coordinates``."""
    scales = [_numbers(metric, [value for _, value in trials]), *(_scale(key, space[key]) for key in space)]
    unset = any(key not in point for point, _ in trials for key in space)
    places = np.cumsum([0.3, *(scale.width for scale in scales)])
    height = max(4.0, *(2 * LINE * sum(text.count("\n") + 1 for text in scale.labels.values()) for scale in scales))
    with mpl.rc_context({"text.parse_math": False}):  # a name may hold a dollar sign
        figure = Figure(figsize=(places[-1], height + 1.2), dpi=110)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, places[-1]), ylim=(-0.2, 1.2))
        axes.axis("off")
        for scale, x in zip(scales, places, strict=False):
            axes.plot([x, x], [0, 1], color="black", linewidth=1)
            axes.text(x, 1.06, _broken(scale.name), fontsize=9, fontweight="bold", ha="left")
            for y, text in {**scale.labels, **({UNSET: "not set"} if unset and scale.name in space else {})}.items():
                box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.5}
                axes.text(x + 0.06, y, text, fontsize=8, va="center", bbox=box, zorder=3)
        ordered = sorted(trials, key=lambda trial: -sign * trial[1])
        for rank, (point, value) in enumerate(ordered):
            values = [scales[0].height(value), *(_height(scale, point) for scale in scales[1:])]
            best = rank == len(ordered) - 1
            share = (rank + 1) / len(ordered)
            axes.plot(
                places[:-1],
                values,
                color="tab:red" if best else mpl.colormaps["Blues"](0.2 + 0.8 * share),
                linewidth=2 if best else 1,
                zorder=2.5 if best else 2,
            )
    return figure


def _height(scale: ParallelAxis, point: Point) -> float:
    return scale.height(point[scale.name]) if scale.name in point else UNSET


def _scale(key: str, axis: SearchAxis) -> ParallelAxis:
    """Return the axis of a key: its choices at equal distances, or its range."""
    if axis.choice is None:
        low, high = axis.ends
        return _numbers(key, [low, high], logarithmic=axis.loguniform is not None)
    numbers = all(isinstance(choice, int | float) for choice in axis.choice)
    words = list(dict.fromkeys(map(label, sorted(axis.choice) if numbers else axis.choice)))
    at = {word: i / max(1, len(words) - 1) for i, word in enumerate(words)}
    return ParallelAxis(key, lambda value: at[label(value)], {at[word]: _broken(str(word)) for word in words})


def _numbers(name: str, values: Sequence[float], *, logarithmic: bool = False) -> ParallelAxis:
    """Return an axis from the smallest to the largest of values, with round numbers as labels."""
    low, high = min(values), max(values)
    to = math.log10 if logarithmic else float

    def height(value: Scalar) -> float:
        return (to(float(value or 0)) - to(low)) / ((to(high) - to(low)) or 1.0)

    ticks = (LogLocator(numticks=6) if logarithmic else MaxNLocator(5)).tick_values(low, high)
    inside = [low, *(tick for tick in ticks if APART < height(tick) < 1 - APART), high]
    return ParallelAxis(name, height, {height(tick): f"{tick:.4g}" for tick in inside})


def _broken(text: str) -> str:
    """Return a text in lines of at most LABEL characters."""
    lines = textwrap.wrap(text, LABEL)
    return "\n".join(lines[:LINES]) + ("…" if len(lines) > LINES else "")
