"""Plots of a sweep by Optuna and matplotlib, uint8 (H, W, 3)."""

import warnings
from collections.abc import Callable
from io import BytesIO

import matplotlib as mpl
import numpy as np
import optuna.visualization.matplotlib as draw
from matplotlib.axes import Axes
from matplotlib.category import StrCategoryFormatter
from matplotlib.figure import Figure
from optuna.importance import PedAnovaImportanceEvaluator
from PIL import Image

from gen_ray.engine.evaluation.pareto import pareto_front
from gen_ray.engine.plots.lines import pixels, set_log_scale
from gen_ray.metrics import SECONDS_PER_IMAGE
from gen_ray.sweeps.parallel import parallel_coordinates
from gen_ray.sweeps.study import FINISHED, Study, TrialResult

LABEL = 24
"""Maximum number of characters of a choice's name."""


def pictures(study: Study) -> dict[str, np.ndarray]:
    """Return the plots of the trials so far, uint8 (H, W, 3) by name, or none before two trials have finished.

    The importance of keys needs at least two keys that all trials have.
    """
    if len(study.best()) < 2:
        return {}
    metric, inner = study.sweep.metric, study.plotted()
    shared = [key for key in study.sweep.space if all(key in result.point for result in study.results())]
    made: dict[str, Callable[[], object]] = {
        "metric_against_each_key": lambda: draw.plot_slice(inner, target_name=metric),
    }
    if len(shared) > 1:
        made["importance"] = lambda: draw.plot_param_importances(
            inner, evaluator=PedAnovaImportanceEvaluator(), params=shared, target_name=metric
        )
    found = {name: _rendered(plot) for name, plot in made.items()}
    trials = [(result.point, result.value or 0.0) for result in study.best()]
    found["parallel_coordinates"] = parallel_coordinates(trials, study.sweep.space, metric, study.sweep.sign)
    return {**found, "quality_against_cost": pareto(study.results(), metric, study.sweep.sign)}


def pareto(results: list[TrialResult], metric: str, sign: int) -> np.ndarray:
    """Return a plot, uint8 (H, W, 3), of the finished trials by cost and metric, with the Pareto front."""
    cost = SECONDS_PER_IMAGE.name
    finished = {r.number: r.metrics for r in results if r.state == FINISHED and {metric, cost} <= r.metrics.keys()}
    points = {number: (found[cost], sign * found[metric]) for number, found in finished.items()}
    figure = Figure(figsize=(6, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    if points:
        axes.scatter(*zip(*((seconds, sign * loss) for seconds, loss in points.values()), strict=True))
        best = pareto_front(points.values(), lambda point: point)
        axes.step([seconds for seconds, _ in best], [sign * loss for _, loss in best], where="post", color="tab:red")
        for number, (seconds, loss) in points.items():
            place = (seconds, sign * loss)
            axes.annotate(f"{number:03d}", place, xytext=(4, 4), textcoords="offset points", fontsize=8)
        set_log_scale(axes, "x")
    axes.set(xlabel=SECONDS_PER_IMAGE.label, ylabel=metric)
    axes.grid(visible=True, which="both", alpha=0.25)
    return pixels(figure)


def _rendered(plot: Callable[[], object]) -> np.ndarray:
    mpl.use("agg")
    # Optuna sets its own style. A name may contain a dollar sign, which must not start a formula.
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings(action="ignore"):
        drawn = plot()
    each: list[Axes] = list(np.ravel(np.asarray(drawn, dtype=object)))
    figure, buffer = each[0].get_figure(root=True), BytesIO()
    assert figure is not None, "Optuna's axes are of a figure"
    for axes in each:
        _turn_long_labels(axes)
    figure.savefig(buffer, format="png", bbox_inches="tight", dpi=110)
    return np.asarray(Image.open(buffer, formats=("PNG",)).convert("RGB"))


def _turn_long_labels(axes: Axes) -> None:
    """Shorten and rotate the names of choices below an axis, so that they do not overlap."""
    if isinstance(axes.xaxis.get_major_formatter(), StrCategoryFormatter):
        names = [text.get_text().strip("'") for text in axes.get_xticklabels()]
        short = [name if len(name) <= LABEL else f"{name[: LABEL - 1]}…" for name in names]
        axes.set_xticks(axes.get_xticks(), short)
        if sum(map(len, short)) > LABEL // 2:
            axes.tick_params(axis="x", labelrotation=30)
            for text in axes.get_xticklabels():
                text.set_horizontalalignment("right")
