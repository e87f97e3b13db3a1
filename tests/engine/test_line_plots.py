"""Line plots: the labels of logarithmic axes are round numbers that do not overlap, and the legend hides no point."""

import itertools
from typing import Literal

import numpy as np
import pytest
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from gen_ray.engine.plots.lines import cost_quality, cost_quality_figure, panels, set_log_scale

RANGES = [
    (1.6e-3, 4e-2), (0.0089, 0.0091), (0.95, 9.9), (0.3, 320.0), (1e-7, 1e9), (1.0, 2.1), (2.9, 9.1), (0.05, 60.0),
]  # fmt: skip
LINES = {"heun": [(1.7e-3, 43.0), (0.0097, 8.2), (0.037, 1.36)], "ddim": [(0.0088, 1.41), (0.0256, 1.38)]}


def labels(figure: Figure, axis: Axis) -> list[tuple[str, Bbox]]:
    """Return the text and place, in pixels, of each label of an axis, of major and minor ticks."""
    FigureCanvasAgg(figure).draw()
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()) if low <= tick.get_loc() <= high]
    return [(tick.label1.get_text(), tick.label1.get_window_extent()) for tick in ticks if tick.label1.get_text()]


def overlapping(places: list[Bbox]) -> list[tuple[Bbox, Bbox]]:
    return [(a, b) for a, b in itertools.combinations(places, 2) if a.overlaps(b)]


@pytest.mark.parametrize("which", ["x", "y"])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_labels_of_a_logarithmic_axis_do_not_overlap(low: float, high: float, which: Literal["x", "y"]) -> None:
    figure = Figure(figsize=(5.2, 3.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot([low, high], [low, high])
    set_log_scale(axes, which)
    found = labels(figure, axes.xaxis if which == "x" else axes.yaxis)
    assert 2 <= len({text for text, _ in found}) == len(found)
    assert not overlapping([place for _, place in found])


def test_matplotlibs_own_labels_overlap_for_the_first_range() -> None:
    figure = Figure(figsize=(5.2, 3.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot(RANGES[0], [1, 2])
    axes.set(xscale="log")
    assert overlapping([place for _, place in labels(figure, axes.xaxis)])


def test_labels_are_the_numbers_of_their_ticks() -> None:
    figure = cost_quality_figure(LINES, {"best": LINES["ddim"][1]}, quality="distance")
    assert [text for text, _ in labels(figure, figure.axes[0].xaxis)] == ["0.002", "0.005", "0.01", "0.02"]
    assert [text for text, _ in labels(figure, figure.axes[0].yaxis)] == ["2", "5", "10", "20", "50"]


def test_the_legend_beside_the_plot_names_samplers_and_marks() -> None:
    fast, best = LINES["ddim"]
    marks = {"fast": fast, "balanced": best, "best": best}
    figure = cost_quality_figure(LINES, marks, quality="distance")
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["heun", "ddim", "fast", "balanced, best"]
    assert not legend.get_window_extent().overlaps(figure.axes[0].get_window_extent())
    places = [line.get_xydata() for line in figure.axes[0].lines]
    assert np.allclose(np.concatenate(places[2:]), [fast, best])
    picture = cost_quality(LINES, marks, quality="distance")
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and (picture == 0).any()


def test_panels_have_equal_heights() -> None:
    one = panels({"distance": LINES}, x="minutes")
    assert panels({"distance": LINES, "loss": LINES}, x="minutes").shape == (one.shape[0], 2 * one.shape[1], 3)
