"""Line plots as uint8 arrays."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Curve = Sequence[tuple[float, float]]


def panels(curves: Mapping[str, Mapping[str, Curve]], *, x: str) -> np.ndarray:
    """Return one panel per quantity with a line of points (x, y) per name, uint8 (H, W, 3); y is logarithmic."""
    figure = Figure(figsize=(5.2 * len(curves), 3.8), dpi=110, layout="constrained")
    for axes, (quantity, lines) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
        axes.set(xlabel=x, ylabel=quantity, yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")  # a range within one decade may have only minor ticks
        axes.grid(visible=True, which="both", alpha=0.25)
        axes.legend(frameon=False)
    return pixels(figure)


def pixels(figure: Figure) -> np.ndarray:
    """Render a figure as uint8 (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def cost_quality(lines: Mapping[str, Curve], marks: Mapping[str, tuple[float, float]], *, quality: str) -> np.ndarray:
    """Plot a line of points (seconds per sample, quality) per sampler, the marked points labelled, uint8 (H, W, 3)."""
    figure = Figure(figsize=(7.2, 4.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, linewidth=1, label=name)
    names_by_point: dict[tuple[float, float], list[str]] = {}
    for name, point in marks.items():
        names_by_point.setdefault(point, []).append(name)
    for point, names in names_by_point.items():
        axes.plot(*point, marker="o", markersize=11, fillstyle="none", color="black", linestyle="none")
        axes.annotate(", ".join(names), point, xytext=(8, 8), textcoords="offset points", fontweight="bold")
    axes.set(xlabel="seconds per sample", ylabel=f"{quality} (lower is better)", xscale="log", yscale="log")
    axes.margins(x=0.12, y=0.12)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(frameon=False)
    return pixels(figure)
