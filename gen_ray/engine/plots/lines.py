"""Line plots as uint8 arrays."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter

Curve = Sequence[tuple[float, float]]
MAX_TICKS = 8
"""Maximum number of labels on a logarithmic axis."""
MARKERS = "oDs"
"""Shapes around the marked points of ``cost_quality``."""


def panels(curves: Mapping[str, Mapping[str, Curve]], *, x: str) -> np.ndarray:
    """Return one panel per quantity with a line of points (x, y) per name, uint8 (H, W, 3); y is logarithmic."""
    figure = Figure(figsize=(5.2 * len(curves), 3.8), dpi=110, layout="constrained")
    for axes, (quantity, lines) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
        axes.set(xlabel=x, ylabel=quantity)
        set_log_scale(axes, "y")
        axes.grid(visible=True, which="both", alpha=0.25)
        axes.legend(frameon=False)
    return pixels(figure)


def set_log_scale(axes: Axes, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with round numbers as labels that do not overlap. Call it after plotting.

    Matplotlib's own labels of a range within two decades, such as 3 × 10⁻³ and 4 × 10⁻³, overlap.
    """
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(_round_numbers(*sorted(axis.get_view_interval()))))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _round_numbers(low: float, high: float) -> list[float]:
    """Return at most MAX_TICKS round numbers from low to high, both positive."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    stride = math.ceil(len(decades) / MAX_TICKS)
    for digits in (range(1, 10), (1, 2, 5), (1, 3), (1,)):
        found = [digit * 10.0**decade for decade in decades[::stride] for digit in digits]
        inside = [number for number in found if low <= number <= high]
        if 3 <= len(inside) <= MAX_TICKS:
            return inside
    return [number for number in MaxNLocator(5).tick_values(low, high) if low <= number <= high]


def pixels(figure: Figure) -> np.ndarray:
    """Render a figure as uint8 (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def cost_quality(lines: Mapping[str, Curve], marks: Mapping[str, tuple[float, float]], *, quality: str) -> np.ndarray:
    """Plot a line of points (seconds per sample, quality) per sampler, and the marked points, uint8 (H, W, 3)."""
    return pixels(cost_quality_figure(lines, marks, quality=quality))


def cost_quality_figure(
    lines: Mapping[str, Curve], marks: Mapping[str, tuple[float, float]], *, quality: str
) -> Figure:
    """Return the figure of ``cost_quality``. Its legend is beside the plot, so that it does not hide points."""
    figure = Figure(figsize=(7.2, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, linewidth=1, label=name)
    names_by_point: dict[tuple[float, float], list[str]] = {}
    for name, point in marks.items():
        names_by_point.setdefault(point, []).append(name)
    for marker, (point, names) in zip(itertools.cycle(MARKERS), names_by_point.items(), strict=False):
        (outline,) = axes.plot(*point, marker, color="black", fillstyle="none", label=", ".join(names))
        outline.set_markersize(11)
    axes.set(xlabel="seconds per sample", ylabel=f"{quality} (lower is better)")
    axes.margins(x=0.06, y=0.08)
    set_log_scale(axes, "x")
    set_log_scale(axes, "y")
    axes.grid(visible=True, which="both", alpha=0.25)
    figure.legend(frameon=False, loc="outside right upper")
    return figure
